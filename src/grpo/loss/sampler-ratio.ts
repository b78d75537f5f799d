/**
 * What a difference between the policy as sampled and the policy as trained changes in the loss:
 * the off-policy sequence mask, and the correction by the ratio π_old ÷ π_sampler. Neither has a gradient.
 */
import { type LossCompletion, type LossConfig, meanAdvantage } from "./config.ts";

/**
 * Off-policy sequence mask (DeepSeek-V3.2): false drops a completion of negative advantage that the policy has
 * moved away from, mean(ℓ_sampler − ℓ) > `offPolicyMaskThreshold`.
 *
 * @param tokens T under the mask m
 */
export function isKept(completion: LossCompletion, tokens: number, config: LossConfig): boolean {
  if (config.offPolicyMaskThreshold === null || meanAdvantage(completion.advantage, tokens) >= 0) return true;
  const { logprobs } = completion;
  const sampler = completion.samplingLogprobs ?? completion.oldLogprobs ?? logprobs;
  let distance = 0;
  for (let t = 0; t < tokens; t++) distance += sampler[t]! - logprobs[t]!;
  return distance / Math.max(tokens, 1) <= config.offPolicyMaskThreshold;
}

/**
 * π_old ÷ π_sampler, limited by `importanceSamplingMode`: truncated to [clip_min, clip_max], or 0 outside of it.
 * `sequence_*`: one ratio a completion, the product over its tokens.
 *
 * @param tokens T under the mask m
 * @returns null where the correction is off; (T) by token, (1) by sequence
 */
export function samplerRatio(completion: LossCompletion, tokens: number, config: LossConfig): Float64Array | null {
  if (!config.importanceSamplingCorrection) return null;
  const old = completion.oldLogprobs ?? completion.logprobs;
  const sampler = completion.samplingLogprobs ?? old;
  const mode = config.importanceSamplingMode;
  const bySequence = mode === "sequence_truncate" || mode === "sequence_mask";
  const ratios = new Float64Array(bySequence ? 1 : tokens);
  for (let t = 0; t < tokens; t++) ratios[bySequence ? 0 : t]! += old[t]! - sampler[t]!;
  const low = config.importanceSamplingClipMin ?? -Infinity;
  const high = config.importanceSamplingClipMax ?? Infinity;
  const truncates = mode === "token_truncate" || mode === "sequence_truncate";
  return ratios.map((logRatio) => {
    const ratio = Math.exp(logRatio);
    if (truncates) return Math.min(Math.max(ratio, low), high);
    return ratio < low || ratio > high ? 0 : ratio;
  });
}
