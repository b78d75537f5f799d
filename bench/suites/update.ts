/**
 * `bench update`: how fast a model learns, through the program's own passes and optimizer: the forward pass of a group, forward
 * and backward, and the optimizer's step. Leaves out the loss itself, which runs on the host.
 */
import type { CudaDevice } from "../../src/device/cuda/device.ts";
import type { Device } from "../../src/device/device.ts";
import { forward, forwardBackward } from "../../src/model/lm-head.ts";
import { cutMicroBatches, type MicroBatch } from "../../src/model/micro-batches.ts";
import { optimizerStep, zeroGradients } from "../../src/optim/adamw.ts";
import type { GradientCheckpointing } from "../../src/session/gradient-checkpointing.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { launchCounter, type PhaseCount, phaseBytes, phaseLine } from "../emulated-counts.ts";
import { digits, type Figure, less, more } from "../figures.ts";
import { checkGradient } from "../gradient-check.ts";
import { limitOf } from "../limits.ts";
import { type Meter, median } from "../measure.ts";
import { type MeasuredModel, measuredModel, modelFlops, openMeasured, requireModel, stepShape } from "../model.ts";
import { withMeter } from "../open.ts";
import type { StepShape } from "../roofline/phases.ts";
import { reportOf, type Suite } from "./suite.ts";

const adamw = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 1 };

/**
 * Bytes per parameter of zeroing, the norm and AdamW: gradient 4 + 4 + 4, master and moments read and written, and a bfloat16
 * weight written; masters in two halves are the weight and as much beside it.
 */
function optimizerBytes({ masterDType }: Pick<Device, "masterDType">, dtype: ComputeDType): number {
  return 12 + 3 * 8 + (dtype === "bfloat16" && masterDType === "float32" ? 2 : 0);
}

/** Milliseconds of each run of `work`: on a GPU between two of its events, else by the clock. */
async function times(device: Device, runs: number, work: () => Promise<void>): Promise<number[]> {
  const taken: number[] = [];
  for (let i = 0; i < runs; i++) {
    const stop = device.kind === "cuda" ? (device as CudaDevice).meter.start() : clock();
    await work();
    taken.push(stop());
  }
  return taken;
}

function clock(): () => number {
  const start = performance.now();
  return () => performance.now() - start;
}

/** Pairs of a query and a key of a packed batch: each row sees its prefix and its own segment up to itself. */
export function pairsOf({ segments }: Pick<MicroBatch, "segments">): number {
  let pairs = 0;
  for (let at = 0; at < segments.length; at += 4) {
    const [length, prefix] = [segments[at + 1]!, segments[at + 3]!];
    pairs += length * prefix + (length * (length + 1)) / 2;
  }
  return pairs;
}

interface UpdateOptions {
  readonly dtype: ComputeDType;
  readonly checkpointing: GradientCheckpointing;
  /** How often each phase is timed. */
  readonly runs: number;
}

async function measureUpdate(
  meter: Meter,
  measured: MeasuredModel,
  shape: StepShape,
  { dtype, checkpointing, runs }: UpdateOptions,
) {
  const { device } = meter;
  const { config } = measured;
  const { samples, promptTokens, completionTokens, microBatchTokens } = shape;
  const checked = await checkGradient(device, config, dtype, checkpointing);
  const peaks = [await meter.peak()];
  // Bytes that are neither free nor ours.
  const beside = () => -(device.freeBytes() ?? 0) - (device.heldBytes() ?? 0);
  const before = beside();
  const { model, activations, optimizer, arena } = await openMeasured(device, measured, shape, dtype, checkpointing);
  try {
    const ids = (count: number, from: number) =>
      Int32Array.from({ length: count }, (_, i) => (i * 131 + from) % config.vocabSize);
    const completions = Array.from({ length: samples }, (_, c) => ({ completionIds: ids(completionTokens, 17 * c) }));
    const batches = cutMicroBatches([{ promptIds: ids(promptTokens, 0), completions }], microBatchTokens);
    const forwardOnly = async () => {
      for (const batch of batches) await forward(model, batch, { ...activations, gradient: null }, 1);
    };
    const derive = ({ length }: Int32Array) => ({
      dlogprobs: new Float32Array(length).fill(1e-3),
      dentropies: new Float32Array(length),
    });
    const both = async () => {
      for (const batch of batches) {
        await forwardBackward(model, batch, activations, optimizer.gradients, derive, 1);
      }
      await device.read(optimizer.sums); // work is queued on a GPU, and ends when something is read
    };
    const optimize = async () => {
      await optimizerStep(device, optimizer, adamw, 1e-6);
      zeroGradients(device, optimizer);
      await device.read(optimizer.sums);
    };
    const counter = launchCounter(device);
    const counted: PhaseCount[] = [];
    const phase = async (name: string, of: string, work: () => Promise<void>) => {
      await work(); // kernels are loaded, algorithms chosen, scratch memory has grown
      if (counter) {
        counter.clear();
        await work();
        const launches = counter.launches();
        const bytesOf = await phaseBytes(device, config, shape, { dtype, checkpointing });
        counted.push({ phase: name, launches, bytes: bytesOf(of) });
      }
      return median(await times(device, runs, work));
    };
    const scoring = await phase("forward", "reference", forwardOnly);
    const learning = await phase("forward and backward", "update", both);
    const optimizing = await phase("optimizer", "optimizer", optimize);
    peaks.push(await meter.peak());

    const sum = (of: (batch: MicroBatch) => number) => batches.reduce((total, batch) => total + of(batch), 0);
    const [tokens, headRows, pairs] = [sum((b) => b.tokens.length), sum((b) => b.headRows.length), sum(pairsOf)];
    const flops = modelFlops(config);
    const wide = dtype === "bfloat16";
    const weights = flops.decodeBytes(dtype);
    const limit = (operations: number, bytes: number, milliseconds: number) =>
      limitOf({ flops: operations, bytes }, milliseconds, peaks, wide);
    const operations = flops.both(tokens, headRows, pairs);
    const figures: Figure[] = [
      more(
        `forward of ${tokens} tokens`,
        (1000 * tokens) / scoring,
        "tokens/s",
        limit(flops.forward(tokens, headRows, pairs), weights, scoring),
      ),
      more(
        `forward and backward of ${tokens} tokens`,
        (1000 * tokens) / learning,
        "tokens/s",
        limit(operations, 3 * weights, learning),
      ),
      less(
        `optimizer's step of ${digits(flops.parameters / 1e6)} M parameters`,
        optimizing,
        "ms",
        limit(0, flops.parameters * optimizerBytes(device, dtype), optimizing),
      ),
    ];
    // Of the peak that the device is known for: measured on a CPU, published of a GPU.
    const modelFlopsUtilization = operations / (learning / 1000) / device.peakFlops(dtype);
    const besideBytes = device.freeBytes() === null ? null : beside() - before;
    return {
      checked,
      figures,
      perPhase: counted,
      tokens,
      modelFlopsUtilization,
      besideBytes,
      bytes: arena.byteLength,
      peaks,
    };
  } finally {
    arena.free();
  }
}

export const update: Suite = {
  summary: "tokens/s of the forward pass, and of forward and backward; the optimizer's step",
  usual: true,
  takes: [
    ...(["device", "shape", "model", "dtype", "threads", "path", "quick", "num_generations"] as const),
    ...(["max_concurrent_sequences", "prompt_tokens", "max_completion_length", "micro_batch_tokens"] as const),
    "gradient_checkpointing",
  ],
  async run(flags, line) {
    requireModel(flags);
    return withMeter(flags, async (meter) => {
      const { device } = meter;
      const model = await measuredModel(flags, device);
      const [shape, dtype] = [stepShape(device, flags), flags.dtype ?? "bfloat16"];
      const options = { dtype, checkpointing: flags.gradientCheckpointing, runs: flags.quick ? 1 : 3 };
      const { checked, figures, ...details } = await measureUpdate(meter, model, shape, options);
      const report = reportOf("update", device, checked, figures, line, {
        ...{ model: model.name, dtype, shape },
        ...details,
      });
      const { modelFlopsUtilization, besideBytes, bytes } = details;
      line(`  MFU ${(100 * modelFlopsUtilization).toFixed(1)} %, recomputation not counted`);
      line(`  ${model.name}, ${dtype}, ${Math.round(bytes / 2 ** 20)} MiB planned`);
      if (besideBytes !== null)
        line(`  memory taken by the driver and libraries: ${(besideBytes / 2 ** 20).toFixed(0)} MiB`);
      for (const phase of details.perPhase) line(phaseLine(phase));
      return report;
    });
  },
};
