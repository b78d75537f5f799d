/** jinja2's filters on sequences: pick, sort, group and slice. */
import { TemplateFault } from "./fault.ts";
import {
  compare,
  Dict,
  hashed,
  isEqual,
  isTrue,
  iterate,
  type Kwargs,
  Tuple,
  typeName,
  Undefined,
  type Value,
  wholeOf,
} from "./values.ts";

/** What filters need from the interpreter. */
export interface FilterContext {
  /** `object[key]`, else its attribute, else Undefined. */
  item(object: Value, key: Value): Value;
  attributeOnly(object: Value, name: string): Value;
  filter(name: string, value: Value, args: readonly Value[], kwargs: Kwargs): Value;
  test(name: string, value: Value, args: readonly Value[]): boolean;
}

export type Named = Readonly<Record<string, Value | undefined>>;
export type Filter = (value: Value, named: Named, context: FilterContext) => Value;

/** A pair from `groupby`, a tuple whose two parts have names. */
export class Group extends Tuple {}

export function int(value: Value | undefined, fallback: number): number {
  return value === undefined || value === null ? fallback : Number(wholeOf(value));
}

/** What `attribute="a.b.0"` picks from an item. */
export function getter(
  context: FilterContext,
  attribute: Value | undefined,
  fallback: Value = null,
): (item: Value) => Value {
  if (attribute === undefined || attribute === null) return (item) => item;
  const parts =
    typeof attribute === "string"
      ? attribute.split(".").map((part) => (/^\d+$/.test(part) ? BigInt(part) : part))
      : [attribute];
  return (item) =>
    parts.reduce<Value>((object, part) => {
      const found = context.item(object, part);
      return found instanceof Undefined && fallback !== null ? fallback : found;
    }, item);
}

export function caseOf(named: Named): (value: Value) => Value {
  return isTrue(named.case_sensitive ?? false)
    ? (value) => value
    : (value) => (typeof value === "string" ? value.toLowerCase() : value);
}

export function sortedBy(items: readonly Value[], keyOf: (item: Value) => Value, isReverse: boolean): Value[] {
  const keyed = items.map((item) => [keyOf(item), item] as const);
  const sign = isReverse ? -1 : 1;
  return keyed.sort(([a], [b]) => sign * compare(a, b, "<")).map(([, item]) => item);
}

export function extreme(sign: number): Filter {
  return (value, named, context) => {
    const items = iterate(value);
    if (items.length === 0) return new Undefined("No aggregated item, sequence was empty.");
    const [pick, fold] = [getter(context, named.attribute), caseOf(named)];
    const keyOf = (item: Value) => fold(pick(item));
    return items.reduce((best, item) => (sign * compare(keyOf(item), keyOf(best), "<") > 0 ? item : best));
  };
}

export function* slices(value: Value, named: Named): Generator<Value> {
  const items = iterate(value);
  const count = int(named.slices, 1);
  const [each, extra] = [Math.floor(items.length / count), items.length % count];
  let offset = 0;
  for (let i = 0; i < count; i++) {
    const start = offset + i * each;
    if (i < extra) offset++;
    const part = items.slice(start, offset + (i + 1) * each);
    yield named.fill_with !== undefined && named.fill_with !== null && i >= extra ? [...part, named.fill_with] : part;
  }
}

export function* batches(value: Value, named: Named): Generator<Value> {
  const [items, size] = [iterate(value), Math.max(1, int(named.linecount, 1))];
  for (let at = 0; at < items.length; at += size) {
    const part = items.slice(at, at + size);
    const fill = named.fill_with ?? null;
    yield fill === null ? part : [...part, ...Array.from({ length: size - part.length }, () => fill)];
  }
}

export function groupBy(value: Value, named: Named, context: FilterContext): Value {
  const pick = getter(context, named.attribute, named.default ?? null);
  const fold = caseOf(named);
  const groups: { readonly key: Value; readonly items: Value[] }[] = [];
  for (const item of sortedBy(iterate(value), (each) => fold(pick(each)), false)) {
    const last = groups.at(-1);
    if (last !== undefined && isEqual(fold(last.key), fold(pick(item)))) last.items.push(item);
    else groups.push({ key: pick(item), items: [item] });
  }
  return groups.map(({ key, items }) => new Group([key, items]));
}

export function* unique(value: Value, named: Named, context: FilterContext): Generator<Value> {
  const [pick, fold] = [getter(context, named.attribute), caseOf(named)];
  const seen = new Set<unknown>();
  for (const item of iterate(value)) {
    const key = hashed(fold(pick(item)));
    if (!seen.has(key)) yield item;
    seen.add(key);
  }
}

export function dictSort(value: Value, named: Named): Value {
  if (!(value instanceof Dict)) throw new TemplateFault(`'${typeName(value)}' object has no attribute 'items'`);
  const by = named.by ?? "key";
  if (by !== "key" && by !== "value") throw new TemplateFault('You can only sort by either "key" or "value"');
  const fold = caseOf(named);
  const entries = value.entries().map((entry) => new Tuple(entry));
  return sortedBy(
    entries,
    (entry) => fold((entry as Tuple).items[by === "key" ? 0 : 1]!),
    isTrue(named.reverse ?? false),
  );
}
