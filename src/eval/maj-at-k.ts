/**
 * maj@k: how often the most frequent of k answers is the right one (self-consistency, Wang et al. 2023,
 * arXiv 2203.11171). Takes the groups of equal answers as counts; votes.ts decides which answers are equal.
 *
 * The rule: responses without an answer do not vote. Of groups of equal size, the one whose first answer came first
 * wins. Without any vote, the problem counts as wrong.
 */

/** How the answers to one problem agree. */
export interface Votes {
  /** n: answers sampled, those without a vote included */
  readonly samples: number;
  /** Answers equal to the gold answer, which are one group; 0 if there is none. */
  readonly right: number;
  /** Sizes of the groups of equal wrong answers, in any order. */
  readonly wrong: readonly number[];
}

/**
 * The probability that k of the n ≥ k answers, drawn without replacement and in random order, elect the right one: the
 * exact mean of the vote over all C(n, k) choices and their k! orders. In a random order, each of t groups of equal size
 * is first with probability 1/t, so a tie among t counts 1/t.
 *
 * With X_g ~ Binomial(size of g, k/n), independent, the numbers drawn per group are (X_g) given ΣX = k; the factors of
 * k/n cancel. So every term stays between 0 and 1 and nothing overflows.
 *
 * @throws RangeError unless 1 ≤ k ≤ n and the groups fit into n
 */
export function majAtK({ samples, right, wrong }: Votes, k: number): number {
  const voting = wrong.reduce((sum, size) => sum + size, right);
  const whole = [samples, right, k, ...wrong].every((value) => Number.isInteger(value) && value >= 0);
  if (!whole || k < 1 || k > samples || voting > samples)
    throw new RangeError(
      `maj@${k} of ${samples} answers in groups of ${[right, ...wrong].join(", ")}: needs 1 <= k <= answers, and groups within them`,
    );
  const logFactorial = logFactorials(samples);
  const share = k / samples;
  const drawn = (size: number) => binomial(size, share, logFactorial);
  let chance = 0;
  for (let most = 1; most <= Math.min(right, k); most++) {
    // ways[t][j]: probability that the groups so far give j answers, none more than `most`, and t of them exactly `most`.
    let ways = [Float64Array.of(1)];
    let free = samples - voting;
    for (const size of wrong) {
      if (size < most) free += size;
      else ways = withGroup(ways, drawn(size), most, k - most);
    }
    const others = drawn(free);
    const own = drawn(right)[most]!;
    for (const [tied, row] of ways.entries())
      for (const [j, way] of row.entries()) chance += (own * way * (others[k - most - j] ?? 0)) / (tied + 1);
  }
  return Math.min(1, chance / drawn(samples)[k]!);
}

/** `ways` with one more group, of which 0 to `most` answers are drawn with these probabilities; at most `room` in all. */
function withGroup(
  ways: readonly Float64Array[],
  chances: readonly number[],
  most: number,
  room: number,
): Float64Array<ArrayBuffer>[] {
  const longest = Math.min(room, ways[0]!.length - 1 + most);
  const ties = Math.min(ways.length, Math.floor(room / most));
  const next = Array.from({ length: ties + 1 }, () => new Float64Array(longest + 1));
  for (const [tied, row] of ways.entries()) {
    for (let j = 0; j < row.length; j++) {
      const way = row[j]!;
      if (way === 0) continue;
      const last = Math.min(most, room - j);
      for (let x = 0; x <= last; x++) next[x === most ? tied + 1 : tied]![j + x]! += way * chances[x]!;
    }
  }
  return next;
}

/** The binomial distribution of `size` draws with probability `share`: the probabilities of 0 to `size`. */
function binomial(size: number, share: number, logFactorial: readonly number[]): number[] {
  if (share === 1) return Array.from({ length: size + 1 }, (_, x) => (x === size ? 1 : 0));
  const [yes, no] = [Math.log(share), Math.log1p(-share)];
  return Array.from({ length: size + 1 }, (_, x) =>
    Math.exp(logFactorial[size]! - logFactorial[x]! - logFactorial[size - x]! + x * yes + (size - x) * no),
  );
}

function logFactorials(n: number): number[] {
  const logs = [0];
  for (let i = 1; i <= n; i++) logs.push(logs[i - 1]! + Math.log(i));
  return logs;
}
