/**
 * The loss's inputs: its settings and one completion's numbers. Types and defaults only.
 * Temperature is not a setting of the loss: every logprob given to it is already of logits ÷ temperature.
 */
import type { TrainConfig } from "../../config/schema.ts";

export type LossType = TrainConfig["lossType"];
export type KlEstimator = "k1" | "k2" | "k3";
export type SamplerCorrectionMode = "token_truncate" | "token_mask" | "sequence_truncate" | "sequence_mask";

/** The settings of the loss, under TRL's names in camelCase. */
export interface LossConfig {
  readonly lossType: LossType;
  /** In place of `lossType`. */
  readonly own?: OwnLoss | null | undefined;
  /** Lower clip: the ratio is kept above 1 − epsilon. */
  readonly epsilon: number;
  /** Upper clip: 1 + epsilonHigh (null: epsilon). For `cispo` it caps the ratio itself. */
  readonly epsilonHigh: number | null;
  /** Two-sided clipping: a cap on the ratio where A < 0 (INTELLECT-2). */
  readonly delta: number | null;
  /** Weight of the KL to the reference. */
  readonly beta: number;
  readonly klEstimator: KlEstimator;
  /** Multiplies the KL by the ratio (DeepSeek-V3.2). */
  readonly useBiasCorrectionKl: boolean;
  /** `sequence`: one ratio per completion, of the mean log-ratio (GSPO); `sequence_product`: of the sum (RLOO). */
  readonly importanceSamplingLevel: "token" | "sequence" | "sequence_product";
  /** The constant length that `dr_grpo` divides by. */
  readonly maxCompletionLength: number;
  /** Completions in one of `bnpo`'s blocks; null: the whole step is one block. Used only by `bnpo`. */
  readonly perDeviceTrainBatchSize: number | null;
  /** Excludes unfinished completions from the token mask m. */
  readonly maskTruncatedCompletions: boolean;
  /** q < 1 keeps the policy loss only for the fraction q of tokens with the highest entropies. */
  readonly topEntropyQuantile: number;
  readonly entropyCoef: number;
  /** Drops completions with A < 0 and mean(ℓ_sampler − ℓ) above this (DeepSeek-V3.2); null: off. */
  readonly offPolicyMaskThreshold: number | null;
  /** Multiplies the loss by π_old ÷ π_sampler, limited by the next three settings. */
  readonly importanceSamplingCorrection: boolean;
  readonly importanceSamplingMode: SamplerCorrectionMode;
  readonly importanceSamplingClipMax: number | null;
  readonly importanceSamplingClipMin: number | null;
  readonly sapoTemperaturePos: number;
  readonly sapoTemperatureNeg: number;
  readonly vespoKPos: number;
  readonly vespoLambdaPos: number;
  readonly vespoKNeg: number;
  readonly vespoLambdaNeg: number;
}

/** DeepSeekMath's settings; parameters of the other loss types are TRL's defaults. */
export const LOSS_DEFAULTS: LossConfig = {
  lossType: "grpo",
  epsilon: 0.2,
  epsilonHigh: null,
  delta: null,
  beta: 0.04,
  klEstimator: "k3",
  useBiasCorrectionKl: false,
  importanceSamplingLevel: "token",
  maxCompletionLength: 512,
  perDeviceTrainBatchSize: null,
  maskTruncatedCompletions: false,
  topEntropyQuantile: 1,
  entropyCoef: 0,
  offPolicyMaskThreshold: null,
  importanceSamplingCorrection: false,
  importanceSamplingMode: "sequence_mask",
  importanceSamplingClipMax: 3,
  importanceSamplingClipMin: null,
  sapoTemperaturePos: 1,
  sapoTemperatureNeg: 1.05,
  vespoKPos: 2,
  vespoLambdaPos: 3,
  vespoKNeg: 3,
  vespoLambdaNeg: 2,
};

/** Numbers of a completion's tokens, (T). Natural logarithms and nats. */
export type TokenValues = Float32Array | Float64Array;

/**
 * Which tokens of a completion the policy sampled (T): 1, or 0 for forced ones such as a tool's answer, which are only
 * context. null: all were sampled.
 */
export type TokenMask = Uint8Array | null;

/**
 * The advantage of a whole completion, or of each of its tokens (T). With per-token advantages, completion-level rules
 * (the off-policy mask, `vespo`'s weight, the side on which a sequence's ratio is clipped) use their mean.
 */
export type Advantage = number | TokenValues;

/** One completion. It is never split: its length and its sequence ratio are over all its tokens. */
export interface LossCompletion {
  /** Index in the step, from 0; names the completion in errors. */
  readonly index: number;
  /** Place in the order that `bnpo`'s blocks are taken from; `index` by default. */
  readonly place?: number | undefined;
  /** ℓ, of the current policy. (T) */
  readonly logprobs: TokenValues;
  /** Of the current policy. (T) */
  readonly entropies: TokenValues;
  /** ℓ_old (T); null: on-policy, the ratio is exactly 1 and still has a gradient. */
  readonly oldLogprobs: TokenValues | null;
  /** ℓ_ref (T); null only if beta is 0. */
  readonly refLogprobs: TokenValues | null;
  /** Of the distribution actually sampled from (T); null: ℓ_old. */
  readonly samplingLogprobs: TokenValues | null;
  readonly advantage: Advantage;
  /** False: cut at the length limit. */
  readonly finished: boolean;
  /** Which tokens the policy sampled; all, by default. (T) */
  readonly mask?: TokenMask | undefined;
}

/** What a loss of the caller's own is given: a completion with the policy's numbers. */
export interface OwnLossInput {
  /** ℓ of each token under the current policy, in nats, of logits ÷ temperature. (T) */
  readonly logprobs: TokenValues;
  /** Under the policy that sampled. In the first pass over a generation these are the same numbers as `logprobs`. (T) */
  readonly oldLogprobs: TokenValues;
  /** Under the reference; null if `beta` is 0, for then there is none. (T) */
  readonly refLogprobs: TokenValues | null;
  /** Of the current policy, in nats. (T) */
  readonly entropies: TokenValues;
  /** The completion's advantage at each of its tokens. (T) */
  readonly advantages: Float64Array;
  /** 1: the token is in the loss. 0: it was not sampled, or `maskTruncatedCompletions` leaves it out. (T) */
  readonly mask: Uint8Array;
  /** False: cut at the length limit. */
  readonly finished: boolean;
  /** What an average over the optimizer step divides by: of all its completions, and of all their tokens under the mask. */
  readonly step: { readonly completions: number; readonly tokens: number };
  /** The settings of the loss. */
  readonly config: Omit<LossConfig, "own">;
}

export interface OwnLossOutput {
  /** This completion's share of the step's loss: the shares are added up. */
  readonly loss: number;
  /** ∂loss/∂ℓ of each token; counts only under the mask. (T) */
  readonly dlogprobs: ArrayLike<number>;
  /** Numbers to log: each is averaged over the step's completions. */
  readonly metrics?: Readonly<Record<string, number>> | undefined;
}

/** The same input must give the same output, or a resumed run is another one. The name of the function is recorded. */
export type OwnLoss = (completion: OwnLossInput) => OwnLossOutput;

/** The fields that decide which tokens of a completion count. */
export interface Maskable {
  readonly finished: boolean;
  readonly mask?: TokenMask | undefined;
}

const NONE = new Int32Array(0);

/**
 * The tokens under the mask m, ascending: those that the policy sampled, or none if `maskTruncatedCompletions` drops
 * the completion. Every sum over tokens is over these.
 *
 * @param length T
 */
export function activeTokens(
  length: number,
  { finished, mask }: Maskable,
  config: Pick<LossConfig, "maskTruncatedCompletions">,
): Int32Array {
  if (config.maskTruncatedCompletions && !finished) return NONE;
  const all = Int32Array.from({ length }, (_, t) => t);
  return mask ? all.filter((t) => mask[t] === 1) : all;
}

/** The advantage of a whole completion: the mean over the `active` tokens if it is per token. */
export function meanAdvantage(advantage: Advantage, active: Int32Array): number {
  if (typeof advantage === "number") return advantage;
  let sum = 0;
  for (const t of active) sum += advantage[t]!;
  return sum / Math.max(active.length, 1);
}
