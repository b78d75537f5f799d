/**
 * The critic's step of PPO: forward, clipped value loss and backward over packed micro-batches, then AdamW. The values
 * before the update, and the returns made of them, come from outside (`scoreValues`, estimators/).
 */
import type { ScalarActivations } from "../model/activations.ts";
import { cutMicroBatches, type PackedGroup } from "../model/micro-batches.ts";
import type { Model } from "../model/model.ts";
import { backwardValues, forwardValues } from "../model/scalar-head.ts";
import { type OptimizerSettings, type OptimizerState, optimizerStep, zeroGradients } from "../optim/adamw.ts";
import type { TokenValues } from "./loss/config.ts";
import { foldMetrics, type MetricParts } from "./loss/metrics.ts";
import { computeValueLoss, type ValueCompletion, type ValueLossConfig, valueTokens } from "./loss/value.ts";
import { byCompletion } from "./policy-update.ts";

export interface Critic {
  readonly model: Model;
  readonly activations: ScalarActivations;
  readonly optimizer: OptimizerState;
}

export interface CriticUpdateSettings {
  readonly value: ValueLossConfig;
  readonly optimizer: OptimizerSettings;
  readonly microBatchTokens: number;
}

/** A group as the critic's step takes it. */
export interface ValuedGroup extends PackedGroup {
  readonly completions: readonly { readonly completionIds: Int32Array; readonly finished: boolean }[];
}

/**
 * One optimizer step of the critic over `groups`.
 *
 * @param oldValues V before the update's first step, by completion in the order of the groups (N)(R)
 * @param returns what the values are to become, likewise; null leaves a completion out (N)(R)
 * @returns `value/loss` (before its weight), `value/clip_ratio`, `value/mean`, `value/grad_norm`, `value/learning_rate`
 * @throws RunError when a value or the gradient is not finite; no weight has been touched then
 */
export async function criticStep(
  critic: Critic,
  groups: readonly ValuedGroup[],
  oldValues: readonly TokenValues[],
  returns: readonly (TokenValues | null)[],
  settings: CriticUpdateSettings,
  learningRate: number,
  onTokens?: (tokens: number) => void,
): Promise<{ readonly metrics: Record<string, number | null>; readonly tokens: number }> {
  const { model, activations, optimizer } = critic;
  const completions = groups.flatMap((group) => group.completions);
  const step = completions.map(({ finished }, i) => ({ finished, returns: returns[i] ?? null }));
  const stepTokens = valueTokens(step, settings.value);
  zeroGradients(model.device, optimizer);
  const parts: MetricParts[] = [];
  let tokens = 0;
  for (const batch of cutMicroBatches(groups, settings.microBatchTokens)) {
    const values = byCompletion(batch, await forwardValues(model, batch, activations));
    const part = Array.from(
      batch.completions,
      (index, i): ValueCompletion => ({ index, values: values[i]!, oldValues: oldValues[index]!, ...step[index]! }),
    );
    const { dvalues, metrics } = computeValueLoss(part, stepTokens, settings.value);
    parts.push(metrics);
    await backwardValues(model, batch, activations, optimizer.gradients, dvalues);
    tokens += batch.tokens.length;
    onTokens?.(batch.tokens.length);
  }
  const norm = await optimizerStep(model.device, optimizer, settings.optimizer, learningRate);
  const metrics = { ...foldMetrics(parts), "value/grad_norm": norm, "value/learning_rate": learningRate };
  return { metrics, tokens };
}
