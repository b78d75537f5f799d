/**
 * Prepares recorded samples for learning: computes missing logprobs if they are needed, and takes advantages from the
 * file or estimates them from its rewards.
 */
import type { UpdateConfig } from "../config/schema.ts";
import type { Model } from "../model/model.ts";
import type { OnDevice } from "../run/device.ts";
import type { ScoringModel } from "../session/policy.ts";
import type { EstimatorSettings } from "./estimators/estimators.ts";
import { scoreGroups } from "./learner/policy-update.ts";
import { type Recorded, recordedRewards } from "./recorded-generation.ts";
import { type Measured, packed, type Weighed } from "./sample.ts";
import { weigh } from "./weigh.ts";

/** Settings that only `gae` reads. */
const NO_CRITIC = { lam: 1, whitenAdvantages: false } as const;

/** The models for missing logprobs; `reference` null: the policy before its first step. */
export interface RecordedModels {
  readonly policy: ScoringModel;
  readonly reference: Model | null;
}

/** Old and reference logprobs of the file's samples, computed if they are missing and needed. */
async function measureRecorded(
  { policy: { model: policy, activations }, reference }: RecordedModels,
  samples: readonly Recorded[],
  config: OnDevice<UpdateConfig>,
  steps: number,
): Promise<(Omit<Recorded, keyof Measured> & Measured)[]> {
  const score = (model: Model) => scoreGroups(model, activations, packed(samples), config);
  const missing = config.beta !== 0 && samples.some((sample) => !sample.refLogprobs);
  const underReference = missing ? await score(reference ?? policy) : null;
  // If the sampling policy's logprobs are not recorded, it is taken to be the starting policy. A pass of several steps
  // and a reward charged with the KL need them in advance; a single step gets them from its own first forward.
  const needsOld = steps > 1 || (config.useKlInReward && config.beta !== 0);
  const underPolicy = needsOld && samples.some((sample) => !sample.oldLogprobs) ? await score(policy) : null;
  return samples.map((sample, i) => ({
    ...sample,
    samplingLogprobs: sample.samplingLogprobs ?? null,
    oldLogprobs: sample.oldLogprobs ?? underPolicy?.[i]?.logprobs ?? null,
    refLogprobs: sample.refLogprobs ?? underReference?.[i]?.logprobs ?? null,
    values: null,
  }));
}

/**
 * The file's samples with advantages, from the file or from its rewards, and the metrics to log.
 *
 * @param steps of one pass over the file
 */
export async function weighRecorded(
  models: RecordedModels,
  recorded: readonly Recorded[],
  config: OnDevice<UpdateConfig> & Pick<EstimatorSettings, "ownEstimator">,
  steps: number,
): Promise<{ samples: Weighed[]; metrics: Record<string, number | null>; warnings: readonly string[] }> {
  const measured = await measureRecorded(models, recorded, config, steps);
  const { samples, estimate } = weigh(measured, recordedRewards(config.rollouts, recorded), {
    ...config,
    // The file's advantages override these; only the reward statistics are used then.
    ...(recorded[0]?.advantages !== undefined && { advantageEstimator: "grpo" as const, ownEstimator: null }),
    ...NO_CRITIC,
  });
  const { rewardMean, rewardStd, fracRewardZeroStd, warnings } = estimate;
  return {
    samples: samples.map((sample) => ({ ...sample, advantage: sample.advantages ?? sample.advantage })),
    metrics: {
      ...{ reward: rewardMean, reward_std: rewardStd, frac_reward_zero_std: fracRewardZeroStd },
      ...estimate.metrics,
    },
    warnings,
  };
}
