/**
 * The table of advantage estimators: from a batch's rewards to one advantage per completion or per token. An estimator
 * is one entry here (and its name in the setting `advantage_estimator`). All are pure; the caller provides the
 * reference's logprobs and the critic's values.
 */
import type { TrainConfig } from "../../config/schema.ts";
import {
  type AdvantageInput,
  byFunction,
  computeAdvantages,
  groupMembers,
  meanAndStd,
  penalized,
  type RewardInput,
  type RewardStatistics,
  rewardStatistics,
} from "../advantages.ts";
import type { Advantage, KlEstimator, TokenValues } from "../loss/config.ts";
import { KL_ESTIMATORS } from "../loss/kl.ts";
import { explainedVariance } from "../loss/value.ts";
import { type OwnEstimator, ownAdvantages } from "./own.ts";
import { generalizedAdvantages, returnsToGo, tokenRewards } from "./returns.ts";
import { whiten } from "./whiten.ts";

export type AdvantageEstimator = TrainConfig["advantageEstimator"];

/** The settings that estimators read, under TRL's names (in camelCase) where TRL has them. */
export interface EstimatorSettings extends Pick<AdvantageInput, "scaleRewards" | "multiObjectiveAggregation"> {
  readonly advantageEstimator: AdvantageEstimator;
  /** In place of `advantageEstimator`. */
  readonly ownEstimator?: OwnEstimator | null | undefined;
  /** β of the KL in the reward; used if `kl` is given. */
  readonly beta: number;
  /** Discount of future rewards; ignored by `grpo` and `rloo`. */
  readonly gamma: number;
  /** λ of `gae`. */
  readonly lam: number;
  /** `gae`: normalize the advantages over the batch's tokens. */
  readonly whitenAdvantages: boolean;
  /** Excludes completions cut at the length limit from statistics over the batch's tokens, as from the loss. */
  readonly maskTruncatedCompletions: boolean;
}

export interface EstimatorInput extends RewardInput {
  /** Tokens of each completion. (N) */
  readonly lengths: ArrayLike<number>;
  /** False: cut at the length limit. (N) */
  readonly finished: readonly boolean[];
  /** The KL charged to the reward, token by token (N)(T); null: not in the reward. */
  readonly kl: readonly TokenValues[] | null;
  /** V of the state before each token, from the critic before the update (N)(T); null without a critic. */
  readonly values: readonly TokenValues[] | null;
}

export interface Estimate extends RewardStatistics {
  /** By completion; 0 if it was not scored. (N) */
  readonly advantages: readonly Advantage[];
  /** The critic's targets, token by token; null without a critic, and for a completion that was not scored. (N)(T) */
  readonly returns: readonly (Float64Array | null)[] | null;
  /** `kl` and `kl_penalty` with KL in the reward; `returns/mean`, `value/explained_variance` with a critic. */
  readonly metrics: Readonly<Record<string, number>>;
}

interface Prepared {
  readonly input: EstimatorInput;
  readonly settings: EstimatorSettings;
  readonly statistics: RewardStatistics;
  /** β·KL of each token (N)(T); null without KL in the reward. */
  readonly charges: readonly TokenValues[] | null;
  /** The sum of charges over each completion. (N) */
  readonly penalties: Float64Array | undefined;
}

export interface EstimatorEntry {
  /** Compares completions of a group with each other. */
  readonly usesGroups: boolean;
  readonly needsCritic: boolean;
  /** Returns `hasSpread` if it does not follow from the weighted sum. */
  readonly estimate: (
    prepared: Prepared,
  ) => Pick<Estimate, "advantages" | "returns"> & Partial<Pick<Estimate, "hasSpread">>;
}

export const ESTIMATORS: Record<AdvantageEstimator, EstimatorEntry> = {
  // DeepSeekMath, arXiv 2402.03300, §4.1.2; Dr. GRPO without scaling; GDPO with normalize_then_sum
  grpo: {
    ...{ usesGroups: true, needsCritic: false },
    estimate: ({ input, settings, penalties }) => {
      const { scaleRewards, multiObjectiveAggregation } = settings;
      const { rewards, groups, weights } = input;
      const scale = { scaleRewards, ...(multiObjectiveAggregation && { multiObjectiveAggregation }) };
      const { advantages, hasSpread } = computeAdvantages({ rewards, groups, weights, penalties, ...scale });
      return { advantages: [...advantages], returns: null, hasSpread };
    },
  },
  // RLOO, arXiv 2402.14740, eq. 8: the baseline is the mean of the group's other rewards
  rloo: {
    ...{ usesGroups: true, needsCritic: false },
    estimate: ({ input, statistics, penalties }) => {
      const net = penalized(statistics.rewards, penalties);
      const advantages = new Array<number>(net.length).fill(0);
      for (const { scored, mean } of groupMeans(net, input.groups))
        if (scored.length > 1)
          for (const i of scored) advantages[i] = ((net[i]! - mean) * scored.length) / (scored.length - 1);
      return { advantages, returns: null };
    },
  },
  // REINFORCE++, arXiv 2501.03262: the batch is the only baseline
  reinforce_plus_plus: {
    ...{ usesGroups: false, needsCritic: false },
    estimate: (prepared) => normalizedReturns(prepared, prepared.statistics.rewards),
  },
  // The same paper's REINFORCE++-baseline: the group's mean is subtracted from each reward first
  reinforce_plus_plus_baseline: {
    ...{ usesGroups: true, needsCritic: false },
    estimate: (prepared) => {
      const { rewards } = prepared.statistics;
      const centred = new Array<number | null>(rewards.length).fill(null);
      for (const { scored, mean } of groupMeans(rewards, prepared.input.groups))
        for (const i of scored) centred[i] = rewards[i]! - mean;
      return normalizedReturns(prepared, centred);
    },
  },
  // PPO (arXiv 1707.06347) with GAE (arXiv 1506.02438)
  gae: {
    ...{ usesGroups: false, needsCritic: true },
    estimate: ({ input, settings, statistics, charges }) => {
      const { values } = input;
      if (!values) throw new Error("gae needs the critic's values");
      const raw = statistics.rewards.map((reward, i) => {
        if (reward === null) return null;
        const rewards = tokenRewards(reward, input.lengths[i]!, charges?.[i] ?? null);
        return generalizedAdvantages(rewards, values[i]!, settings.gamma, settings.lam);
      });
      const returns = raw.map((advantages, i) => advantages?.map((a, t) => a + values[i]![t]!) ?? null);
      const advantages = settings.whitenAdvantages ? whitenCounted(raw, input, settings) : raw;
      return { advantages: advantages.map((a) => a ?? 0), returns };
    },
  },
};

/** A function as an entry: what it compares is not known. */
export function ownEntry(own: OwnEstimator): EstimatorEntry {
  return {
    ...{ usesGroups: false, needsCritic: false },
    estimate: ({ input, statistics, charges }) => {
      const { groups, lengths, finished } = input;
      const perFunction = Object.fromEntries(
        byFunction(input.rewards).map((rewards, f) => [input.names?.[f] ?? String(f), rewards]),
      );
      const batch = { rewards: statistics.rewards, perFunction, groups, lengths, finished, charges };
      return { advantages: ownAdvantages(own, batch), returns: null };
    },
  };
}

/**
 * Advantages of a whole batch, before it is split into optimizer steps, by `settings.advantageEstimator`.
 *
 * With `kl` the reward is charged β·KL: `grpo` and `rloo` charge its sum over the completion (like TRL's RLOOTrainer),
 * the others charge each token. Reward statistics exclude the charge.
 *
 * @throws InputError if a reward is NaN or infinite, or the weights don't match the functions
 */
export function estimateAdvantages(input: EstimatorInput, settings: EstimatorSettings): Estimate {
  checkShapes(input);
  const entry = settings.ownEstimator ? ownEntry(settings.ownEstimator) : ESTIMATORS[settings.advantageEstimator];
  const statistics = rewardStatistics(input);
  const charges = input.kl?.map((kl) => Float64Array.from(kl, (value) => settings.beta * value)) ?? null;
  const penalties = charges ? Float64Array.from(charges, (charge) => sum(charge)) : undefined;
  const result = entry.estimate({ input, settings, statistics, charges, penalties });
  const tokens = Array.from(input.lengths).reduce((a, b) => a + b, 0);
  const tokenMean = (values: readonly (TokenValues | null)[]): number =>
    values.reduce((total, of) => total + (of ? sum(of) : 0), 0) / Math.max(tokens, 1);
  return {
    ...statistics,
    warnings: entry.usesGroups ? statistics.warnings : [],
    ...result,
    metrics: {
      ...(input.kl && { kl: tokenMean(input.kl) }),
      ...(penalties && { kl_penalty: sum(penalties) / Math.max(penalties.length, 1) }),
      ...(result.returns && { "returns/mean": meanOf(result.returns) }),
      ...(input.values &&
        result.returns && { "value/explained_variance": explainedVariance(input.values, result.returns) }),
    },
  };
}

/**
 * KL of each token from the sampling policy to the reference, which the reward is charged with. (N)(T)
 *
 * @param old π_old (N)(T)
 * @param reference π_ref (N)(T)
 */
export function klOfTokens(
  estimator: KlEstimator,
  old: readonly TokenValues[],
  reference: readonly TokenValues[],
): Float64Array[] {
  return old.map((logprobs, i) =>
    Float64Array.from(logprobs, (logprob, t) => KL_ESTIMATORS[estimator](logprob, reference[i]![t]!).kl),
  );
}

/** Returns-to-go of the rewards and charges, normalized over the batch's tokens. */
function normalizedReturns(
  { input, settings, charges }: Prepared,
  rewards: readonly (number | null)[],
): Pick<Estimate, "advantages" | "returns"> {
  const raw = rewards.map((reward, i) =>
    reward === null ? null : returnsToGo(tokenRewards(reward, input.lengths[i]!, charges?.[i] ?? null), settings.gamma),
  );
  return { advantages: whitenCounted(raw, input, settings).map((a) => a ?? 0), returns: null };
}

/** Whitens without the completions that the loss excludes: they get null. */
function whitenCounted(
  raw: readonly (Float64Array | null)[],
  { finished }: EstimatorInput,
  settings: EstimatorSettings,
): (Float64Array | null)[] {
  return whiten(raw.map((values, i) => (settings.maskTruncatedCompletions && !finished[i] ? null : values)));
}

/** The scored members of each group and their mean; groups without scores are left out. */
function groupMeans(rewards: readonly (number | null)[], groups: ArrayLike<number>) {
  return groupMembers(groups).flatMap((members) => {
    const scored = members.filter((i) => rewards[i] !== null);
    const { mean } = meanAndStd(scored.map((i) => rewards[i]!));
    return mean === null ? [] : [{ scored, mean }];
  });
}

function checkShapes({ lengths, finished, kl, values, groups }: EstimatorInput): void {
  const completions = groups.length;
  if (lengths.length !== completions || finished.length !== completions)
    throw new Error(`${completions} completions, ${lengths.length} lengths, ${finished.length} ends`);
  for (const of of [kl, values])
    for (let i = 0; of && i < completions; i++)
      if (of[i]?.length !== lengths[i])
        throw new Error(`completion ${i} has ${lengths[i]} tokens, not ${of[i]?.length}`);
}

function sum(values: TokenValues): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

function meanOf(all: readonly (TokenValues | null)[]): number {
  let [total, count] = [0, 0];
  for (const values of all) {
    if (!values) continue;
    total += sum(values);
    count += values.length;
  }
  return count === 0 ? 0 : total / count;
}
