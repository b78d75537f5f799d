/**
 * One optimizer step of the policy on weighed samples: the clipped loss with KL (Shao et al. 2024, eq. 3) or a variant,
 * over packed micro-batches. learner.ts decides which samples a step takes, and how often.
 */

import { balanced } from "../../model/expert-load.ts";
import {
  type Activations,
  backward,
  type Derivatives,
  type EntryScores,
  forward,
  forwardBackward,
} from "../../model/lm-head.ts";
import { cutMicroBatches, type MicroBatch, type PackedGroup } from "../../model/micro-batches.ts";
import type { Model } from "../../model/model.ts";
import { type AdamSettings, type OptimizerSettings, optimizerSettings } from "../../optim/adamw.ts";
import { divided, type Ranks } from "../../ranks/ranks.ts";
import { passesOf, stepAfter } from "../../session/gradient-shards.ts";
import type { TrainedModel } from "../../session/policy.ts";
import { expertsOfPass, expertsOfStep, routed } from "../../session/step-routes.ts";
import type { LossCompletion, LossConfig, OwnLoss } from "../loss/config.ts";
import { computeLoss, isTokenwise, tokenDerivatives } from "../loss/loss.ts";
import { foldMetrics, type MetricParts } from "../loss/metrics.ts";
import { denominatorsOf, type StepDenominators, type WholeGeneration } from "../loss/step.ts";
import { packed, type Weighed } from "../sample.ts";

export interface PolicyUpdateSettings {
  readonly loss: LossConfig;
  readonly optimizer: OptimizerSettings;
  readonly temperature: number;
  readonly microBatchTokens: number;
  /** Weight of the loss of an unbalanced load of experts; null or missing: the model's own. */
  readonly routerAuxLossCoef?: number | null;
}

export interface UpdateOptions {
  readonly generation?: WholeGeneration | undefined;
  readonly onTokens?: ((tokens: number) => void) | undefined;
}

export interface UpdateResult {
  /** `loss`, `grad_norm`, `learning_rate`, `kl`, `entropy`, `clip_ratio/*`, …; null for a mean over no tokens. */
  readonly metrics: Record<string, number | null>;
  /** ℓ of each sample from this step's forward pass. (N)(R) */
  readonly logprobs: readonly Float32Array[];
  /** The policy's entropy before each token, likewise. (N)(R) */
  readonly entropies: readonly Float32Array[];
  /** Mean entropy under m and the entropy mask, for `use_adaptive_entropy`; null if no token counts. */
  readonly meanEntropy: number | null;
}

/** The part of a command's settings that the update reads. */
export interface PolicyUpdateConfig extends LossConfig, AdamSettings {
  readonly temperature: number;
  readonly microBatchTokens: number;
  readonly useKlInReward: boolean;
  readonly routerAuxLossCoef?: number | null;
}

export function updateSettings(config: PolicyUpdateConfig, own: OwnLoss | null = null): PolicyUpdateSettings {
  const { temperature, microBatchTokens, routerAuxLossCoef = null } = config;
  return {
    // A KL charged to the reward must not be charged again by the loss.
    loss: { ...config, own, ...(config.useKlInReward && { beta: 0 }) },
    optimizer: optimizerSettings(config),
    ...{ temperature, microBatchTokens, routerAuxLossCoef },
  };
}

/** Splits values by entry into those of each completion of a micro-batch. */
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

/** The same, divided among the ranks. */
export function scoreDivided(
  ranks: Ranks | undefined,
  model: Model,
  activations: Activations,
  groups: readonly PackedGroup[],
  options: Parameters<typeof scoreGroups>[3],
  onTokens?: (tokens: number) => void,
): ReturnType<typeof scoreGroups> {
  return divided("scores", ranks, groups, (own) => scoreGroups(model, activations, own, options, onTokens));
}

/** The derivatives of a micro-batch's entries, given their scores, for a loss that `isTokenwise`. */
function derivativesOf(
  { completions, entryStarts }: MicroBatch,
  samples: readonly Weighed[],
  step: StepDenominators,
  loss: LossConfig,
): (entries: Int32Array, scores: EntryScores) => Derivatives {
  const owner = new Int32Array(entryStarts.at(-1)!);
  const derive = Array.from(completions, (index, i) => {
    owner.fill(i, entryStarts[i], entryStarts[i + 1]);
    return tokenDerivatives({ ...samples[index]!, index }, samples[index]!.completionIds.length, step, loss);
  });
  return (entries, { logprobs, entropies }) => {
    const dlogprobs = new Float64Array(entries.length);
    const dentropies = new Float64Array(entries.length);
    for (const [i, entry] of entries.entries()) {
      const completion = owner[entry]!;
      const t = entry - entryStarts[completion]!;
      const { dlogprob, dentropy } = derive[completion]!(t, logprobs[i]!, entropies[i]!);
      dlogprobs[i] = dlogprob;
      dentropies[i] = dentropy;
    }
    return { dlogprobs, dentropies };
  };
}

/**
 * One optimizer step over `samples`: forward, loss and backward of each micro-batch, then AdamW.
 *
 * @param generation the whole generation, if it serves several steps
 * @throws RunError if a logprob, the loss or the gradient is not finite, before any weight is changed
 */
export async function updateStep(
  policy: TrainedModel,
  samples: readonly Weighed[],
  settings: PolicyUpdateSettings,
  learningRate: number,
  { generation, onTokens }: UpdateOptions = {},
): Promise<UpdateResult> {
  const { model, activations, optimizer, shards } = policy;
  const { device } = model;
  const { groups, experts } = await routed(policy, packed(samples, true), settings, onTokens);
  // The entropy threshold is for the whole step, so every entropy must be known before the first backward pass.
  const scores =
    settings.loss.topEntropyQuantile < 1
      ? await scoreDivided(shards?.division.ranks, model, activations, groups, settings, onTokens)
      : null;
  const step = denominatorsOf(
    samples.map((sample, i) => ({
      ...sample,
      tokens: sample.completionIds.length,
      entropies: scores?.[i]?.entropies,
    })),
    settings.loss,
    generation,
  );
  const tokenwise = isTokenwise(samples, settings.loss);
  const { gradients } = optimizer;
  const { temperature } = settings;
  const pass = async (cut: MicroBatch) => {
    const batch = balanced(cut, experts?.slopes ?? null);
    const derive = tokenwise ? derivativesOf(batch, samples, step, settings.loss) : null;
    const scored = derive
      ? await forwardBackward(model, batch, activations, gradients, derive, temperature)
      : await forward(model, batch, activations, temperature);
    const [current, entropy] = [byCompletion(batch, scored.logprobs), byCompletion(batch, scored.entropies)];
    const part = Array.from(batch.completions, (index, i): LossCompletion => {
      return { ...samples[index]!, index, logprobs: current[i]!, entropies: entropy[i]! };
    });
    const { loss, entropySum, metrics, ...result } = computeLoss(part, step, settings.loss);
    const own = Array.from(batch.completions, (index, i) => {
      return { index, logprobs: current[i]!.slice(), entropies: entropy[i]!.slice() };
    });
    if (!derive) await backward(model, batch, activations, gradients, result, temperature);
    onTokens?.(batch.tokens.length);
    return { own, loss, entropySum, metrics, ...expertsOfPass(batch, scored.experts, experts) };
  };
  const passes = await passesOf(device, optimizer, shards, groups, settings.microBatchTokens, pass);
  const logprobs: Float32Array[] = [];
  const entropies: Float32Array[] = [];
  const parts: MetricParts[] = [];
  let loss = 0;
  let entropySum = 0;
  for (const result of passes.results) {
    for (const scored of result.own) {
      logprobs[scored.index] = scored.logprobs;
      entropies[scored.index] = scored.entropies;
    }
    loss += result.loss;
    entropySum += result.entropySum;
    parts.push(result.metrics);
  }
  const norm = await stepAfter(device, policy, passes, settings.optimizer, learningRate);
  const { balanceLoss, metrics: ofExperts } = expertsOfStep(experts, passes.results);
  const metrics = {
    ...{ loss: loss + balanceLoss, grad_norm: norm, learning_rate: learningRate, ...foldMetrics(parts) },
    ...ofExperts,
  };
  const meanEntropy = step.entropyTokens === 0 ? null : entropySum / step.entropyTokens;
  return { metrics, logprobs, entropies, meanEntropy };
}
