/**
 * The models' passes over a generation before its advantages: logprobs under the reference and the sampling policy, and
 * the critic's values. Nothing here has a gradient.
 */

import type { Model } from "../model/model.ts";
import { scoreValues } from "../model/scalar-head.ts";
import { divided, type Ranks } from "../ranks/ranks.ts";
import type { Critic } from "../session/critic.ts";
import type { ScoringModel } from "../session/policy.ts";
import { scoreDivided, type scoreGroups } from "./learner/policy-update.ts";
import { type Measured, packed, type Sampled } from "./sample.ts";

/** The policy, a reference that uses its buffers, and the critic with its own. */
export interface MeasuringModels {
  readonly policy: ScoringModel;
  readonly reference: Model | null;
  readonly critic: Critic | null;
}

/**
 * Adds π_ref, π_old and values to samples. π_old is the recorded logprob if training computes the same bits. Otherwise
 * a separate pass computes it if the update needs it in advance; if not, it is null and the update's first forward
 * gives it.
 *
 * @param needsOld several steps learn from the generation, or the reward is charged with a KL
 * @throws RunError if the device fails
 */
export async function measure<S extends Sampled>(
  { policy: { model: policy, activations }, reference, critic }: MeasuringModels,
  samples: readonly S[],
  options: Parameters<typeof scoreGroups>[3],
  needsOld: boolean,
  onTokens: (model: "reference" | "policy" | "critic", tokens: number) => void,
  ranks?: Ranks,
): Promise<{ readonly samples: (S & Measured)[]; readonly referenceTokens: number }> {
  const { exactlyOnPolicy } = policy.device;
  const groups = packed(samples);
  let referenceTokens = 0;
  const counted = (model: "reference" | "policy" | "critic") => (tokens: number) => {
    if (model === "reference") referenceTokens += tokens;
    onTokens(model, tokens);
  };
  const score = (model: Model, name: "reference" | "policy") =>
    scoreDivided(ranks, model, activations, name === "policy" ? packed(samples, true) : groups, options, counted(name));
  const underReference = reference ? await score(reference, "reference") : null;
  const underPolicy = needsOld && !exactlyOnPolicy ? await score(policy, "policy") : null;
  const values = critic
    ? await divided("values", ranks, groups, (own) =>
        scoreValues(critic.model, critic.activations, own, options, counted("critic")),
      )
    : null;
  return {
    referenceTokens,
    samples: samples.map((sample, i) => ({
      ...sample,
      oldLogprobs: exactlyOnPolicy ? sample.logprobs : (underPolicy?.[i]?.logprobs ?? null),
      refLogprobs: underReference?.[i]?.logprobs ?? null,
      values: values?.[i] ?? null,
    })),
  };
}
