/**
 * The order in which gradient shards are summed: a binary tree over their indices, whose form depends on their number
 * alone. A rank adds its own neighbours as far as the tree has them side by side; what remains are subtrees, which
 * whoever sums a part of the gradient gets from all ranks. Pure: the sums themselves are in ../session/gradient-shards.ts.
 */

/** Shards from `from` to `to`, a power of two of them from a multiple of it: a subtree. */
export interface Subtree {
  readonly from: number;
  readonly to: number;
}

/** The fewest subtrees that a range of shards consists of, in order. */
export function subtreesOf(from: number, to: number): Subtree[] {
  const found: Subtree[] = [];
  for (let at = from; at < to; ) {
    let size = 1;
    while (at % (2 * size) === 0 && at + 2 * size <= to) size *= 2;
    found.push({ from: at, to: at + size });
    at += size;
  }
  return found;
}

/**
 * Subtrees that a rank holds while the last shard of a range is computed, the most at any time: each needs a copy of the
 * gradient, beside the one being computed.
 */
export function copiesNeeded({ from, to }: Subtree): number {
  return Math.max(
    0,
    ...Array.from({ length: Math.max(to - from - 1, 0) }, (_, k) => subtreesOf(from, from + k + 1).length),
  );
}

/**
 * The sum over all shards from the subtrees' own sums, as the tree adds them.
 *
 * @param sums of disjoint subtrees that cover the shards; null: none of its shards has a gradient
 * @param add takes the sums left and right of it, and returns theirs
 * @returns null if no shard has a gradient
 */
export function sumTree<T>(
  shards: number,
  sums: readonly (Subtree & { readonly sum: T | null })[],
  add: (left: T, right: T) => T,
): T | null {
  const known = new Map(sums.map((each) => [`${each.from} ${each.to}`, each.sum]));
  const over = (from: number, to: number): T | null => {
    const found = known.get(`${from} ${to}`);
    if (found !== undefined) return found;
    if (from >= shards || to - from === 1) return null;
    const middle = (from + to) / 2;
    const [left, right] = [over(from, middle), over(middle, to)];
    return left === null || right === null ? (left ?? right) : add(left, right);
  };
  let size = 1;
  while (size < shards) size *= 2;
  return over(0, size);
}
