/**
 * The policy update on one batch of scored completions: `num_iterations` optimizer steps of the clipped loss with KL
 * (Shao et al. 2024, eq. 3), over packed micro-batches. Shared by training and by `grpo update`.
 */

import type { Activations } from "../model/activations.ts";
import { backward, forward, type Scores } from "../model/lm-head.ts";
import { cutMicroBatches, type MicroBatch, type PackedGroup } from "../model/micro-batches.ts";
import type { Model } from "../model/model.ts";
import { type OptimizerSettings, type OptimizerState, optimizerStep, zeroGradients } from "../optim/adamw.ts";
import type { Advantage, LossCompletion, LossConfig } from "./loss/config.ts";
import { foldMetrics, type MetricParts } from "./loss/metrics.ts";
import { stepDenominators, type WholeGeneration } from "./loss/step.ts";
import { computeLoss } from "./loss.ts";

/** A completion as the update takes it. */
export interface ScoredCompletion {
  readonly completionIds: Int32Array; // (R)
  readonly finished: boolean;
  /** Its place in the step's own order, where that is not the order of the groups. */
  readonly place?: number;
  /** Of the completion, or of each token (R). */
  readonly advantage: Advantage;
  /** π_old (R); null: on-policy, the update's own first forward. */
  readonly oldLogprobs: Float32Array | Float64Array | null;
  /** π_ref (R); null where beta is 0. */
  readonly refLogprobs: Float32Array | Float64Array | null;
  readonly samplingLogprobs: Float32Array | Float64Array | null;
}

export interface ScoredGroup extends PackedGroup {
  readonly promptIds: Int32Array;
  readonly completions: readonly ScoredCompletion[];
}

export interface PolicyUpdateSettings {
  readonly loss: LossConfig;
  readonly optimizer: OptimizerSettings;
  readonly temperature: number;
  readonly microBatchTokens: number;
  /** What the step's completions are a part of, where a generation serves several steps. */
  readonly generation?: WholeGeneration;
}

export interface UpdateResult {
  /** `loss`, `grad_norm`, `learning_rate`, `kl`, `entropy`, `clip_ratio/*`, …; null: a mean over no token. */
  readonly metrics: Record<string, number | null>;
  /** ℓ of each completion as this step's forward computed it, in the order of the groups. */
  readonly logprobs: readonly Float32Array[];
  /** Mean entropy under m and the entropy mask: what `use_adaptive_entropy` goes by; null where no token counts. */
  readonly meanEntropy: number | null;
  /** Tokens that went through the model. */
  readonly tokens: number;
}

export interface Updater {
  readonly model: Model;
  readonly activations: Activations;
  readonly optimizer: OptimizerState;
}

/** What of a command's settings the update reads. */
export function updateSettings(
  config: LossConfig & {
    readonly adamBeta1: number;
    readonly adamBeta2: number;
    readonly adamEpsilon: number;
    readonly weightDecay: number;
    readonly maxGradNorm: number;
    readonly temperature: number;
    readonly microBatchTokens: number;
    readonly useKlInReward: boolean;
  },
): PolicyUpdateSettings {
  const { weightDecay, maxGradNorm, temperature, microBatchTokens } = config;
  const { adamBeta1: beta1, adamBeta2: beta2, adamEpsilon: epsilon } = config;
  return {
    // What the reward charges is not charged again by the loss.
    loss: config.useKlInReward ? { ...config, beta: 0 } : config,
    optimizer: { beta1, beta2, epsilon, weightDecay, maxGradNorm },
    temperature,
    microBatchTokens,
  };
}

/** Values of each completion of a micro-batch, out of values by entry. */
export function byCompletion(batch: MicroBatch, values: Float32Array): Float32Array[] {
  return Array.from(batch.completions, (_, i) => values.subarray(batch.entryStarts[i]!, batch.entryStarts[i + 1]!));
}

/**
 * Log-probabilities of every completion under a model, in the order of the groups: reference logprobs, `grpo score`.
 */
export async function scoreGroups(
  model: Model,
  activations: Activations,
  groups: readonly PackedGroup[],
  options: { readonly temperature: number; readonly microBatchTokens: number },
  onTokens?: (tokens: number) => void,
): Promise<{ logprobs: Float32Array; entropies: Float32Array }[]> {
  const results: { logprobs: Float32Array; entropies: Float32Array }[] = [];
  const forwardOnly = { ...activations, gradient: null };
  for (const batch of cutMicroBatches(groups, options.microBatchTokens)) {
    const scores = await forward(model, batch, forwardOnly, options.temperature);
    const logprobs = byCompletion(batch, scores.logprobs);
    const entropies = byCompletion(batch, scores.entropies);
    for (const [i, completion] of batch.completions.entries())
      results[completion] = { logprobs: logprobs[i]!.slice(), entropies: entropies[i]!.slice() };
    onTokens?.(batch.tokens.length);
  }
  return results;
}

/**
 * One optimizer step over `groups`: forward, loss and backward of each micro-batch, then AdamW.
 *
 * @throws RunError when a logprob, the loss or the gradient is not finite; no weight has been touched then
 */
export async function updateStep(
  updater: Updater,
  groups: readonly ScoredGroup[],
  settings: PolicyUpdateSettings,
  learningRate: number,
  onTokens?: (tokens: number) => void,
): Promise<UpdateResult> {
  const { model, activations, optimizer } = updater;
  const { device } = model;
  const completions = groups.flatMap((group) => group.completions);
  const batches = cutMicroBatches(groups, settings.microBatchTokens);
  const stepOf = (entropies: readonly Float32Array[] | null) =>
    stepDenominators(
      completions.map(({ completionIds, finished, place }, index) => {
        const base = { index, place, logprobs: completionIds, finished };
        return entropies ? { ...base, entropies: entropies[index]! } : base;
      }),
      settings.loss,
      settings.generation,
    );
  // The entropy threshold belongs to the whole step, so it needs every entropy before the first backward.
  const entropies =
    settings.loss.topEntropyQuantile < 1
      ? (await scoreGroups(model, activations, groups, settings, onTokens)).map((scores) => scores.entropies)
      : null;
  const step = stepOf(entropies);
  zeroGradients(device, optimizer);
  const logprobs: Float32Array[] = [];
  const parts: MetricParts[] = [];
  let loss = 0;
  let entropySum = 0;
  let tokens = 0;
  for (const batch of batches) {
    const scores: Scores = await forward(model, batch, activations, settings.temperature);
    const [current, entropy] = [byCompletion(batch, scores.logprobs), byCompletion(batch, scores.entropies)];
    const part = Array.from(batch.completions, (index, i): LossCompletion => {
      logprobs[index] = current[i]!.slice();
      const { finished, place, advantage, oldLogprobs, refLogprobs, samplingLogprobs } = completions[index]!;
      const values = { logprobs: current[i]!, entropies: entropy[i]! };
      return { index, place, ...values, finished, advantage, oldLogprobs, refLogprobs, samplingLogprobs };
    });
    const result = computeLoss(part, step, settings.loss);
    loss += result.loss;
    entropySum += result.entropySum;
    parts.push(result.metrics);
    await backward(model, batch, activations, optimizer.gradients, result, settings.temperature);
    tokens += batch.tokens.length;
    onTokens?.(batch.tokens.length);
  }
  const norm = await optimizerStep(device, optimizer, settings.optimizer, learningRate);
  const metrics = { loss, grad_norm: norm, learning_rate: learningRate, ...foldMetrics(parts) };
  const meanEntropy = step.entropyTokens === 0 ? null : entropySum / step.entropyTokens;
  return { metrics, logprobs, meanEntropy, tokens };
}
