/** pass@k over a set of problems, and the interval of any mean over problems. Does not grade answers. */

/** z of a two-sided 95 % interval. */
export const Z_95 = 1.959963984540054;

export interface Estimate {
  readonly value: number;
  /** The interval's ends, within [0, 1]. */
  readonly low: number;
  readonly high: number;
}

/** How one problem went. */
export interface ProblemCount {
  /** n: answers sampled */
  readonly samples: number;
  /** c: of which right */
  readonly correct: number;
}

/**
 * The probability that at least one of k answers is right, estimated without bias from n ≥ k answers of which c are:
 * 1 − C(n − c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, eq. 1), as a product that cannot overflow.
 *
 * @throws RangeError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n
 */
export function passAtK({ samples, correct }: ProblemCount, k: number): number {
  const whole = [samples, correct, k].every(Number.isInteger);
  if (!whole || correct < 0 || correct > samples || k < 1 || k > samples) {
    throw new RangeError(
      `pass@${k} of ${correct} right in ${samples} answers: needs 0 <= right <= answers and 1 <= k <= answers`,
    );
  }
  if (samples - correct < k) return 1;
  let allWrong = 1;
  for (let i = samples - correct + 1; i <= samples; i++) allWrong *= 1 - k / i;
  return 1 - allWrong;
}

/**
 * The mean of pass@k over problems with its 95 % interval (`meanOverProblems`). For k = 1 and one answer each, this is the
 * accuracy with Wilson's interval.
 *
 * @throws RangeError if there are no problems, or a problem has fewer than k answers
 */
export function meanPassAtK(problems: readonly ProblemCount[], k: number): Estimate {
  const values = problems.map((problem) => passAtK(problem, k));
  return meanOverProblems(values, Math.max(1, ...problems.map(({ samples }) => samples)));
}

/**
 * The mean over problems of values in [0, 1], with Wilson's 95 % interval at the effective number of trials
 * n · p(1 − p) / s², where s² is the variance between problems, as Korn and Graubard (1998, Survey Methodology 24) do
 * for proportions whose trials are not independent. If every value is 0 or 1, that is n itself, and the interval is the
 * usual one for a proportion. It is at least n and capped at n · answers, so that problems which happen to agree do not
 * give an interval without width.
 *
 * @param values one per problem; the interval treats the problems as the sample
 * @param answers answers sampled per problem
 * @throws RangeError without a value, or for one outside [0, 1]
 */
export function meanOverProblems(values: readonly number[], answers: number): Estimate {
  const n = values.length;
  if (n === 0 || values.some((value) => !(value >= 0 && value <= 1)))
    throw new RangeError(`a mean over ${n} problems: needs at least one, and values from 0 to 1`);
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / n;
  const binary = values.every((value) => value === 0 || value === 1);
  const trials = binary ? n : Math.min(n * Math.max(answers, 1), (n * mean * (1 - mean)) / variance);
  return { ...wilson(mean * trials, trials), value: mean };
}

/**
 * A proportion and Wilson's score interval (1927) at 95 %: it stays within [0, 1], and has a width even at 0 and 1.
 *
 * @param successes 0 to n, fractions allowed
 * @param n trials, at least 1
 */
export function wilson(successes: number, n: number): Estimate {
  if (!(n >= 1 && successes >= 0 && successes <= n)) {
    throw new RangeError(`a share of ${successes} in ${n}: needs 0 <= successes <= trials and at least one trial`);
  }
  const value = successes / n;
  const z2 = Z_95 * Z_95;
  const centre = (value + z2 / (2 * n)) / (1 + z2 / n);
  const half = (Z_95 * Math.sqrt((value * (1 - value)) / n + z2 / (4 * n * n))) / (1 + z2 / n);
  return { value, low: Math.max(0, centre - half), high: Math.min(1, centre + half) };
}
