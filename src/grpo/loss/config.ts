/**
 * What the loss reads: its settings, and one completion's numbers. Types and defaults only.
 * The temperature is no setting of the loss: every logprob given to it is already of logits ÷ temperature.
 */
import type { TrainConfig } from "../../config/schema.ts";

export type LossType = TrainConfig["lossType"];
export type KlEstimator = "k1" | "k2" | "k3";
export type SamplerCorrectionMode = "token_truncate" | "token_mask" | "sequence_truncate" | "sequence_mask";

/** The settings of the loss; the names are TRL's in camelCase. */
export interface LossConfig {
  readonly lossType: LossType;
  /** Lower clip: the ratio is held above 1 − epsilon. */
  readonly epsilon: number;
  /** Upper clip: 1 + epsilonHigh (null: epsilon). For `cispo` it is the cap of the ratio itself. */
  readonly epsilonHigh: number | null;
  /** Two-sided clipping: a cap of the ratio where A < 0 (INTELLECT-2). */
  readonly delta: number | null;
  /** Weight of the KL to the reference. */
  readonly beta: number;
  readonly klEstimator: KlEstimator;
  /** Multiplies the KL by the ratio (DeepSeek-V3.2). */
  readonly useBiasCorrectionKl: boolean;
  /** `sequence`: one ratio a completion, of the mean log-ratio (GSPO); `sequence_product`: of the sum (RLOO). */
  readonly importanceSamplingLevel: "token" | "sequence" | "sequence_product";
  /** The constant length `dr_grpo` divides by. */
  readonly maxCompletionLength: number;
  /** Completions in one of `bnpo`'s blocks; null: the whole step is one block. No other loss type reads it. */
  readonly perDeviceTrainBatchSize: number | null;
  /** Leaves unfinished completions out of the token mask m. */
  readonly maskTruncatedCompletions: boolean;
  /** q < 1 keeps the policy loss of the tokens with the highest entropies, a fraction q of them. */
  readonly topEntropyQuantile: number;
  readonly entropyCoef: number;
  /** Drops completions with A < 0 and mean(ℓ_sampler − ℓ) above it (DeepSeek-V3.2); null: off. */
  readonly offPolicyMaskThreshold: number | null;
  /** Multiplies the loss by π_old ÷ π_sampler, limited as the next three say. */
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

/** The DeepSeekMath setting; the parameters of the other loss types are TRL's defaults. */
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
 * Which tokens of a completion the policy sampled (T): 1, or 0 for forced ones, such as a tool's answer, which are context and
 * nothing else. null: all were sampled.
 */
export type TokenMask = Uint8Array | null;

/**
 * An advantage of a whole completion, or of each of its tokens (T). What belongs to the whole completion (off-policy mask,
 * `vespo`'s weight, the side on which a sequence's ratio is clipped) goes by the mean over its tokens.
 */
export type Advantage = number | TokenValues;

/** One whole completion. A completion is never cut: its length and its sequence ratio belong to all its tokens. */
export interface LossCompletion {
  /** Which completion of the step it is, from 0, in the step's own order; names it in errors. */
  readonly index: number;
  /** Its place in the order that cuts the step into `bnpo`'s blocks; `index` by default. */
  readonly place?: number | undefined;
  /** ℓ, of the policy now. (T) */
  readonly logprobs: TokenValues;
  /** Of the policy now. (T) */
  readonly entropies: TokenValues;
  /** ℓ_old (T); null: on-policy, the ratio is exactly 1 and still has a gradient. */
  readonly oldLogprobs: TokenValues | null;
  /** ℓ_ref (T); null only where beta is 0. */
  readonly refLogprobs: TokenValues | null;
  /** Of the distribution really drawn from (T); null: ℓ_old. */
  readonly samplingLogprobs: TokenValues | null;
  /** One of the whole completion, or of each token (T). */
  readonly advantage: Advantage;
  /** False: cut at the length limit. */
  readonly finished: boolean;
  /** Which tokens the policy sampled; all, by default. (T) */
  readonly mask?: TokenMask | undefined;
}

/** What says which tokens of a completion count. */
export interface Maskable {
  readonly finished: boolean;
  readonly mask?: TokenMask | undefined;
}

const NONE = new Int32Array(0);

/**
 * The tokens under the mask m, ascending: those that the policy sampled, or none where `maskTruncatedCompletions` drops the
 * completion. Every sum over tokens is over these.
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

/** The advantage of a whole completion: its mean over the `active` tokens where each has its own. */
export function meanAdvantage(advantage: Advantage, active: Int32Array): number {
  if (typeof advantage === "number") return advantage;
  let sum = 0;
  for (const t of active) sum += advantage[t]!;
  return sum / Math.max(active.length, 1);
}
