/**
 * PPO's critic step: forward, clipped value loss and backward over packed micro-batches, then AdamW. The values before
 * the update and the returns computed from them are inputs (`scoreValues`, estimators/).
 */
import type { MicroBatch } from "../../model/micro-batches.ts";
import { backwardValues, forwardValues } from "../../model/scalar-head.ts";
import type { OptimizerSettings } from "../../optim/adamw.ts";
import type { Critic } from "../../session/critic.ts";
import { passesOf, stepAfter } from "../../session/gradient-shards.ts";
import { foldMetrics, type MetricParts } from "../loss/metrics.ts";
import { computeValueLoss, type ValueCompletion, type ValueLossConfig, valueTokens } from "../loss/value.ts";
import { packed, type Sample, type Weighed } from "../sample.ts";
import { byCompletion } from "./policy-update.ts";

export interface CriticUpdateSettings {
  readonly value: ValueLossConfig;
  readonly optimizer: OptimizerSettings;
  readonly microBatchTokens: number;
}

/** A sample with V before the update's first step, and the returns that are the values' targets. */
export type Valued = Sample & Pick<Weighed, "values" | "returns">;

/**
 * One optimizer step of the critic over `samples`, skipping those without returns.
 *
 * @returns `value/loss` (unweighted), `value/clip_ratio`, `value/mean`, `value/grad_norm`, `value/learning_rate`
 * @throws RunError if a value or the gradient is not finite, before any weight is changed
 */
export async function criticStep(
  critic: Critic,
  samples: readonly Valued[],
  settings: CriticUpdateSettings,
  learningRate: number,
  onTokens?: (tokens: number) => void,
): Promise<Record<string, number | null>> {
  const { model, activations, optimizer, shards } = critic;
  const { device } = model;
  const stepTokens = valueTokens(samples, settings.value);
  const pass = async (batch: MicroBatch): Promise<MetricParts> => {
    const values = byCompletion(batch, await forwardValues(model, batch, activations));
    const part = Array.from(batch.completions, (index, i): ValueCompletion => {
      const sample = samples[index]!;
      return { ...sample, index, values: values[i]!, oldValues: sample.values! };
    });
    const { dvalues, metrics } = computeValueLoss(part, stepTokens, settings.value);
    await backwardValues(model, batch, activations, optimizer.gradients, dvalues);
    onTokens?.(batch.tokens.length);
    return metrics;
  };
  const passes = await passesOf(device, optimizer, shards, packed(samples), settings.microBatchTokens, pass);
  const norm = await stepAfter(device, critic, passes, settings.optimizer, learningRate);
  return { ...foldMetrics(passes.results), "value/grad_norm": norm, "value/learning_rate": learningRate };
}
