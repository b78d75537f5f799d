/**
 * The phases of one GRPO step, run on the counting device through the program's own model, rollout and optimizer code: the
 * minimum that each must move and compute, op by op.
 */

import type { Device } from "../../src/device/device.ts";
import type { ModelConfig } from "../../src/families/config.ts";
import { parameterBlocks } from "../../src/families/parameters.ts";
import { planForwardBackward } from "../../src/model/activations.ts";
import { forward, forwardBackward, lmHead, logprobSizes } from "../../src/model/lm-head.ts";
import { cutMicroBatches, maxMicroBatchTokens } from "../../src/model/micro-batches.ts";
import { planModelBuffers } from "../../src/model/model.ts";
import { optimizerStep, planOptimizer, zeroGradients } from "../../src/optim/adamw.ts";
import { planRollout, promptRoomFor } from "../../src/rollout/buffers.ts";
import { createRolloutEngine } from "../../src/rollout/engine.ts";
import { type GradientCheckpointing, keepLayers, planOptional } from "../../src/session/gradient-checkpointing.ts";
import { estimateMemory, requireMemory } from "../../src/session/memory.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { type MemoryPlan, type OptionalBuffers, placeTensors, planMemory } from "../../src/tensor/plan.ts";
import { countingDevice, type Work } from "./counting-device.ts";

/** The work of one step: DeepSeekMath's group size and lengths (arXiv 2402.03300), a batch of a few groups. */
export interface StepShape {
  readonly groups: number;
  /** G */
  readonly samples: number;
  readonly promptTokens: number;
  /** The length of every completion: the table assumes full length. */
  readonly completionTokens: number;
  /** Sequences decoded at once. */
  readonly sequences: number;
  readonly microBatchTokens: number;
}

export interface Phase {
  readonly name: string;
  readonly work: readonly Work[];
  /** How often `work` runs per step. */
  readonly times: number;
  /** Launches are replayed from a graph. */
  readonly graph: boolean;
}

/**
 * A model without a checkpoint: empty device buffers, as a run of this shape plans them.
 *
 * @throws InputError or RunError if they do not fit (requireMemory)
 */
export function openModel(
  device: Device,
  config: ModelConfig,
  shape: StepShape,
  dtype: ComputeDType = "bfloat16",
  checkpointing: GradientCheckpointing = true,
) {
  const { promptTokens, completionTokens, samples, sequences } = shape;
  const tokens = maxMicroBatchTokens({
    budget: shape.microBatchTokens,
    longestPrompt: promptTokens,
    longestCompletion: completionTokens,
  });
  const plan = planMemory();
  const optional: OptionalBuffers[] = [];
  const positions = promptTokens + completionTokens;
  const bindModel = planModelBuffers(plan, device, config, { prefix: "policy", dtype, positions });
  const bindOptimizer = planOptimizer(plan, device, parameterBlocks(config, device.rowBlock), dtype);
  const bindActivations = planForwardBackward(
    plan,
    lmHead,
    {
      ...{ device, config, dtype, prefix: "update", lifetime: ["update"] },
      sizes: logprobSizes(device, config, { tokens, longestPrompt: promptTokens }),
    },
    keepLayers({ offers: (layers) => void optional.push(layers) }, checkpointing),
  );
  const limits = {
    maxSequences: sequences,
    longestPrompt: promptTokens,
    maxCompletion: completionTokens,
    promptRoom: promptRoomFor(sequences, samples),
    penalized: false,
  };
  const bindRollout = planRollout(plan, device, config, device.activationDType(dtype), limits, ["rollout"]);
  const estimateOf = (layout: MemoryPlan) => estimateMemory(layout, 0, device.freeBytes() !== null);
  const layout = planOptional(plan, optional, (layout) => estimateOf(layout).peakBytes, device);
  // The host's memory is handed out until it is exhausted, so check for a fit first.
  requireMemory(estimateOf(layout), device);
  const arena = device.allocate(layout.totalBytes, "the plan");
  const tensors = placeTensors(layout, arena.address);
  const model = bindModel(tensors);
  return {
    model,
    activations: bindActivations(tensors),
    optimizer: bindOptimizer(tensors, model.weights.all),
    rollout: createRolloutEngine(model, bindRollout(tensors)),
    arena,
  };
}

/** The phases of a step on a GPU with `memory` bytes, and the bytes of its plan. */
export async function stepPhases(
  config: ModelConfig,
  shape: StepShape,
  memory = 80e9,
): Promise<{ readonly phases: Phase[]; readonly bytes: number }> {
  const { groups, samples, promptTokens, completionTokens, sequences, microBatchTokens } = shape;
  // Halfway through its completions: the cache of an average decode step.
  const perSequence = promptTokens + completionTokens / 2;
  const shared = Math.ceil(sequences / samples) * promptTokens;
  const cache = { tokens: sequences * perSequence, distinct: shared + (sequences * completionTokens) / 2 };
  const device = countingDevice(() => cache, memory);
  const { model, activations, optimizer, rollout, arena } = openModel(device, config, shape);
  const ids = (length: number) => new Int32Array(length);

  // Two tokens of a completion: prefill with the first token, then one decode step.
  const requests = Array.from({ length: Math.ceil(sequences / samples) }, (_, prompt) => ({
    promptIds: ids(promptTokens),
    samples,
    prompt,
  }));
  const sampling = { seed: 1, stream: 0, temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, step: 1 };
  const settings = { ...sampling, maxCompletionLength: 2, isStop: () => false };
  device.take();
  await rollout.generate(requests, settings);
  const rolled = device.take();
  const decodeStart = rolled.findLastIndex(({ op }) => op === "nextTokens");
  const rounds = (groups * samples) / sequences;
  const group = {
    promptIds: ids(promptTokens),
    completions: Array.from({ length: samples }, () => ({ completionIds: ids(completionTokens) })),
  };
  const batches = cutMicroBatches([group], microBatchTokens);

  const forwardOnly = { ...activations, gradient: null };
  for (const batch of batches) await forward(model, batch, forwardOnly, 1);
  const reference = device.take();
  for (const batch of batches) {
    const derive = ({ length }: Int32Array) => ({
      dlogprobs: new Float32Array(length),
      dentropies: new Float32Array(length),
    });
    await forwardBackward(model, batch, activations, optimizer.gradients, derive, 1);
  }
  const update = device.take();
  zeroGradients(device, optimizer);
  await optimizerStep(device, optimizer, { ...adamw }, 1e-6);
  const optimize = device.take();
  return {
    bytes: arena.byteLength,
    phases: [
      { name: "prefill", work: rolled.slice(0, decodeStart), times: rounds, graph: false },
      { name: "decode", work: rolled.slice(decodeStart), times: rounds * (completionTokens - 1), graph: true },
      { name: "reference", work: reference, times: groups, graph: false },
      { name: "update", work: update, times: groups, graph: false },
      { name: "optimizer", work: optimize, times: 1, graph: false },
    ],
  };
}

const adamw = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 1 } as const;
