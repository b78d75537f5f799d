/**
 * Metrics of a loss evaluated in parts: each part keeps sums, and the parts fold into one number per name.
 */

interface Mean {
  readonly fold: "mean";
  sum: number;
  count: number;
}
interface Total {
  readonly fold: "sum";
  sum: number;
}
interface Extreme {
  readonly fold: "min" | "max";
  value: number;
}

/** Metrics of one part (a micro-batch), not yet folded, by name. */
export type MetricParts = Map<string, Mean | Total | Extreme>;

/** Adds `count` values whose sum is `sum` to a mean. */
export function addMean(parts: MetricParts, name: string, sum: number, count: number): void {
  const part = parts.get(name);
  if (part?.fold === "mean") {
    part.sum += sum;
    part.count += count;
  } else parts.set(name, { fold: "mean", sum, count });
}

export function addTotal(parts: MetricParts, name: string, value: number): void {
  const part = parts.get(name);
  if (part?.fold === "sum") part.sum += value;
  else parts.set(name, { fold: "sum", sum: value });
}

export function addExtreme(parts: MetricParts, name: string, fold: "min" | "max", value: number): void {
  const part = parts.get(name);
  if (part?.fold === fold) part.value = fold === "min" ? Math.min(part.value, value) : Math.max(part.value, value);
  else parts.set(name, { fold, value });
}

/**
 * One number per name, over all parts of an optimizer step. A mean over nothing is null (TRL logs 0, which for an
 * entropy would look like a collapse); a minimum or maximum over nothing is left out.
 */
export function foldMetrics(all: readonly MetricParts[]): Record<string, number | null> {
  const folded: MetricParts = new Map();
  for (const parts of all) {
    for (const [name, part] of parts) {
      if (part.fold === "mean") addMean(folded, name, part.sum, part.count);
      else if (part.fold === "sum") addTotal(folded, name, part.sum);
      else addExtreme(folded, name, part.fold, part.value);
    }
  }
  const values: Record<string, number | null> = {};
  for (const [name, part] of folded) {
    if (part.fold === "mean") values[name] = part.count === 0 ? null : part.sum / part.count;
    else values[name] = part.fold === "sum" ? part.sum : part.value;
  }
  return values;
}
