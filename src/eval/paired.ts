/** Compares two evaluations of the same problems, as before and after training, problem by problem. */
import { Z_95 } from "./pass-at-k.ts";

export interface PairedDifference {
  /** Mean of after − before over the problems, in [−1, 1]. */
  readonly value: number;
  /** 95 % interval. */
  readonly low: number;
  readonly high: number;
  /** Problems that got better and worse. */
  readonly better: number;
  readonly worse: number;
  /** Exact two-sided McNemar (sign) test that better and worse are equally likely. */
  readonly pValue: number;
}

/**
 * The interval is the adjusted Wald interval of matched proportions (Agresti and Min 2005, Statistics in Medicine 24): half
 * a pair is added to each of right-right, wrong-wrong, right-wrong and wrong-right, so that it has a width even if no
 * problem changed. For values between 0 and 1 (several answers per problem), the same half pairs are added to the sums.
 *
 * @param before, after one value in [0, 1] per problem, in the same order
 * @throws RangeError if the two have different lengths, or none
 */
export function pairedDifference(before: readonly number[], after: readonly number[]): PairedDifference {
  const n = before.length;
  if (n === 0 || n !== after.length)
    throw new RangeError(`a paired difference of ${n} and ${after.length} problems: needs the same ones, at least one`);
  const differences = after.map((value, i) => value - before[i]!);
  const sum = differences.reduce((total, d) => total + d, 0);
  const squares = differences.reduce((total, d) => total + d * d, 0);
  const pairs = n + 2;
  const centre = sum / pairs;
  const half = (Z_95 * Math.sqrt(Math.max(0, squares + 1 - (sum * sum) / pairs))) / pairs;
  const better = differences.filter((d) => d > 0).length;
  const worse = differences.filter((d) => d < 0).length;
  return {
    value: sum / n,
    low: Math.max(-1, centre - half),
    high: Math.min(1, centre + half),
    better,
    worse,
    pValue: signTest(better, worse),
  };
}

/** Exact two-sided sign test: the probability that a + b fair coins split at least as unevenly. */
export function signTest(a: number, b: number): number {
  const n = a + b;
  let logWays = 0; // log C(n, i)
  let tail = 0;
  for (let i = 0; i <= Math.min(a, b); i++) {
    if (i > 0) logWays += Math.log((n - i + 1) / i);
    tail += Math.exp(logWays - n * Math.LN2);
  }
  return Math.min(1, 2 * tail);
}
