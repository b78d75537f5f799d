/**
 * The table of loss types. A type is one entry: a token's term with its derivatives, how tokens are weighted against
 * each other (the aggregate), and what is logged. A new loss is a new entry (and its name in the setting `loss_type`).
 *
 * At a kink the derivative is that of torch 2.15, which TRL trains with: clamp has gradient 0 at its bounds, and the
 * minimum of two equal numbers gives each one half (test/golden/make_loss_cases.py).
 */
import { type LossCompletion, type LossConfig, type LossType, meanAdvantage } from "./config.ts";
import { addExtreme, addMean, type MetricParts } from "./metrics.ts";
import type { StepDenominators } from "./step.ts";

/** Inputs of a token's term. */
export interface TokenInput {
  /** ρ, of the token or of its sequence. */
  readonly ratio: number;
  /** ℓ */
  readonly logprob: number;
  readonly advantage: number;
  /** The result of `sequenceWeight`; 1 for types without one. */
  readonly sequenceWeight: number;
}

/** A token's term and its derivatives, before masks, sampler correction and KL. */
export interface Term {
  readonly value: number;
  /** ∂value/∂log ρ */
  readonly dLogRatio: number;
  /** ∂value/∂ℓ at constant ρ */
  readonly dLogprob: number;
}

/** Inputs of a completion's metrics: `count` is T under m, or 1 with one ratio per sequence. */
export interface ClipCounts {
  readonly low: number;
  readonly high: number;
  readonly count: number;
  readonly sequenceWeight: number;
}

export interface LossTypeEntry {
  readonly term: (token: TokenInput, config: LossConfig) => Term;
  /** The weight in the loss of each of a completion's `tokens` active tokens. */
  readonly tokenWeight: (step: StepDenominators, index: number, tokens: number, config: LossConfig) => number;
  /** A detached weight of the whole completion. */
  readonly sequenceWeight?: (
    completion: LossCompletion,
    active: Int32Array,
    samplerRatio: Float64Array | null,
    config: LossConfig,
  ) => number;
  /** True if `sequenceWeight` includes the sampler ratio, which must then not be multiplied again. */
  readonly takesSamplerRatio?: true;
  /** The side on which a ratio is clipped. */
  readonly clips?: (ratio: number, advantage: number, config: LossConfig) => "low" | "high" | null;
  readonly record?: (metrics: MetricParts, counts: ClipCounts) => void;
}

const upper = (config: LossConfig): number => config.epsilonHigh ?? config.epsilon;

// Aggregates: the weight of one token.
const completionMean: LossTypeEntry["tokenWeight"] = (step, _index, tokens) =>
  1 / (step.completions * Math.max(tokens, 1));
const completionSum: LossTypeEntry["tokenWeight"] = (step) => 1 / step.completions;
const tokenMean: LossTypeEntry["tokenWeight"] = (step) => 1 / step.meanTokens;
const constantLength: LossTypeEntry["tokenWeight"] = (step, _index, _tokens, config) =>
  1 / (step.completions * config.maxCompletionLength);
const blockMean: LossTypeEntry["tokenWeight"] = (step, index) =>
  1 / (step.blockTokens.length * Math.max(step.blockTokens[Math.floor(index / step.blockSize)] ?? 0, 1));

/**
 * −min(min(ρ, δ)·A, clip(ρ, 1 − ε, 1 + ε_high)·A): PPO's clipped surrogate (arXiv 1707.06347, eq. 7), δ of INTELLECT-2.
 */
function clippedSurrogate({ ratio, advantage }: TokenInput, config: LossConfig): Term {
  if (advantage === 0) return { value: 0, dLogRatio: 0, dLogprob: 0 };
  const low = 1 - config.epsilon;
  const high = 1 + upper(config);
  const cap = config.delta ?? Infinity;
  const free = Math.min(ratio, cap) * advantage;
  const clipped = Math.min(Math.max(ratio, low), high) * advantage;
  const dFree = ratio < cap ? ratio * advantage : 0;
  const dClipped = ratio > low && ratio < high ? ratio * advantage : 0;
  const dMin = free < clipped ? dFree : free > clipped ? dClipped : (dFree + dClipped) / 2;
  return { value: -Math.min(free, clipped), dLogRatio: -dMin, dLogprob: 0 };
}

const CLIPPED_SURROGATE: Omit<LossTypeEntry, "tokenWeight"> = {
  term: clippedSurrogate,
  clips: (ratio, advantage, config) => {
    const capped = Math.min(ratio, config.delta ?? Infinity);
    if (capped < 1 - config.epsilon && advantage < 0) return "low";
    return capped > 1 + upper(config) && advantage > 0 ? "high" : null;
  },
  record: (metrics, { low, high, count }) => {
    addMean(metrics, "clip_ratio/low_mean", low, count);
    addMean(metrics, "clip_ratio/high_mean", high, count);
    addMean(metrics, "clip_ratio/region_mean", low + high, count);
    if (count === 0) return;
    addExtreme(metrics, "clip_ratio/low_min", "min", low / count);
    addExtreme(metrics, "clip_ratio/high_max", "max", high / count);
  },
};

/** −stop(w)·A·ℓ: policy gradient with a detached weight. */
function weightedLogprob(weight: number, { logprob, advantage }: TokenInput): Term {
  if (advantage === 0) return { value: 0, dLogRatio: 0, dLogprob: 0 };
  return { value: -weight * advantage * logprob, dLogRatio: 0, dLogprob: -weight * advantage };
}

/** −σ(τ(ρ − 1))·4/τ·A, a soft clip (SAPO, arXiv 2511.20347). */
function softClip({ ratio, advantage }: TokenInput, config: LossConfig): Term {
  if (advantage === 0) return { value: 0, dLogRatio: 0, dLogprob: 0 };
  const tau = advantage > 0 ? config.sapoTemperaturePos : config.sapoTemperatureNeg;
  const gate = 1 / (1 + Math.exp(-tau * (ratio - 1)));
  // For an infinite ratio the gate is saturated: 0 · ∞ is 0 here.
  const slope = gate === 1 ? 0 : 4 * gate * (1 - gate) * ratio;
  return { value: ((-gate * 4) / tau) * advantage, dLogRatio: -slope * advantage, dLogprob: 0 };
}

const VESPO_LOWEST = Math.log(1e-8);
const VESPO_HIGHEST = 20;
const clamp = (value: number, low: number, high: number): number => Math.min(Math.max(value, low), high);

/** φ(W) = e^λ·W^k·e^(−λW), W the product of the ratios over the sequence (VESPO, arXiv 2602.10693); φ(1) = 1. */
function gammaWeight(
  completion: LossCompletion,
  active: Int32Array,
  samplerRatio: Float64Array | null,
  config: LossConfig,
): number {
  const { logprobs, oldLogprobs } = completion;
  const advantage = meanAdvantage(completion.advantage, active);
  let logW = 0;
  if (oldLogprobs) for (const t of active) logW += clamp(logprobs[t]! - oldLogprobs[t]!, -VESPO_HIGHEST, VESPO_HIGHEST);
  for (const ratio of samplerRatio ?? []) logW += clamp(Math.log(ratio), VESPO_LOWEST, VESPO_HIGHEST);
  logW = clamp(logW, VESPO_LOWEST, VESPO_HIGHEST);
  const k = advantage >= 0 ? config.vespoKPos : config.vespoKNeg;
  const lambda = Math.max(advantage >= 0 ? config.vespoLambdaPos : config.vespoLambdaNeg, 1e-4);
  return Math.exp(lambda + k * logW - lambda * Math.exp(logW));
}

/** Every loss type by its name. Numerics are TRL 1.16's; papers are cited here and at the terms above. */
export const LOSS_TYPES: Record<LossType, LossTypeEntry> = {
  // DeepSeekMath, arXiv 2402.03300
  grpo: { ...CLIPPED_SURROGATE, tokenWeight: completionMean },
  // The token mean of each block of completions
  bnpo: { ...CLIPPED_SURROGATE, tokenWeight: blockMean },
  // Dr. GRPO, arXiv 2503.20783
  dr_grpo: { ...CLIPPED_SURROGATE, tokenWeight: constantLength },
  // DAPO, arXiv 2503.14476
  dapo: { ...CLIPPED_SURROGATE, tokenWeight: tokenMean },
  // LUSPO, arXiv 2602.05261; meant for importanceSamplingLevel "sequence"
  luspo: { ...CLIPPED_SURROGATE, tokenWeight: completionSum },
  // CISPO of MiniMax-M1, arXiv 2506.13585
  cispo: {
    term: (token, config) => weightedLogprob(Math.min(token.ratio, upper(config)), token),
    tokenWeight: tokenMean,
    clips: (ratio, advantage, config) => (ratio > upper(config) && advantage > 0 ? "high" : null),
    record: (metrics, { high, count }) => addMean(metrics, "cispo_clip_ratio", high, count),
  },
  sapo: { term: softClip, tokenWeight: completionMean },
  vespo: {
    term: (token) => weightedLogprob(token.sequenceWeight, token),
    tokenWeight: tokenMean,
    sequenceWeight: gammaWeight,
    takesSamplerRatio: true,
    record: (metrics, { sequenceWeight }) => addMean(metrics, "vespo/phi_seq_mean", sequenceWeight, 1),
  },
};
