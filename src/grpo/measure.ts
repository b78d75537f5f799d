/**
 * What the models say of a generation before its advantages: logprobs under the reference and under the policy that
 * sampled, and the critic's values. Nothing here has a gradient.
 */
import { scoreValues } from "../model/scalar-head.ts";
import type { Session } from "../session/session.ts";
import { type PolicyUpdateSettings, scoreGroups } from "./policy-update.ts";
import { type Measured, packed, type Sampled } from "./sample.ts";

export interface MeasureOptions {
  readonly settings: PolicyUpdateSettings;
  /** Whether π_old must be known before the update: several steps learn from the generation, or the reward needs it. */
  readonly needsOld: boolean;
  readonly onTokens: (model: "reference" | "policy" | "critic", tokens: number) => void;
}

/**
 * π_old is what was recorded while sampling where training computes the same bits, else from a pass of its own; null: the
 * update's own first forward gives it.
 *
 * @throws RunError where the device fails
 */
export async function measure<S extends Sampled>(
  { device, policy, reference, activations, critic }: Session,
  samples: readonly S[],
  { settings, needsOld, onTokens }: MeasureOptions,
): Promise<(S & Measured)[]> {
  if (!activations) throw new Error("the session was not planned for training");
  const groups = packed(samples);
  const score = (model: typeof policy, name: "reference" | "policy") =>
    scoreGroups(model, activations, groups, settings, (tokens) => onTokens(name, tokens));
  const underReference = reference ? await score(reference, "reference") : null;
  const underPolicy = needsOld && !device.exactlyOnPolicy ? await score(policy, "policy") : null;
  const values = critic
    ? await scoreValues(critic.model, critic.activations, groups, settings, (tokens) => onTokens("critic", tokens))
    : null;
  return samples.map((sample, i) => ({
    ...sample,
    oldLogprobs: device.exactlyOnPolicy ? sample.logprobs : (underPolicy?.[i]?.logprobs ?? null),
    refLogprobs: underReference?.[i]?.logprobs ?? null,
    values: values?.[i] ?? null,
  }));
}
