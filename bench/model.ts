/** The model that `rollout` and `update` measure: a shape with random weights, or a folder with its own. */
import { bytesAt } from "../ffi/bindings/libc.ts";
import { resolveModel } from "../src/checkpoint/hub.ts";
import { readModelConfig } from "../src/checkpoint/huggingface.ts";
import type { CudaDevice } from "../src/device/cuda/device.ts";
import type { Device, Weight } from "../src/device/device.ts";
import { InputError } from "../src/errors.ts";
import type { ModelConfig } from "../src/families/config.ts";
import { layersOf, parameterCount, parameterSpecs } from "../src/families/parameters.ts";
import { fillRopeTables } from "../src/model/rope-tables.ts";
import { loadWeights } from "../src/model/weights.ts";
import type { GradientCheckpointing } from "../src/session/gradient-checkpointing.ts";
import { openModelFolder, parameterSource } from "../src/session/planned-model.ts";
import type { ComputeDType } from "../src/tensor/dtype.ts";
import { elementCount, tensor } from "../src/tensor/tensor.ts";
import { isEmulated } from "./cuda-meter.ts";
import type { BenchFlags } from "./flags.ts";
import { modelNamed, type NamedModel } from "./models.ts";
import { constant, fillWith, periodic, scattered } from "./ops/workspace.ts";
import { openModel, type StepShape } from "./roofline/phases.ts";

export interface MeasuredModel extends NamedModel {
  /** Where its weights are; null: random ones. */
  readonly folder: string | null;
}

/** @throws InputError for a model that does not exist */
export async function measuredModel(
  { shape, model }: Pick<BenchFlags, "shape" | "model">,
  device: Pick<Device, "kind">,
): Promise<MeasuredModel> {
  if (model === null)
    return { ...modelNamed(shape ?? (device.kind === "cpu" ? "SmolLM2-135M" : "Qwen3-0.6B")), folder: null };
  const folder = await resolveModel(model, { note: (text) => void process.stderr.write(`${text}\n`) });
  return { name: model, config: readModelConfig(folder), folder };
}

/** Refuses a model that does not exist before a device is opened, which may compile kernels. */
export function requireModel({ shape, model }: Pick<BenchFlags, "shape" | "model">): void {
  if (shape !== null) modelNamed(shape);
  else if (model?.match(/^[./]/)) readModelConfig(model);
}

/** The work of a run, from the flags and what suits the device. @throws InputError if a completion cannot be decoded */
export function stepShape(device: Device, flags: BenchFlags): StepShape {
  const given = {
    samples: flags.numGenerations,
    sequences: flags.maxConcurrentSequences,
    promptTokens: flags.promptTokens,
    completionTokens: flags.maxCompletionLength,
    microBatchTokens: flags.microBatchTokens,
  };
  const known = Object.entries(given).filter(([, value]) => value !== null);
  const shape = { ...usualShape(device, flags.quick), ...Object.fromEntries(known) };
  if (shape.sequences < shape.samples && flags.maxConcurrentSequences === null)
    return { ...shape, sequences: shape.samples };
  return shape;
}

function usualShape(device: Device, quick: boolean): StepShape {
  const groups = { groups: 1 };
  if (device.kind === "cpu")
    return {
      ...groups,
      ...{ samples: 8, promptTokens: 64, completionTokens: quick ? 24 : 64, sequences: 8, microBatchTokens: 2048 },
    };
  if (isEmulated(device as CudaDevice))
    return { ...groups, samples: 2, promptTokens: 16, completionTokens: 8, sequences: 4, microBatchTokens: 256 };
  const completionTokens = quick ? 256 : 1024;
  return {
    ...groups,
    samples: 16,
    promptTokens: 128,
    completionTokens,
    sequences: 64,
    microBatchTokens: device.microBatchTokens,
  };
}

export type OpenedModel = ReturnType<typeof openModel>;

/**
 * The model with all buffers of a step, filled.
 *
 * @throws InputError or RunError if it does not fit the memory
 */
export async function openMeasured(
  device: Device,
  { config, folder }: MeasuredModel,
  shape: StepShape,
  dtype: ComputeDType,
  checkpointing: GradientCheckpointing = true,
): Promise<OpenedModel> {
  const positions = shape.promptTokens + shape.completionTokens;
  if (positions > config.maxPositionEmbeddings)
    throw new InputError(
      `a prompt of ${shape.promptTokens} tokens and a completion of ${shape.completionTokens}: the model's context is ${config.maxPositionEmbeddings} tokens; lower --prompt_tokens or --max_completion_length`,
    );
  const opened = openModel(device, config, shape, dtype, checkpointing);
  const { model, arena } = opened;
  device.ops.fill(tensor("arena", arena.address, "float32", [Math.floor(arena.byteLength / 4)]), 0);
  fillRopeTables(device, config, model.rope);
  if (folder === null) {
    // In the kernels' own layout: which element is where does not matter.
    for (const [i, w] of model.weights.all.entries())
      fillWith(device, tensor(w.name, w.address, w.dtype, [w.elements]), randomValues(w, i + 1));
    return opened;
  }
  const { checkpoint } = openModelFolder(folder);
  try {
    await loadWeights(device, model.weights, parameterSource(checkpoint));
  } finally {
    checkpoint.close();
  }
  return opened;
}

/** Matrices that keep activations near one, norms of one, small biases. */
function randomValues({ name, shape }: Pick<Weight, "name" | "shape">, salt: number) {
  if (shape.length === 1) return constant(name.endsWith("bias") ? 1 / 16 : 1);
  const at = scattered(salt);
  return periodic((index) => at(index) / 32);
}

/** Fills every parameter of a small model with numbers that the host knows: `values` in row-major order. */
export function fillKnown(device: Device, weights: readonly Weight[], values: (name: string) => Float64Array): void {
  for (const w of weights) {
    const count = elementCount(w.shape);
    const host = device.allocateHost(count * 4, "bench: a parameter");
    new Float32Array(bytesAt(host.address, count * 4)).set(values(w.name));
    device.loadParameter(w, host.address, "float32", 0, w.shape[0] ?? 1);
    host.free();
  }
}

/** Floating-point operations of a model: those of its products and of attention, nothing else. */
export function modelFlops(config: ModelConfig) {
  const layers = layersOf(config);
  const embedding = elementCount(config.embedding.shape);
  const matrices = parameterSpecs(config).reduce(
    (sum, { shape }) => sum + (shape.length > 1 ? elementCount(shape) : 0),
    0,
  );
  const head = config.vocabSize * config.hiddenSize;
  const inLayers = matrices - embedding - (config.tieWordEmbeddings ? 0 : head);
  const perPair = layers.reduce((sum, { attention: { shape } }) => sum + 4 * shape.heads * shape.headDim, 0);
  return {
    /** Forward, for `tokens` rows in the layers, `headRows` rows of logits, and `pairs` of a query and a key. */
    forward: (tokens: number, headRows: number, pairs: number) =>
      2 * inLayers * tokens + 2 * head * headRows + perPair * pairs,
    /** Forward and backward, without recomputation: two more products for each, attention's five for two. */
    both: (tokens: number, headRows: number, pairs: number) =>
      6 * inLayers * tokens + 6 * head * headRows + 3.5 * perPair * pairs,
    parameters: parameterCount(config),
    /** Bytes of weights that a decode step reads: all but the rows of the embedding that no token asks for. */
    decodeBytes: (dtype: ComputeDType) => (inLayers + head) * (dtype === "bfloat16" ? 2 : 4),
    /** Bytes of keys and values of one token. */
    cacheBytes: (type: ComputeDType) =>
      layers.reduce((sum, { attention: { shape } }) => sum + 2 * shape.kvHeads * shape.headDim, 0) *
      (type === "bfloat16" ? 2 : 4),
  };
}
