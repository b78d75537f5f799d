/**
 * How the loss accounts for differences between the sampling policy and the trained one: the off-policy sequence mask,
 * and the correction by the ratio π_old ÷ π_sampler. Neither has a gradient.
 */
import { type LossCompletion, type LossConfig, meanAdvantage } from "./config.ts";

/**
 * Off-policy sequence mask (DeepSeek-V3.2): false drops a completion with negative advantage that the policy has moved
 * away from: mean(ℓ_sampler − ℓ) > `offPolicyMaskThreshold`.
 *
 * @param active the tokens under the mask m
 */
export function isKept(completion: LossCompletion, active: Int32Array, config: LossConfig): boolean {
  if (config.offPolicyMaskThreshold === null || meanAdvantage(completion.advantage, active) >= 0) return true;
  const { logprobs } = completion;
  const sampler = completion.samplingLogprobs ?? completion.oldLogprobs ?? logprobs;
  let distance = 0;
  for (const t of active) distance += sampler[t]! - logprobs[t]!;
  return distance / Math.max(active.length, 1) <= config.offPolicyMaskThreshold;
}

/**
 * π_old ÷ π_sampler, limited by `importanceSamplingMode`: truncated to [clip_min, clip_max], or 0 outside of it.
 * `sequence_*`: one ratio per completion, the product over its tokens.
 *
 * @param active the tokens under the mask m (A)
 * @returns null if the correction is off; (A) by token, (1) by sequence
 */
export function samplerRatio(completion: LossCompletion, active: Int32Array, config: LossConfig): Float64Array | null {
  if (!config.importanceSamplingCorrection) return null;
  const old = completion.oldLogprobs ?? completion.logprobs;
  const sampler = completion.samplingLogprobs ?? old;
  const mode = config.importanceSamplingMode;
  const bySequence = mode === "sequence_truncate" || mode === "sequence_mask";
  const ratios = new Float64Array(bySequence ? 1 : active.length);
  for (const [a, t] of active.entries()) ratios[bySequence ? 0 : a]! += old[t]! - sampler[t]!;
  const low = config.importanceSamplingClipMin ?? -Infinity;
  const high = config.importanceSamplingClipMax ?? Infinity;
  const truncates = mode === "token_truncate" || mode === "sequence_truncate";
  return ratios.map((logRatio) => {
    const ratio = Math.exp(logRatio);
    if (truncates) return Math.min(Math.max(ratio, low), high);
    return ratio < low || ratio > high ? 0 : ratio;
  });
}
