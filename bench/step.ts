/**
 * `bench step`: how fast a model of any shape decodes and learns, through the program's own rollout engine, model and
 * optimizer. Weights are random, so no checkpoint is needed; completions have exactly the requested length. Leaves out the rest
 * of a run: tokenizing, rewards, the reference's pass, writing.
 */
import type { CudaDevice } from "../src/device/cuda/device.ts";
import type { Device } from "../src/device/device.ts";
import { forwardBackward } from "../src/model/lm-head.ts";
import { cutMicroBatches } from "../src/model/micro-batches.ts";
import { optimizerStep, zeroGradients } from "../src/optim/adamw.ts";
import type { GradientCheckpointing } from "../src/session/gradient-checkpointing.ts";
import type { ComputeDType } from "../src/tensor/dtype.ts";
import { tensor } from "../src/tensor/tensor.ts";
import { isEmulated } from "./cuda-meter.ts";
import { median } from "./measure.ts";
import type { NamedModel } from "./models.ts";
import { constant, fillWith, periodic, scattered } from "./ops/workspace.ts";
import { openModel, type StepShape } from "./roofline/phases.ts";

export interface DecodeRate {
  /** Tokens of each sequence in the cache, its prompt included, halfway through the timed stretch. */
  readonly cachedTokens: number;
  readonly milliseconds: number;
  readonly tokensPerSecond: number;
}

export interface StepReport {
  readonly suite: "step";
  readonly device: string;
  readonly model: string;
  readonly dtype: ComputeDType;
  readonly shape: StepShape;
  readonly bytes: number;
  readonly decode: readonly DecodeRate[];
  /** Forward and backward of one group. */
  readonly update: {
    readonly tokens: number;
    readonly milliseconds: number;
    readonly tokensPerSecond: number;
    /** 6 operations per parameter and token (Kaplan et al. 2020, table 1), divided by the device's peak. */
    readonly modelFlopsUtilization: number;
  };
  readonly optimizerMilliseconds: number;
  /** On a GPU: memory that driver and libraries took in addition to the program's own; null on a CPU. */
  readonly besideBytes: number | null;
}

export function stepDefaults(device: Device): StepShape {
  if (device.kind === "cpu")
    return { groups: 1, samples: 8, promptTokens: 64, completionTokens: 64, sequences: 8, microBatchTokens: 2048 };
  if (isEmulated(device as CudaDevice))
    return { groups: 1, samples: 2, promptTokens: 16, completionTokens: 8, sequences: 4, microBatchTokens: 256 };
  return { groups: 1, samples: 16, promptTokens: 128, completionTokens: 1024, sequences: 64, microBatchTokens: 16384 };
}

/** Steps per timed stretch, and stretches: at the beginning, in the middle, at the end. */
const STRETCH = 40;

/** @throws RunError if it does not fit the device's memory */
export async function runStep(
  device: Device,
  { name, config }: NamedModel,
  shape: StepShape,
  dtype: ComputeDType,
  checkpointing: GradientCheckpointing,
  line: (text: string) => void,
): Promise<StepReport> {
  const { samples, promptTokens, completionTokens, sequences, microBatchTokens } = shape;
  // Bytes that are neither free nor ours.
  const beside = () => -(device.freeBytes() ?? 0) - (device.heldBytes() ?? 0);
  const before = beside();
  const opened = openModel(device, config, shape, dtype, checkpointing);
  const { model, activations, optimizer, rollout, arena } = opened;
  try {
    device.ops.fill(tensor("arena", arena.address, "float32", [Math.floor(arena.byteLength / 4)]), 0);
    for (const [i, w] of model.weights.all.entries()) {
      const at = scattered(i + 1);
      const values = w.shape.length === 1 ? constant(1) : periodic((index) => at(index) / 32);
      fillWith(device, tensor(w.name, w.address, w.dtype, [w.elements]), values);
    }
    line(`${name}, ${dtype}, random weights, ${(arena.byteLength / 2 ** 20).toFixed(0)} MiB planned`);

    const promptIds = (prompt: number) =>
      Int32Array.from({ length: promptTokens }, (_, i) => (i * 131 + prompt) % config.vocabSize);
    const requests = Array.from({ length: Math.ceil(sequences / samples) }, (_, prompt) => ({
      promptIds: promptIds(prompt),
      samples: Math.min(samples, sequences - prompt * samples),
      prompt,
    }));
    const stamps: number[] = [];
    const sampling = { seed: 1, stream: 0, temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, step: 1 };
    await rollout.generate(
      requests,
      { ...sampling, maxCompletionLength: completionTokens, isStop: () => false },
      { onProgress: () => stamps.push(performance.now()) },
    );
    // The last step has nothing left to decode, and the first ones record their graphs.
    const gaps = stamps.slice(1).map((stamp, i) => stamp - stamps[i]!);
    const length = Math.min(STRETCH, Math.max(1, Math.floor(gaps.length / 3)));
    const starts = [Math.min(10, (gaps.length - length) >> 2), (gaps.length - length) >> 1, gaps.length - length];
    const decode = [...new Set(starts.map((start) => Math.max(0, start)))]
      .sort((a, b) => a - b)
      .map((start): DecodeRate => {
        const milliseconds = median(gaps.slice(start, start + length));
        const cachedTokens = promptTokens + start + (length >> 1) + 1;
        return { cachedTokens, milliseconds, tokensPerSecond: (1000 * sequences) / milliseconds };
      });
    for (const { cachedTokens, milliseconds, tokensPerSecond } of decode)
      line(
        `decode of ${sequences} sequences with ${cachedTokens} tokens each: ${milliseconds.toFixed(3)} ms a step, ${tokensPerSecond.toFixed(0)} tokens/s`,
      );
    rollout.close();

    const completionIds = (c: number) =>
      Int32Array.from({ length: completionTokens }, (_, i) => (i * 17 + c) % config.vocabSize);
    const completions = Array.from({ length: samples }, (_, c) => ({ completionIds: completionIds(c) }));
    const batches = cutMicroBatches([{ promptIds: promptIds(0), completions }], microBatchTokens);
    const tokens = batches.reduce((sum, { tokens }) => sum + tokens.length, 0);
    const settled = () => void device.download(tensor("probe", model.weights.all[0]!.address, dtype, [1]));
    const updates: number[] = [];
    for (let i = 0; i < 4; i++) {
      const start = performance.now();
      for (const batch of batches) {
        const derive = ({ length }: Int32Array) => ({
          dlogprobs: new Float32Array(length).fill(1e-3),
          dentropies: new Float32Array(length),
        });
        await forwardBackward(model, batch, activations, optimizer.gradients, derive, 1);
      }
      settled();
      updates.push(performance.now() - start);
    }
    const milliseconds = median(updates.slice(1)); // the first one compiles, loads and chooses algorithms
    const parameters = model.weights.all.reduce((sum, { elements }) => sum + elements, 0);
    const utilization = (6 * parameters * tokens) / (milliseconds / 1000) / device.peakFlops(dtype);
    const update = {
      ...{ tokens, milliseconds, tokensPerSecond: (1000 * tokens) / milliseconds },
      modelFlopsUtilization: utilization,
    };
    line(
      `forward and backward of ${tokens} tokens: ${milliseconds.toFixed(1)} ms, ${update.tokensPerSecond.toFixed(0)} tokens/s, ${(100 * utilization).toFixed(1)} % of the device's peak`,
    );
    const settings = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 1 };
    const optimize: number[] = [];
    for (let i = 0; i < 3; i++) {
      const start = performance.now();
      await optimizerStep(device, optimizer, settings, 1e-6);
      zeroGradients(device, optimizer);
      settled();
      optimize.push(performance.now() - start);
    }
    const optimizerMilliseconds = median(optimize);
    line(`optimizer's step of ${(parameters / 1e6).toFixed(0)} M parameters: ${optimizerMilliseconds.toFixed(1)} ms`);
    const besideBytes = device.freeBytes() === null ? null : beside() - before;
    if (besideBytes !== null)
      line(`memory taken by the driver and libraries: ${(besideBytes / 2 ** 20).toFixed(0)} MiB`);
    const bytes = arena.byteLength;
    const { description } = device;
    return {
      suite: "step",
      device: description,
      model: name,
      dtype,
      shape,
      bytes,
      decode,
      update,
      optimizerMilliseconds,
      besideBytes,
    };
  } finally {
    arena.free();
  }
}
