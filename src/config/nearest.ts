/** "Did you mean": the known name that is fewest keystrokes away from a mistyped one. */

/** Optimal string alignment distance: insert, delete, replace, or swap two neighbours, each 1. */
export function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let cost = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + (same ? 0 : 1));
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) cost = Math.min(cost, beforeLast[j - 2]! + 1);
      row.push(cost);
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length]!;
}

/**
 * The nearest of `known`, or undefined where none is within a third of the name's length (at least 2 keystrokes).
 * A name that is a known one's beginning or end (`generations`, `max_completion`) counts as near too.
 */
export function nearest(name: string, known: Iterable<string>): string | undefined {
  const limit = Math.max(2, Math.floor(name.length / 3));
  let best: string | undefined;
  let bestDistance = limit + 1;
  let partial: string | undefined;
  for (const candidate of known) {
    const distance = name.length > 100 ? Infinity : editDistance(name, candidate);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
    if (name.length >= 4 && (candidate.startsWith(name) || candidate.endsWith(name))) partial ??= candidate;
  }
  return best ?? partial;
}
