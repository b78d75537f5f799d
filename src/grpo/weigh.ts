/**
 * Samples with their rewards → samples with their advantages, whole groups at once, by the estimators in estimators/. These see
 * only the tokens that the policy sampled: returns and values step over a forced token, whose advantage is 0.
 */
import type { RewardResult } from "../rewards/pool/pool.ts";
import type { RewardInput } from "./advantages.ts";
import { type Estimate, type EstimatorSettings, estimateAdvantages, klOfTokens } from "./estimators/estimators.ts";
import type { KlEstimator, TokenMask, TokenValues } from "./loss/config.ts";
import { type Measured, sampledTokens, type Weighed } from "./sample.ts";

export interface WeighSettings extends EstimatorSettings {
  readonly useKlInReward: boolean;
  readonly klInRewardEstimator: KlEstimator;
}

/**
 * What samples are weighed by: the rewards of each function.
 *
 * @param weights null: 1 each
 * @param revised replace all of them, if given; one per sample
 */
export function rewardInput(
  perFunction: RewardResult["perFunction"],
  weights: readonly number[] | null,
  revised?: readonly (number | null)[],
): Omit<RewardInput, "groups"> {
  const names = perFunction.map(({ name }) => name);
  if (revised) return { rewards: revised, names };
  return { rewards: perFunction.map(({ rewards }) => rewards), weights: weights ?? undefined, names };
}

/** @throws InputError where a reward is NaN or infinite, or the weights don't fit the functions */
export function weigh<S extends Measured>(
  samples: readonly S[],
  rewards: Omit<RewardInput, "groups">,
  settings: WeighSettings,
): { readonly samples: (S & Weighed)[]; readonly estimate: Estimate } {
  const own = (values: (sample: S) => TokenValues | null) => samples.map((s) => ofSampled(values(s)!, s.mask));
  const charged = settings.useKlInReward && settings.beta !== 0;
  const old = () => own((sample) => sample.oldLogprobs);
  const reference = () => own((sample) => sample.refLogprobs);
  const estimate = estimateAdvantages(
    {
      ...rewards,
      groups: samples.map(({ group }) => group),
      lengths: samples.map(sampledTokens),
      finished: samples.map(({ finished }) => finished),
      kl: charged ? klOfTokens(settings.klInRewardEstimator, old(), reference()) : null,
      values: samples.some(({ values }) => values !== null) ? own(({ values }) => values) : null,
    },
    settings,
  );
  const { advantages, returns } = estimate;
  return {
    estimate,
    samples: samples.map((sample, i) => {
      const [advantage, learned] = [advantages[i]!, returns?.[i] ?? null];
      return {
        ...sample,
        advantage: typeof advantage === "number" ? advantage : ofAll(advantage, sample.mask),
        returns: learned && ofAll(learned, sample.mask),
      };
    }),
  };
}

/** The values of the sampled tokens alone, out of those of all. */
function ofSampled(values: TokenValues, mask: TokenMask): TokenValues {
  return mask ? values.filter((_, t) => mask[t] === 1) : values;
}

/** The values of the sampled tokens in their places, 0 at the others. (R) */
function ofAll(values: TokenValues, mask: TokenMask): TokenValues {
  if (!mask) return values;
  const sampled = values.values();
  return Float64Array.from(mask, (own) => (own === 1 ? sampled.next().value! : 0));
}
