/** Metrics of a generation's rollouts, rewards and times, under TRL's names (see metrics/names.ts). */
import { RunError } from "../errors.ts";
import { metricNamed } from "../metrics/names.ts";
import { mean, standardDeviation } from "../metrics/statistics.ts";
import { loggedMetrics, type RewardResult } from "../rewards/pool/pool.ts";
import type { RewardStatistics } from "./advantages.ts";
import type { Estimate } from "./estimators/estimators.ts";
import type { Generation } from "./generation.ts";
import { activeTokens, type TokenValues } from "./loss/config.ts";
import { type Sample, type Sampled, sampledTokens } from "./sample.ts";

type Values = Record<string, number>;

/** Counts sampled tokens; 0 without completions, as in TRL. */
function lengths(completions: readonly Lengthy[], suffix: string): Values {
  const sizes = completions.map(sampledTokens);
  return {
    [`completions/mean${suffix}`]: mean(sizes) ?? 0,
    [`completions/min${suffix}`]: sizes.length > 0 ? Math.min(...sizes) : 0,
    [`completions/max${suffix}`]: sizes.length > 0 ? Math.max(...sizes) : 0,
  };
}

type Lengthy = Pick<Sample, "completionIds" | "mask" | "finished">;

export function completionMetrics(completions: readonly Lengthy[]): Values {
  const terminated = completions.filter((c) => c.finished);
  return {
    ...lengths(completions, "_length"),
    "completions/clipped_ratio": 1 - terminated.length / Math.max(completions.length, 1),
    ...lengths(terminated, "_terminated_length"),
  };
}

/** Null for anything that was not scored at all. */
export function rewardMetrics(result: RewardResult, advantages: RewardStatistics): Record<string, number | null> {
  const values: Record<string, number | null> = {
    reward: advantages.rewardMean,
    reward_std: advantages.rewardStd,
    frac_reward_zero_std: advantages.fracRewardZeroStd,
  };
  const total = Math.max(result.total.length, 1);
  for (const { name, rewards, unparsed, timeouts } of result.perFunction) {
    const scored = rewards.filter((r): r is number => r !== null);
    values[`rewards/${name}/mean`] = mean(scored);
    values[`rewards/${name}/std`] = standardDeviation(scored);
    values["rewards/unparsed"] = Math.max(values["rewards/unparsed"] ?? 0, unparsed / total);
    values["rewards/timeout"] = Math.max(values["rewards/timeout"] ?? 0, timeouts / total);
  }
  return values;
}

/** Metrics logged by reward functions. @throws RunError for a name that the trainer logs */
function functionMetrics(result: RewardResult): Values {
  const values = loggedMetrics(result);
  const taken = Object.keys(values).find((name) => metricNamed(name) !== undefined || name.startsWith("eval_"));
  if (taken === undefined) return values;
  throw new RunError(`log_metric ${taken}: the trainer logs a metric of this name; give the reward function's another`);
}

/** What dynamic sampling discarded to get groups with signal. */
function dynamicMetrics({ groups, discardedGroups, groupsWithoutSignal }: Generation): Values {
  return {
    "dynamic_sampling/discarded_groups": discardedGroups,
    "dynamic_sampling/kept_share": groups / (groups + discardedGroups),
    "dynamic_sampling/groups_without_signal": groupsWithoutSignal,
  };
}

/**
 * |sampler's logprob − training's logprob| over all sampled tokens, both before truncation: exactly 0 on the CPU.
 *
 * @param trained training's logprobs under the sampling weights (N)(R); may be missing for some samples
 */
export function samplerDifference(samples: readonly Sampled[], trained: readonly (TokenValues | undefined)[]): Values {
  let total = 0;
  let most = 0;
  let count = 0;
  for (const [i, sample] of samples.entries()) {
    const current = trained[i];
    if (!current) continue;
    for (const t of activeTokens(current.length, sample, { maskTruncatedCompletions: false })) {
      const difference = Math.abs(sample.logprobs[t]! - current[t]!);
      total += difference;
      most = Math.max(most, difference);
      count++;
    }
  }
  return {
    "sampling/sampling_logp_difference/mean": count === 0 ? 0 : total / count,
    "sampling/sampling_logp_difference/max": most,
  };
}

export interface GenerationCost {
  readonly times: Readonly<Record<string, number>>;
  /** Tokens through forward and backward, and through the reference's forward. */
  readonly updateTokens: number;
  readonly referenceTokens: number;
  readonly parameters: number;
  /** Those with a gradient: all, or the adapters'. */
  readonly trained: number;
  readonly peakFlops: number;
}

/** Throughput and MFU. */
function speedMetrics({ sampledTokens, promptTokens }: Generation, cost: GenerationCost): Values {
  const { updateTokens, referenceTokens, times, parameters, trained } = cost;
  const seconds = times.step_time ?? 0;
  const rollout = times["time/rollout"] ?? 0;
  const update = times["time/update"] ?? 0;
  // 2 operations per parameter and token forward, 2 backward for its input and 2 if it is trained; recomputation is not
  // counted, as usual for MFU.
  const forward = sampledTokens + promptTokens + referenceTokens;
  const flops = parameters * (2 * forward + 4 * updateTokens) + trained * 2 * updateTokens;
  return {
    tokens_per_second: seconds > 0 ? (sampledTokens + promptTokens) / seconds : 0,
    rollout_tokens_per_second: rollout > 0 ? sampledTokens / rollout : 0,
    update_tokens_per_second: update > 0 ? updateTokens / update : 0,
    mfu: seconds > 0 ? flops / seconds / cost.peakFlops : 0,
  };
}

/** The metrics shared by all steps of a generation. */
export function generationMetrics(
  generation: Generation,
  samples: readonly Lengthy[],
  estimate: Estimate,
  run: GenerationCost & {
    readonly epoch: number;
    readonly numTokens: number;
    readonly skippedRows: number;
    readonly memoryPeakBytes: number;
    readonly dynamic: boolean;
  },
): Record<string, number | null> {
  return {
    epoch: run.epoch,
    ...functionMetrics(generation.rewards),
    ...rewardMetrics(generation.rewards, estimate),
    ...estimate.metrics,
    ...completionMetrics(samples),
    ...(run.dynamic ? dynamicMetrics(generation) : {}),
    num_tokens: run.numTokens,
    ...run.times,
    ...speedMetrics(generation, run),
    memory_peak_bytes: run.memoryPeakBytes,
    ...(run.skippedRows > 0 ? { skipped_rows: run.skippedRows } : {}),
  };
}
