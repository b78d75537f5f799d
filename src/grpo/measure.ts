/**
 * What is computed of a generation before its advantages: logprobs under the reference and under the policy that sampled,
 * and the critic's values. Nothing here has a gradient.
 */

import type { Model } from "../model/lm-head.ts";
import type { PackedGroup } from "../model/micro-batches.ts";
import { scoreValues } from "../model/scalar-head.ts";
import type { SampledCompletion } from "../rollout/sequence.ts";
import type { Critic } from "../session/critic.ts";
import type { ScoringModel } from "../session/policy.ts";
import { type PolicyUpdateSettings, scoreGroups } from "./policy-update.ts";

/** By completion, in the order of the groups; null where it is not needed. (N)(R) */
export interface Measured {
  readonly reference: readonly Float32Array[] | null;
  /**
   * π_old: recorded while sampling where training computes the same bits, else by a pass of its own; null: the update's own
   * first forward gives it.
   */
  readonly old: readonly Float32Array[] | null;
  /** The pass of its own, where there was one. */
  readonly scored: readonly Float32Array[] | null;
  /** V before the update. */
  readonly values: readonly Float32Array[] | null;
}

export interface MeasureOptions {
  readonly settings: PolicyUpdateSettings;
  /** Whether π_old must be known before the update: several steps learn from the generation, or the reward needs it. */
  readonly needsOld: boolean;
  readonly onTokens: (model: "reference" | "policy" | "critic", tokens: number) => void;
}

/** What measures: the reference in the policy's buffers, the critic in its own. */
export interface MeasuringModels {
  readonly policy: ScoringModel;
  readonly reference: Model | null;
  readonly critic: Critic | null;
}

/** @throws RunError where the device fails */
export async function measure(
  { policy: { model: policy, activations }, reference, critic }: MeasuringModels,
  groups: readonly PackedGroup[],
  completions: readonly SampledCompletion[],
  { settings, needsOld, onTokens }: MeasureOptions,
): Promise<Measured> {
  const { exactlyOnPolicy } = policy.device;
  const score = async (model: Model, name: "reference" | "policy") =>
    (await scoreGroups(model, activations, groups, settings, (tokens) => onTokens(name, tokens))).map(
      ({ logprobs }) => logprobs,
    );
  const underReference = reference ? await score(reference, "reference") : null;
  const scored = needsOld && !exactlyOnPolicy ? await score(policy, "policy") : null;
  const values = critic
    ? await scoreValues(critic.model, critic.activations, groups, settings, (tokens) => onTokens("critic", tokens))
    : null;
  return {
    reference: underReference,
    old: exactlyOnPolicy ? completions.map(({ logprobs }) => logprobs) : scored,
    scored,
    values,
  };
}
