/**
 * The phases of one GRPO step, run on the counting device through the program's own model, rollout and optimizer code: the
 * minimum that each must move and compute, op by op.
 */

import type { Device } from "../../src/device/device.ts";
import type { ModelConfig } from "../../src/families/config.ts";
import { parameterBlocks } from "../../src/families/parameters.ts";
import { planForwardBackward } from "../../src/model/activations.ts";
import { scratchSizes } from "../../src/model/layer-buffers.ts";
import { forward, forwardBackward, lmHead, logprobSizes } from "../../src/model/lm-head.ts";
import { cutMicroBatches, maxMicroBatchTokens } from "../../src/model/micro-batches.ts";
import { planModelBuffers } from "../../src/model/model.ts";
import { optimizerStep, planOptimizer, zeroGradients } from "../../src/optim/adamw.ts";
import { planRollout, promptRoomFor, rolloutSizes } from "../../src/rollout/buffers.ts";
import { createRolloutEngine } from "../../src/rollout/engine.ts";
import { type GradientCheckpointing, keepLayers, planOptional } from "../../src/session/gradient-checkpointing.ts";
import { estimateMemory, type MemoryEstimate, requireMemory } from "../../src/session/memory.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { type MemoryPlan, type OptionalBuffers, placeTensors, planMemory } from "../../src/tensor/plan.ts";
import { type CountedGpu, countingDevice, type Work } from "./counting-device.ts";

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

/** A model without a checkpoint, as a run of this shape plans it: what its buffers take, and what allocates them. */
function planStep(
  device: Device,
  config: ModelConfig,
  shape: StepShape,
  dtype: ComputeDType,
  checkpointing: GradientCheckpointing,
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
  const sizes = logprobSizes(device, config, { tokens, longestPrompt: promptTokens });
  const bindActivations = planForwardBackward(
    plan,
    lmHead,
    { device, config, dtype, prefix: "update", lifetime: ["update"], sizes },
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
  const rows = device.decodeBucket(sequences);
  const passes = [
    { tokens: sizes.tokens, headRows: sizes.headChunk, sequences: 1 },
    { tokens: rolloutSizes(limits).prefillTokens, headRows: rows, sequences: rows },
  ];
  const { vocabSize } = config;
  const scratch = passes.flatMap((pass) => scratchSizes(config, { ...pass, vocabSize, dtype, longest: positions }));
  const estimateOf = (layout: MemoryPlan) =>
    estimateMemory(layout, device.scratchBytes(...scratch), device.freeBytes() !== null);
  const layout = planOptional(plan, optional, (layout) => estimateOf(layout).peakBytes, device);
  return {
    estimate: estimateOf(layout),
    open() {
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
    },
  };
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
  const planned = planStep(device, config, shape, dtype, checkpointing);
  // The host's memory is handed out until it is exhausted, so check for a fit first.
  requireMemory(planned.estimate, device);
  return planned.open();
}

/** The number format of a model, and what a run of it recomputes. */
export interface StepFormat {
  readonly dtype: ComputeDType;
  readonly checkpointing: GradientCheckpointing;
}

/** What a run does unless its settings say otherwise. */
const usualFormat: StepFormat = { dtype: "bfloat16", checkpointing: "auto" };

/** What is computed in a step, in parts that follow each other: of a rollout, two tokens of every sequence. */
export const stepParts = ["rollout", "reference", "update", "optimizer"] as const;
export type StepPart = (typeof stepParts)[number];

/**
 * Runs each part once: of the update, one group.
 *
 * @param done called after each part, when the device has finished it
 */
export async function runStep(
  device: Device,
  { model, activations, optimizer, rollout }: ReturnType<typeof openModel>,
  shape: StepShape,
  done: (part: StepPart) => void,
): Promise<void> {
  const { samples, promptTokens, completionTokens, sequences, microBatchTokens } = shape;
  const ids = (length: number) => new Int32Array(length);
  const end = async (part: StepPart) => {
    await device.read(optimizer.sums); // work is queued on a GPU, and ends when something is read
    done(part);
  };

  // The first token comes with the prompt, the second from a decode step.
  const requests = Array.from({ length: Math.ceil(sequences / samples) }, (_, prompt) => ({
    promptIds: ids(promptTokens),
    samples,
    prompt,
  }));
  const sampling = { seed: 1, stream: 0, temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, step: 1 };
  await rollout.generate(requests, { ...sampling, maxCompletionLength: 2, isStop: () => false });
  await end("rollout");

  const completions = Array.from({ length: samples }, () => ({ completionIds: ids(completionTokens) }));
  const batches = cutMicroBatches([{ promptIds: ids(promptTokens), completions }], microBatchTokens);
  for (const batch of batches) await forward(model, batch, { ...activations, gradient: null }, 1);
  await end("reference");

  const derive = ({ length }: Int32Array) => ({
    dlogprobs: new Float32Array(length),
    dentropies: new Float32Array(length),
  });
  for (const batch of batches) await forwardBackward(model, batch, activations, optimizer.gradients, derive, 1);
  await end("update");

  zeroGradients(device, optimizer);
  await optimizerStep(device, optimizer, { ...adamw }, 1e-6);
  await end("optimizer");
}

/** The phases of a step on a GPU, and the memory of a run of it, which may be more than the GPU has. */
export async function stepPhases(
  config: ModelConfig,
  shape: StepShape,
  gpu: CountedGpu,
  { dtype, checkpointing }: StepFormat = usualFormat,
): Promise<{ readonly phases: Phase[]; readonly memory: MemoryEstimate }> {
  const { groups, samples, promptTokens, completionTokens, sequences } = shape;
  // Halfway through its completions: the cache of an average decode step.
  const perSequence = promptTokens + completionTokens / 2;
  const shared = Math.ceil(sequences / samples) * promptTokens;
  const cache = { tokens: sequences * perSequence, distinct: shared + (sequences * completionTokens) / 2 };
  const device = countingDevice(() => cache, gpu);
  const planned = planStep(device, config, shape, dtype, checkpointing);
  const parts = new Map<StepPart, Work[]>();
  await runStep(device, planned.open(), shape, (part) => void parts.set(part, device.take()));
  const work = (part: StepPart) => parts.get(part)!;
  const decodeStart = work("rollout").findLastIndex(({ op }) => op === "nextTokens");
  const rounds = (groups * samples) / sequences;
  const prefill = work("rollout").slice(0, decodeStart);
  const decode = work("rollout").slice(decodeStart);
  return {
    memory: planned.estimate,
    phases: [
      { name: "prefill", work: prefill, times: rounds, graph: false },
      { name: "decode", work: decode, times: rounds * (completionTokens - 1), graph: true },
      { name: "reference", work: work("reference"), times: groups, graph: false },
      { name: "update", work: work("update"), times: groups, graph: false },
      { name: "optimizer", work: work("optimizer"), times: 1, graph: false },
    ],
  };
}

const adamw = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 1 } as const;
