/**
 * A loss of the caller's own, in place of a loss type: a function from a completion's numbers to its share of the loss and
 * the derivatives. It runs on the host in float64, completion by completion, as the built-in losses do, so its result does
 * not depend on micro-batches either. The entropy bonus is added to it as to any loss; everything else is the function's:
 * clipping, the KL, the average over tokens.
 */
import { InputError, RunError } from "../../errors.ts";
import { activeTokens, type LossCompletion, type LossConfig, type OwnLoss } from "./config.ts";
import { KL_ESTIMATORS } from "./kl.ts";
import { addMean, type MetricParts } from "./metrics.ts";
import type { StepDenominators } from "./step.ts";

/** Settings of the built-in losses that a loss of one's own replaces. @throws InputError where one of them is set */
export function requireOwnLossAlone(config: LossConfig): void {
  const set = {
    importanceSamplingCorrection: config.importanceSamplingCorrection,
    offPolicyMaskThreshold: config.offPolicyMaskThreshold !== null,
    topEntropyQuantile: config.topEntropyQuantile < 1,
    useBiasCorrectionKl: config.useBiasCorrectionKl,
  };
  for (const [name, isSet] of Object.entries(set))
    if (isSet) throw new InputError(`${name}: has no effect on a loss of your own; leave it out, or do it in the loss`);
}

/**
 * One completion's share; writes its gradients and adds its metrics.
 *
 * @throws RunError if the function gives anything but finite numbers, one derivative per token
 */
export function ownCompletionLoss(
  own: OwnLoss,
  completion: LossCompletion,
  step: StepDenominators,
  config: LossConfig,
  out: { readonly dlogprobs: Float64Array; readonly dentropies: Float64Array },
  metrics: MetricParts,
): { policyLoss: number; entropySum: number } {
  const { logprobs, entropies, oldLogprobs, refLogprobs, advantage, finished, index } = completion;
  const active = activeTokens(logprobs.length, completion, config);
  const mask = new Uint8Array(logprobs.length);
  for (const t of active) mask[t] = 1;
  const { own: _, ...settings } = config;
  const result = own({
    ...{ logprobs, entropies, refLogprobs, mask, finished, config: settings },
    oldLogprobs: oldLogprobs ?? logprobs,
    advantages: Float64Array.from(logprobs, (_, t) => (typeof advantage === "number" ? advantage : advantage[t]!)),
    step: { completions: step.completions, tokens: step.tokens },
  });
  const name = own.name === "" ? "your loss" : `loss ${own.name}`;
  if (!Number.isFinite(result?.loss)) throw new RunError(`${name} gave ${result?.loss} for completion ${index}`);
  if (result.dlogprobs?.length !== logprobs.length)
    throw new RunError(
      `${name} gave ${result.dlogprobs?.length ?? "no"} derivatives for the ${logprobs.length} tokens of completion ${index}`,
    );
  const dEntropy = config.entropyCoef === 0 ? 0 : -config.entropyCoef / Math.max(step.entropyTokens, 1);
  let [entropySum, klSum] = [0, 0];
  for (const t of active) {
    const derivative = result.dlogprobs[t]!;
    if (!Number.isFinite(derivative))
      throw new RunError(`${name}: the derivative of completion ${index}, token ${t} is ${derivative}`);
    out.dlogprobs[t] = derivative;
    out.dentropies[t] = dEntropy;
    entropySum += entropies[t]!;
    if (refLogprobs) klSum += KL_ESTIMATORS[config.klEstimator](logprobs[t]!, refLogprobs[t]!).kl;
  }
  if (refLogprobs) addMean(metrics, "kl", klSum, active.length);
  addMean(metrics, "entropy", entropySum, active.length);
  for (const [metric, value] of Object.entries(result.metrics ?? {})) addMean(metrics, metric, value, 1);
  return { policyLoss: result.loss, entropySum };
}
