/**
 * Rewards → advantages: each completion against the mean of its group (DeepSeekMath, arXiv 2402.03300, §4.1.2), and the
 * reward statistics that every estimator reports. Groups may differ in size. Other estimators are in estimators/;
 * rewards are computed and shaped elsewhere.
 */
import { InputError } from "../errors.ts";
import { weightedSum } from "../rewards/results.ts";

export type ScaleRewards = "group" | "batch" | "none";
export type MultiObjectiveAggregation = "sum_then_normalize" | "normalize_then_sum";

/** Keeps the quotient finite if the standard deviation is 0. */
const STD_EPSILON = 1e-4;
/** Rewards with a smaller standard deviation count as equal (the tolerance of torch.isclose). */
const NO_SPREAD = 1e-8;
/** The largest 32-bit float: sums of squares of larger rewards overflow 64-bit floats. */
const LARGEST_REWARD = 2 ** 128 - 2 ** 104;
/** Below it the group's mean is a poor baseline. */
const SMALL_GROUP = 8;

export interface RewardInput {
  /** (N), or (functions)(N); null: not scored by that function. */
  readonly rewards: readonly (number | null)[] | readonly (readonly (number | null)[])[];
  /** Which group each completion belongs to, any integers. (N) */
  readonly groups: ArrayLike<number>;
  /** One per function; 1 by default. */
  readonly weights?: readonly number[] | undefined;
  /** The functions' names, for messages; their indices by default. */
  readonly names?: readonly string[] | undefined;
}

export interface AdvantageInput extends RewardInput {
  /** The standard deviation to divide by; `normalize_then_sum` has its own and ignores this. */
  readonly scaleRewards: ScaleRewards;
  readonly multiObjectiveAggregation?: MultiObjectiveAggregation;
  /** Subtracted from each completion's weighted sum but not in any statistic: the KL in the reward. (N) */
  readonly penalties?: ArrayLike<number> | undefined;
}

/** A batch's reward statistics, reported with every estimator; penalties are not included. */
export interface RewardStatistics {
  /** Weighted sum over the functions; null if no function scored. (N) */
  readonly rewards: (number | null)[];
  /** Of `rewards`, by group in order of first appearance; null for a group without any score. */
  readonly groupMean: (number | null)[];
  /** Bessel-corrected; 0 for fewer than two scores. */
  readonly groupStd: number[];
  /** Of `rewards` over all scored completions; null if there are none. */
  readonly rewardMean: number | null;
  /** Of `rewards` over all scored completions, Bessel-corrected; null for fewer than two. */
  readonly rewardStd: number | null;
  /**
   * Fraction of completions whose group's scores are all equal: they teach nothing. A group with fewer than two scores
   * has no standard deviation and is not counted, except for a group of one completion, which is.
   */
  readonly fracRewardZeroStd: number;
  /**
   * Some group has differing scores: of the weighted sum, or of some function where each is normalized separately.
   * Otherwise comparing completions within groups teaches nothing.
   */
  readonly hasSpread: boolean;
  /** About group sizes, for estimators that use the group as baseline. */
  readonly warnings: string[];
}

export interface Advantages extends RewardStatistics {
  /** 0 for completions that were not scored. (N) */
  readonly advantages: Float64Array;
}

/**
 * The weighted rewards and their statistics.
 *
 * @throws InputError if a reward is NaN, infinite or beyond 32-bit floats, or the weights don't match the functions
 */
export function rewardStatistics(input: RewardInput): RewardStatistics {
  const { rewards, groups } = weighted(input);
  const statistics = groups.map((members) => meanAndStd(members.map((i) => rewards[i]!)));
  const batch = meanAndStd(rewards);
  let withoutSpread = 0;
  for (const [g, members] of groups.entries()) {
    const scored = members.reduce((count, i) => count + (rewards[i] === null ? 0 : 1), 0);
    if (scored >= Math.min(members.length, 2) && statistics[g]!.std < NO_SPREAD) withoutSpread += members.length;
  }
  return {
    rewards,
    groupMean: statistics.map(({ mean }) => mean),
    groupStd: statistics.map(({ std }) => std),
    rewardMean: batch.mean,
    rewardStd: rewards.filter((reward) => reward !== null).length < 2 ? null : batch.std,
    fracRewardZeroStd: rewards.length === 0 ? 0 : withoutSpread / rewards.length,
    hasSpread: statistics.some(({ std }) => std >= NO_SPREAD),
    warnings: sizeWarnings(groups),
  };
}

/**
 * `sum_then_normalize` (default): the weighted sum of a completion's rewards, minus its group's mean, over (std +
 * 1e-4). `normalize_then_sum` (GDPO, arXiv 2601.05242): each function's rewards normalized in their group, the weighted
 * sum of these normalized over the batch. There, penalties are one more objective, of weight −1.
 *
 * @throws InputError as `rewardStatistics` does
 */
export function computeAdvantages(input: AdvantageInput): Advantages {
  const { perFunction, weights, rewards, groups } = weighted(input);
  const { penalties } = input;
  const advantages = new Float64Array(rewards.length);
  const statistics = rewardStatistics(input);
  if (input.multiObjectiveAggregation === "normalize_then_sum") {
    const charged = penalties && rewards.map((reward, i) => (reward === null ? null : penalties[i]!));
    const objectives = charged ? [...perFunction, charged] : perFunction;
    const normalized = objectives.map((values) => normalizeInGroups(values, groups));
    const sums = weightedSum(normalized, charged ? [...weights, -1] : weights, rewards.length);
    const all = meanAndStd(sums);
    for (const [i, sum] of sums.entries())
      if (sum !== null) advantages[i] = (sum - all.mean!) / (all.std + STD_EPSILON);
    const hasSpread = perFunction.some((values, f) => weights[f] !== 0 && spreadInGroups(values, groups));
    return { advantages, ...statistics, hasSpread };
  }
  const net = penalized(rewards, penalties);
  const batch = meanAndStd(net);
  for (const members of groups) {
    const { mean, std } = meanAndStd(members.map((i) => net[i]!));
    const scale = { group: std + STD_EPSILON, batch: batch.std + STD_EPSILON, none: 1 }[input.scaleRewards];
    for (const i of members) if (net[i] !== null) advantages[i] = (net[i]! - mean!) / scale;
  }
  return { advantages, ...statistics };
}

function spreadInGroups(values: readonly (number | null)[], groups: readonly number[][]): boolean {
  return groups.some((members) => meanAndStd(members.map((i) => values[i]!)).std >= NO_SPREAD);
}

/** Rewards minus their penalties; null stays null. (N) */
export function penalized(
  rewards: readonly (number | null)[],
  penalties: ArrayLike<number> | undefined,
): (number | null)[] {
  return penalties ? rewards.map((reward, i) => (reward === null ? null : reward - penalties[i]!)) : rewards.slice();
}

function weighted(input: RewardInput) {
  const perFunction = byFunction(input.rewards);
  const weights = input.weights ?? perFunction.map(() => 1);
  checkRewards(perFunction, weights, input);
  const rewards = weightedSum(perFunction, weights, input.groups.length);
  const past = rewards.findIndex((reward) => reward !== null && !isReward(reward));
  if (past >= 0)
    throw new InputError(
      `completion ${past}: the weighted sum of its rewards is ${rewards[past]}, beyond ±${LARGEST_REWARD.toPrecision(3)}; make reward_weights smaller`,
    );
  return { perFunction, weights, rewards, groups: groupMembers(input.groups) };
}

/** The cure for a value that is not a reward. */
export function rewardCure(value: number): string {
  return Number.isFinite(value)
    ? `a reward must be within ±${LARGEST_REWARD.toPrecision(3)} (a 32-bit float): scale it down`
    : "return a finite number";
}

/** Whether a value is a number for which means and deviations can be computed. */
export const isReward = (value: unknown): value is number =>
  typeof value === "number" && Math.abs(value) <= LARGEST_REWARD;

/** The rewards of each function, also if there is only one. */
export function byFunction(rewards: RewardInput["rewards"]): readonly (readonly (number | null)[])[] {
  const isNested = (r: RewardInput["rewards"]): r is readonly (readonly (number | null)[])[] => Array.isArray(r[0]);
  return isNested(rewards) ? rewards : [rewards];
}

function checkRewards(
  perFunction: readonly (readonly (number | null)[])[],
  weights: readonly number[],
  { groups: { length: completions }, names }: RewardInput,
): void {
  if (weights.length !== perFunction.length) {
    throw new InputError(
      `reward_weights: ${weights.length} weights for ${perFunction.length} reward functions; give one per function`,
    );
  }
  for (const [f, values] of perFunction.entries()) {
    if (values.length !== completions) {
      throw new InputError(
        `reward function ${names?.[f] ?? f} gave ${values.length} rewards for ${completions} completions; return one per completion`,
      );
    }
    for (const [i, value] of values.entries()) {
      if (value === null || isReward(value)) continue;
      throw new InputError(
        `reward function ${names?.[f] ?? f} gave ${value} for completion ${i}; ${rewardCure(value)}, or null for not scored`,
      );
    }
  }
}

/** The completions of each group, groups in order of first appearance. */
export function groupMembers(groups: ArrayLike<number>): number[][] {
  const members = new Map<number, number[]>();
  for (let i = 0; i < groups.length; i++) {
    const group = members.get(groups[i]!);
    if (group) group.push(i);
    else members.set(groups[i]!, [i]);
  }
  return [...members.values()];
}

function normalizeInGroups(values: readonly (number | null)[], groups: readonly number[][]): (number | null)[] {
  const normalized = values.slice();
  for (const members of groups) {
    const { mean, std } = meanAndStd(members.map((i) => values[i]!));
    for (const i of members) if (values[i] !== null) normalized[i] = (values[i]! - mean!) / (std + STD_EPSILON);
  }
  return normalized;
}

/** Over the non-null values; the standard deviation is Bessel-corrected, 0 for fewer than two. */
export function meanAndStd(values: readonly (number | null)[]): { mean: number | null; std: number } {
  const scored = values.filter((value) => value !== null);
  const first = scored[0];
  if (first === undefined) return { mean: null, std: 0 };
  // Sum deviations from the first value: the mean of equal rewards is then exact, and their advantages exactly 0.
  const mean = first + scored.reduce((sum, value) => sum + (value - first), 0) / scored.length;
  const squares = scored.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, std: scored.length < 2 ? 0 : Math.sqrt(squares / (scored.length - 1)) };
}

function sizeWarnings(groups: readonly number[][]): string[] {
  const single = groups.filter((members) => members.length === 1).length;
  const smallest = Math.min(...groups.filter((members) => members.length > 1).map((members) => members.length));
  const warnings: string[] = [];
  if (single > 0) {
    warnings.push(
      `${single} of ${groups.length} groups have a single completion: no baseline, advantage 0; set num_generations to 16 or more`,
    );
  }
  if (smallest < SMALL_GROUP) {
    warnings.push(
      `the smallest group has ${smallest} completions: its mean is a noisy baseline; num_generations of 16 to 64 is usual`,
    );
  }
  return warnings;
}
