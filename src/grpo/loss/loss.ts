/**
 * The policy loss of GRPO and its variants on the host, in float64, with its gradients: one implementation for all
 * backends. In: logprobs and entropies of whole completions, from the device's LM head. Out: the loss, and ∂loss/∂ℓ and
 * ∂loss/∂entropy of every token, for the LM head's backward pass.
 *
 * A step is evaluated whole or in parts: `stepDenominators` over all completions, then `computeLoss` for each
 * micro-batch; losses add up, gradients are bit-identical for any split, `foldMetrics` combines the metrics.
 * Advantages come from advantages.ts; the loss types are in loss/loss-types.ts.
 */
import { RunError } from "../../errors.ts";
import {
  type Advantage,
  activeTokens,
  type LossCompletion,
  type LossConfig,
  meanAdvantage,
  type TokenValues,
} from "./config.ts";
import { KL_ESTIMATORS } from "./kl.ts";
import { LOSS_TYPES, type LossTypeEntry, type Term } from "./loss-types.ts";
import { addExtreme, addMean, addTotal, type MetricParts } from "./metrics.ts";
import { ownCompletionLoss } from "./own.ts";
import { isKept, samplerRatio } from "./sampler-ratio.ts";
import type { StepDenominators } from "./step.ts";

export interface LossResult {
  /** This part's share of the step's loss. */
  readonly loss: number;
  /** ∂loss/∂ℓ of every token, completion after completion. (ΣT) */
  readonly dlogprobs: Float64Array;
  /** ∂loss/∂entropy likewise. (ΣT) */
  readonly dentropies: Float64Array;
  /** Over the tokens under m and the entropy mask; divided by `entropyTokens` it is the mean that the bonus uses. */
  readonly entropySum: number;
  /** Under TRL's names (`kl`, `entropy`, `clip_ratio/…`); `foldMetrics` turns one or more parts into numbers. */
  readonly metrics: MetricParts;
}

/**
 * The loss of some of a step's completions, with its gradients.
 *
 * Order, as in TRL: term of the loss type · off-policy mask · entropy mask · sampler ratio + β·KL, weighted by the
 * type's aggregate; − `entropyCoef` · mean entropy.
 *
 * @param part whole completions, any subset of the step in any order
 * @param step of all completions of the step, with the same `config`
 * @throws RunError if an input is NaN or infinite, or the loss or a gradient becomes so, naming completion and token
 */
export function computeLoss(part: readonly LossCompletion[], step: StepDenominators, config: LossConfig): LossResult {
  const length = part.reduce((sum, completion) => sum + completion.logprobs.length, 0);
  const dlogprobs = new Float64Array(length);
  const dentropies = new Float64Array(length);
  const metrics: MetricParts = new Map();
  let policyLoss = 0;
  let entropySum = 0;
  let start = 0;
  for (const completion of part) {
    checkInputs(completion, config);
    const end = start + completion.logprobs.length;
    const gradients = { dlogprobs: dlogprobs.subarray(start, end), dentropies: dentropies.subarray(start, end) };
    const share = config.own
      ? ownCompletionLoss(config.own, completion, step, config, gradients, metrics)
      : completionLoss(completion, step, config, gradients, metrics);
    policyLoss += share.policyLoss;
    entropySum += share.entropySum;
    start = end;
  }
  let loss = policyLoss;
  if (config.entropyCoef !== 0) {
    loss -= (config.entropyCoef * entropySum) / Math.max(step.entropyTokens, 1);
    addTotal(metrics, "policy_loss", policyLoss);
    addExtreme(metrics, "entropy_coef", "max", config.entropyCoef);
  }
  return { loss, dlogprobs, dentropies, entropySum, metrics };
}

/** What all tokens of a completion share. */
interface Shared {
  readonly completion: LossCompletion;
  readonly active: Int32Array;
  readonly step: StepDenominators;
  readonly config: LossConfig;
  readonly type: LossTypeEntry;
  /** One ratio per token. */
  readonly perToken: boolean;
  /** Of each of its tokens in the loss. */
  readonly weight: number;
  readonly advantage: number;
  /** The limited sampler ratio. */
  readonly sampler: Float64Array | null;
  readonly sequenceWeight: number;
  readonly kept: boolean;
  /** ∂loss/∂entropy of each token under the entropy mask. */
  readonly dEntropy: number;
}

function sharedBy(completion: LossCompletion, step: StepDenominators, config: LossConfig): Shared {
  const type = LOSS_TYPES[config.lossType];
  const active = activeTokens(completion.logprobs.length, completion, config);
  const sampler = samplerRatio(completion, active, config);
  return {
    ...{ completion, active, step, config, type, sampler },
    perToken: config.importanceSamplingLevel === "token",
    weight: type.tokenWeight(step, completion.place ?? completion.index, active.length, config),
    advantage: meanAdvantage(completion.advantage, active),
    sequenceWeight: type.sequenceWeight?.(completion, active, sampler, config) ?? 1,
    kept: isKept(completion, active, config),
    dEntropy: config.entropyCoef === 0 ? 0 : -config.entropyCoef / Math.max(step.entropyTokens, 1),
  };
}

/** A token's share, before its weight, and its derivatives. */
interface TokenLoss {
  readonly value: number;
  readonly kl: number;
  readonly ratio: number;
  readonly advantage: number;
  /** Under the entropy mask. */
  readonly inMask: boolean;
  /** ∂value/∂(log of the sequence's ratio); 0 with one ratio per token. */
  readonly dSequence: number;
  /** Weighted ∂loss/∂ℓ, without what comes through a sequence's ratio. */
  readonly gradient: number;
}

/**
 * @param t the `a`-th active token of its completion
 * @param sequenceRatio used unless there is one ratio per token
 */
function tokenLoss(
  shared: Shared,
  t: number,
  a: number,
  logprob: number,
  entropy: number,
  sequenceRatio = 1,
): TokenLoss {
  const { completion, step, config, type, perToken, weight, sequenceWeight } = shared;
  const { oldLogprobs, refLogprobs } = completion;
  const sampledBy = type.takesSamplerRatio ? null : shared.sampler;
  const ratio = perToken ? (oldLogprobs ? Math.exp(logprob - oldLogprobs[t]!) : 1) : sequenceRatio;
  const advantage = typeof completion.advantage === "number" ? shared.advantage : completion.advantage[t]!;
  const inMask = entropy >= step.entropyThreshold;
  let value = 0;
  let dLogprob = 0;
  let dLogRatio = 0;
  if (shared.kept && inMask) {
    const scale = sampledBy ? sampledBy[sampledBy.length === 1 ? 0 : a]! : 1;
    const term: Term = type.term({ ratio, logprob, advantage, sequenceWeight }, config);
    // A completion or token masked by the sampler's ratio has no policy term, even if its own ratio is infinite.
    if (scale !== 0) {
      value = scale * term.value;
      dLogprob = scale * term.dLogprob;
      dLogRatio = scale * term.dLogRatio;
    }
  }
  let klTerm = 0;
  if (config.beta !== 0) {
    const { kl, dkl } = KL_ESTIMATORS[config.klEstimator](logprob, refLogprobs![t]!);
    const correction = config.useBiasCorrectionKl ? ratio : 1;
    klTerm = kl * correction;
    value += config.beta * kl * correction;
    dLogprob += config.beta * dkl * correction;
    if (config.useBiasCorrectionKl) dLogRatio += config.beta * kl * correction;
  }
  const gradient = weight * (perToken ? dLogprob + dLogRatio : dLogprob);
  if (!Number.isFinite(value) || !Number.isFinite(gradient) || !Number.isFinite(dLogRatio)) {
    throw new RunError(
      `the loss of completion ${completion.index}, token ${t} is not finite (ratio ${ratio}, advantage ${advantage}): ` +
        "the policy has moved too far from the one that sampled; lower learning_rate or num_iterations",
    );
  }
  return { value, kl: klTerm, ratio, advantage, inMask, dSequence: perToken ? 0 : dLogRatio, gradient };
}

/**
 * Whether a token's derivatives depend on no other token's logprob, so that `tokenDerivatives` can give them: not with a
 * ratio, weight or mask of the whole completion that is made of the current logprobs, and not with a loss of one's own.
 */
export function isTokenwise(step: readonly Pick<LossCompletion, "oldLogprobs">[], config: LossConfig): boolean {
  return (
    !config.own &&
    config.importanceSamplingLevel === "token" &&
    config.offPolicyMaskThreshold === null &&
    !LOSS_TYPES[config.lossType].sequenceWeight &&
    (!config.importanceSamplingCorrection || step.every(({ oldLogprobs }) => oldLogprobs !== null))
  );
}

/**
 * The derivatives of single tokens, as `computeLoss` gives them for whole completions, for a loss that `isTokenwise`.
 *
 * @param completion its logprobs and entropies are not known yet
 * @param tokens its length
 */
export function tokenDerivatives(
  completion: Omit<LossCompletion, "logprobs" | "entropies">,
  tokens: number,
  step: StepDenominators,
  config: LossConfig,
): (t: number, logprob: number, entropy: number) => { dlogprob: number; dentropy: number } {
  const unknown = new Float32Array(tokens);
  checkInputs({ ...completion, logprobs: unknown, entropies: unknown }, config);
  const shared = sharedBy({ ...completion, logprobs: unknown, entropies: unknown }, step, config);
  const order = new Int32Array(tokens).fill(-1);
  for (const [a, t] of shared.active.entries()) order[t] = a;
  return (t, logprob, entropy) => {
    checkFinite("logprob", completion.index, t, logprob);
    checkFinite("entropy", completion.index, t, entropy);
    if (order[t]! < 0) return { dlogprob: 0, dentropy: 0 };
    const { gradient, inMask } = tokenLoss(shared, t, order[t]!, logprob, entropy);
    return { dlogprob: gradient, dentropy: inMask ? shared.dEntropy : 0 };
  };
}

/** One completion's share; writes its gradients and adds its metrics. `entropySum` is over m and the entropy mask. */
function completionLoss(
  completion: LossCompletion,
  step: StepDenominators,
  config: LossConfig,
  out: { dlogprobs: Float64Array; dentropies: Float64Array },
  metrics: MetricParts,
): { policyLoss: number; entropySum: number } {
  const { logprobs, entropies, oldLogprobs } = completion;
  const shared = sharedBy(completion, step, config);
  const { active, type, perToken, weight, sampler, sequenceWeight } = shared;
  const tokens = active.length;
  // The derivative of the sequence's log-ratio in a token's is 1/parts.
  const parts = config.importanceSamplingLevel === "sequence" ? Math.max(tokens, 1) : 1;
  const sequenceRatio = perToken ? 1 : Math.exp(sumLogRatio(logprobs, oldLogprobs, active) / parts);

  let policyLoss = 0;
  let entropySum = 0;
  let allEntropySum = 0;
  let klSum = 0;
  /** ∂loss/∂(log of the sequence's ratio), summed over its tokens */
  let dSequence = 0;
  const clipped = { low: 0, high: 0 };
  for (const [a, t] of active.entries()) {
    const token = tokenLoss(shared, t, a, logprobs[t]!, entropies[t]!, sequenceRatio);
    klSum += token.kl;
    policyLoss += weight * token.value;
    out.dlogprobs[t] = token.gradient;
    dSequence += weight * token.dSequence;
    allEntropySum += entropies[t]!;
    if (token.inMask) {
      entropySum += entropies[t]!;
      out.dentropies[t] = shared.dEntropy;
    }
    const side = perToken ? type.clips?.(token.ratio, token.advantage, config) : null;
    if (side) clipped[side]++;
  }
  if (!perToken) {
    for (const t of active) out.dlogprobs[t]! += dSequence / parts;
    const side = type.clips?.(sequenceRatio, shared.advantage, config);
    if (side) clipped[side]++;
  }
  type.record?.(metrics, { ...clipped, count: perToken ? tokens : 1, sequenceWeight });
  if (config.beta !== 0) addMean(metrics, "kl", klSum, tokens);
  addMean(metrics, "entropy", allEntropySum, tokens);
  recordSampler(metrics, completion, active, sampler);
  return { policyLoss, entropySum };
}

function sumLogRatio(logprobs: TokenValues, oldLogprobs: TokenValues | null, active: Int32Array): number {
  if (!oldLogprobs) return 0;
  let sum = 0;
  for (const t of active) sum += logprobs[t]! - oldLogprobs[t]!;
  return sum;
}

/** |ℓ_old − ℓ_sampler| if the sampler's logprobs are given, and the limited ratio if it enters the loss. */
function recordSampler(
  metrics: MetricParts,
  completion: LossCompletion,
  active: Int32Array,
  ratios: Float64Array | null,
): void {
  const { samplingLogprobs } = completion;
  const old = completion.oldLogprobs ?? completion.logprobs;
  if (samplingLogprobs && active.length > 0) {
    let sum = 0;
    let largest = 0;
    for (const t of active) {
      const difference = Math.abs(old[t]! - samplingLogprobs[t]!);
      sum += difference;
      largest = Math.max(largest, difference);
    }
    addMean(metrics, "sampling/sampling_logp_difference/mean", sum, active.length);
    addExtreme(metrics, "sampling/sampling_logp_difference/max", "max", largest);
  }
  for (const ratio of ratios ?? []) {
    addExtreme(metrics, "sampling/importance_sampling_ratio/min", "min", ratio);
    addMean(metrics, "sampling/importance_sampling_ratio/mean", ratio, 1);
    addExtreme(metrics, "sampling/importance_sampling_ratio/max", "max", ratio);
  }
}

function checkAdvantage(advantage: Advantage, tokens: number, index: number): void {
  if (typeof advantage === "number") {
    if (!Number.isFinite(advantage)) throw new RunError(`the advantage of completion ${index} is ${advantage}`);
    return;
  }
  if (advantage.length !== tokens)
    throw new Error(`completion ${index} has ${tokens} logprobs and ${advantage.length} advantages`);
  const broken = advantage.findIndex((value) => !Number.isFinite(value));
  if (broken >= 0) throw new RunError(`the advantage of completion ${index}, token ${broken} is ${advantage[broken]}`);
}

function checkFinite(name: string, index: number, t: number, value: number): void {
  if (Number.isFinite(value)) return;
  throw new RunError(
    `the ${name} of completion ${index}, token ${t} is ${value}: the model's output is broken; ` +
      "lower learning_rate, or check the checkpoint and dtype",
  );
}

/** The NaN guard: no non-finite number reaches a gradient. */
function checkInputs(completion: LossCompletion, config: LossConfig): void {
  const { index, logprobs, advantage } = completion;
  checkAdvantage(advantage, logprobs.length, index);
  const inputs: [string, TokenValues | null][] = [
    ["logprob", logprobs],
    ["entropy", completion.entropies],
    ["old logprob", completion.oldLogprobs],
    ["reference logprob", completion.refLogprobs],
    ["sampling logprob", completion.samplingLogprobs],
  ];
  for (const [name, values] of inputs) {
    if (!values) continue;
    if (values.length !== logprobs.length) {
      throw new Error(`completion ${index} has ${logprobs.length} logprobs and ${values.length} values of ${name}`);
    }
    for (let t = 0; t < values.length; t++) checkFinite(name, index, t, values[t]!);
  }
  if (config.beta !== 0 && !completion.refLogprobs) {
    throw new Error(`completion ${index} has no reference logprobs, and beta is ${config.beta}`);
  }
}
