/**
 * The rewards of an evaluation's answers: means over the answers that were scored, as TRL logs them (`eval_reward`,
 * `eval_rewards/NAME/mean`), with an interval over the problems. Scores nothing itself.
 */

import { standardDeviation } from "../metrics/statistics.ts";
import { loggedMetrics, type RewardResult } from "../rewards/pool/pool.ts";
import type { Answer } from "../run/prompts.ts";
import { Z_95 } from "./pass-at-k.ts";

/** Scores answers, those to one problem beside each other. */
export type ScoreAnswers = (answers: readonly Answer[]) => Promise<RewardResult>;

/** An unbounded mean; `low` and `high` are null if only one problem was scored. */
export interface MeanEstimate {
  readonly value: number;
  readonly low: number | null;
  readonly high: number | null;
}

export interface RewardFigures {
  /** null: nothing was scored. */
  readonly mean: MeanEstimate | null;
  /** Over all scored answers, Bessel-corrected; null for fewer than two. */
  readonly std: number | null;
  /** Share of answers that were not scored. */
  readonly unscored: number;
}

export interface RewardSummary {
  /** Of the weighted sum. */
  readonly total: RewardFigures;
  readonly perFunction: readonly (RewardFigures & { readonly name: string })[];
  /** Means of what the functions logged themselves (`log_metric`). */
  readonly logged: Readonly<Record<string, number>>;
}

/** @param counts number of answers to each problem, in order */
export function summarizeRewards(result: RewardResult, counts: readonly number[]): RewardSummary {
  const figures = (rewards: readonly (number | null)[]): RewardFigures => {
    const scored = rewards.filter((reward) => reward !== null);
    return {
      mean: clusteredMean(rewards, counts),
      std: standardDeviation(scored),
      unscored: 1 - scored.length / Math.max(1, rewards.length),
    };
  };
  return {
    total: figures(result.total),
    perFunction: result.perFunction.map(({ name, rewards }) => ({ name, ...figures(rewards) })),
    logged: loggedMetrics(result),
  };
}

/**
 * The mean over scored answers with its 95 % interval. The problems are the sample, since answers to one problem are not
 * independent. With e_i the sum over problem i's scored answers of (reward − mean), and N scored answers to n problems,
 * the standard error is √(n ÷ (n − 1) · Σ e_i²) ÷ N (the ratio estimator under one-stage cluster sampling: Cochran 1977,
 * section 9A.1), and the interval uses Student's t with n − 1 degrees of freedom. With one answer per problem, that is
 * the usual interval of a mean.
 */
export function clusteredMean(rewards: readonly (number | null)[], counts: readonly number[]): MeanEstimate | null {
  const scored = rewards.filter((reward) => reward !== null);
  if (scored.length === 0) return null;
  const value = scored.reduce((a, b) => a + b, 0) / scored.length;
  let [at, n, squares] = [0, 0, 0];
  for (const count of counts) {
    const own = rewards.slice(at, at + count).filter((reward) => reward !== null);
    at += count;
    if (own.length === 0) continue;
    n++;
    squares += own.reduce((sum, reward) => sum + (reward - value), 0) ** 2;
  }
  if (n < 2) return { value, low: null, high: null };
  const half = (studentT95(n - 1) * Math.sqrt((n / (n - 1)) * squares)) / scored.length;
  return { value, low: value - half, high: value + half };
}

/** The two-sided 95 % quantile of Student's t; from 3 degrees on by the expansion in Abramowitz and Stegun 1964, 26.7.5. */
export function studentT95(degrees: number): number {
  if (degrees === 1) return 12.7062047361747;
  if (degrees === 2) return 4.30265272991;
  const z = Z_95;
  const terms = [
    z,
    (z ** 3 + z) / 4,
    (5 * z ** 5 + 16 * z ** 3 + 3 * z) / 96,
    (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / 384,
    (79 * z ** 9 + 776 * z ** 7 + 1482 * z ** 5 - 1920 * z ** 3 - 945 * z) / 92_160,
  ];
  return terms.reduce((sum, term, power) => sum + term / degrees ** power, 0);
}

/** The metrics of a summary, under TRL's names without `eval_`; those that were not scored are left out. */
export function rewardValues(summary: RewardSummary | null): Record<string, number> {
  if (summary === null) return {};
  const { total, perFunction } = summary;
  const values: Record<string, number> = {};
  const put = (name: string, value: number | null | undefined) => {
    if (value !== null && value !== undefined) values[name] = value;
  };
  put("reward", total.mean?.value);
  put("reward_std", total.std);
  for (const { name, mean, std } of perFunction) {
    put(`rewards/${name}/mean`, mean?.value);
    put(`rewards/${name}/std`, std);
  }
  return values;
}

/** For results.json: means with their intervals, and the share that was not scored. */
export function rewardResults({ total, perFunction, logged }: RewardSummary): Record<string, unknown> {
  return {
    ...logged,
    reward: total.mean,
    reward_std: total.std,
    unscored: total.unscored,
    ...Object.fromEntries(
      perFunction.flatMap(({ name, mean, std, unscored }) => [
        [`rewards/${name}/mean`, mean],
        [`rewards/${name}/std`, std],
        [`rewards/${name}/unscored`, unscored],
      ]),
    ),
  };
}

/** Lines for the console. */
export function rewardLines({ total, perFunction, logged }: RewardSummary): string[] {
  const row = (name: string, { mean, std, unscored }: RewardFigures) =>
    `${name.padEnd(17)} ${mean === null ? "not scored" : meanText(mean, std)}${
      mean !== null && unscored > 0 ? `, ${(100 * unscored).toFixed(1)} % not scored` : ""
    }`;
  return [
    row("reward", total),
    ...perFunction.map((figures) => row(`  ${figures.name}`, figures)),
    ...Object.entries(logged).map(([name, value]) => `  ${name.padEnd(15)} ${number(value)}`),
  ];
}

const number = (value: number) => String(Number(value.toPrecision(4)));
/** "0.25 (0.1 to 0.4)" */
export const intervalText = ({ value, low, high }: MeanEstimate): string =>
  low === null || high === null ? number(value) : `${number(value)} (${number(low)} to ${number(high)})`;
const meanText = (mean: MeanEstimate, std: number | null) =>
  `${intervalText(mean)}${std === null ? "" : `, std ${number(std)}`}`;
