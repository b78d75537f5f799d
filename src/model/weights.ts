/**
 * A model's parameters on the device: planned, loaded from a checkpoint's mapped tensors, and given out by role. One
 * copy serves sampling, both directions of training, the embedding and the head (promise 1).
 */

import { breathe } from "../device/breathe.ts";
import type { Device, Weight } from "../device/device.ts";
import { InputError } from "../errors.ts";
import type { ModelConfig } from "../families/config.ts";
import { parameterSpecs, scalarHead } from "../families/parameters.ts";
import { bytesPerElement, type ComputeDType, type DType } from "../tensor/dtype.ts";
import type { PlanBuilder } from "../tensor/plan.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";

export interface Linear {
  readonly weight: Weight;
  readonly bias: Weight | null;
}

export interface LayerWeights {
  readonly inputNorm: Weight;
  readonly q: Linear;
  readonly k: Linear;
  readonly v: Linear;
  readonly qNorm: Weight | null;
  readonly kNorm: Weight | null;
  readonly o: Linear;
  readonly postNorm: Weight;
  readonly gate: Linear;
  readonly up: Linear;
  readonly down: Linear;
}

export interface ModelWeights {
  readonly config: ModelConfig;
  readonly dtype: ComputeDType;
  /** Every parameter, in the order of parameterSpecs. */
  readonly all: readonly Weight[];
  readonly embedding: Weight;
  readonly layers: readonly LayerWeights[];
  readonly finalNorm: Weight;
  /** (V, D), the embedding itself when the two are tied; (1, D) of a reward model or critic. */
  readonly head: Weight;
}

/** Adds a model's parameters to the plan under `prefix`. */
export function planWeights(
  plan: PlanBuilder,
  device: Device,
  config: ModelConfig,
  dtype: ComputeDType,
  prefix: string,
): void {
  for (const spec of parameterSpecs(config))
    plan.add(`${prefix} weights`, `${prefix}/${spec.name}`, dtype, [device.parameterElements(spec.shape)]);
}

/** The planned parameters under `prefix`, as the model uses them. */
export function bindWeights(
  tensors: ReadonlyMap<string, Tensor>,
  config: ModelConfig,
  dtype: ComputeDType,
  prefix: string,
): ModelWeights {
  const byName = new Map<string, Weight>();
  for (const { name, shape } of parameterSpecs(config)) {
    const buffer = tensors.get(`${prefix}/${name}`);
    if (!buffer) throw new Error(`${prefix}/${name} is not in the memory plan`);
    byName.set(name, { name, address: buffer.address, dtype, shape, elements: buffer.shape[0] ?? 0 });
  }
  const get = (name: string): Weight => {
    const weight = byName.get(name);
    if (!weight) throw new Error(`no parameter ${name}`);
    return weight;
  };
  const linear = (name: string): Linear => ({
    weight: get(`${name}.weight`),
    bias: byName.get(`${name}.bias`) ?? null,
  });
  const embedding = get("model.embed_tokens.weight");
  return {
    config,
    dtype,
    all: [...byName.values()],
    embedding,
    layers: Array.from({ length: config.numLayers }, (_, layer) => {
      const at = `model.layers.${layer}`;
      return {
        inputNorm: get(`${at}.input_layernorm.weight`),
        q: linear(`${at}.self_attn.q_proj`),
        k: linear(`${at}.self_attn.k_proj`),
        v: linear(`${at}.self_attn.v_proj`),
        qNorm: byName.get(`${at}.self_attn.q_norm.weight`) ?? null,
        kNorm: byName.get(`${at}.self_attn.k_norm.weight`) ?? null,
        o: linear(`${at}.self_attn.o_proj`),
        postNorm: get(`${at}.post_attention_layernorm.weight`),
        gate: linear(`${at}.mlp.gate_proj`),
        up: linear(`${at}.mlp.up_proj`),
        down: linear(`${at}.mlp.down_proj`),
      };
    }),
    finalNorm: get("model.norm.weight"),
    head: config.head === "score" ? get(scalarHead) : config.tieWordEmbeddings ? embedding : get("lm_head.weight"),
  };
}

/** Where parameters come from: a checkpoint's tensors, mapped. */
export interface ParameterSource {
  /** Names the source in errors. */
  readonly path: string;
  /** The source is a language model: a scalar head, which it does not have, starts at zeros. */
  readonly scalarHeadFromZero?: boolean;
  /** The row-major tensor of that name, or null. */
  find(name: string): { readonly address: number; readonly dtype: DType; readonly shape: readonly number[] } | null;
}

function startsAtZero(source: ParameterSource, name: string): boolean {
  return name === scalarHead && source.scalarHeadFromZero === true;
}

/** @throws InputError when the tensor is missing or has another shape than config.json implies. */
function findParameter(source: ParameterSource, { name, shape }: { name: string; shape: readonly number[] }) {
  const found = source.find(name);
  if (!found)
    throw new InputError(
      `${source.path}: tensor ${name} is missing; the checkpoint does not belong to this config.json`,
    );
  if (found.shape.length !== shape.length || found.shape.some((n, i) => n !== shape[i]))
    throw new InputError(
      `${source.path}: tensor ${name} has shape [${found.shape}], config.json implies [${shape}]; weights and config.json must belong to one model`,
    );
  return found;
}

/**
 * Whether a checkpoint has what its config.json implies, before anything is allocated for it.
 *
 * @throws InputError naming the first tensor that is missing or has another shape or type
 */
export function checkWeights(config: ModelConfig, source: ParameterSource): void {
  for (const spec of parameterSpecs(config)) if (!startsAtZero(source, spec.name)) findParameter(source, spec);
}

/**
 * Fills the parameters from a checkpoint.
 *
 * @throws InputError as `checkWeights` does
 */
export async function loadWeights(device: Device, weights: ModelWeights, source: ParameterSource): Promise<void> {
  for (const weight of weights.all) {
    if (startsAtZero(source, weight.name)) {
      // a buffer ends on a wide boundary, so half a float more is still its own
      const floats = Math.ceil((weight.elements * bytesPerElement(weight.dtype)) / 4);
      device.ops.fill(tensor(weight.name, weight.address, "float32", [floats]), 0);
      continue;
    }
    const found = findParameter(source, weight);
    device.loadParameter(weight, found.address, found.dtype, 0, weight.shape[0] ?? 0);
    await breathe();
  }
}

/** Rows of `weight` that make about `bytes`, at least one block of rows. */
export function rowsPerChunk(weight: Weight, dtype: DType, bytes: number): number {
  const rowBytes = (weight.shape[1] ?? 1) * bytesPerElement(dtype);
  return Math.max(16, Math.floor(bytes / rowBytes / 16) * 16);
}

/** A tensor on its way into a checkpoint: row-major, in pieces. A piece is valid until the next is asked for. */
export interface SavedTensor {
  readonly name: string;
  readonly dtype: "F32" | "BF16";
  readonly shape: readonly number[];
  chunks(): Iterable<{ readonly address: number; readonly byteLength: number }>;
}

/** Bytes of host memory that pieces pass through. */
const STAGING_BYTES = 8 * 2 ** 20;

/**
 * Parameters, or buffers in their layout, as tensors to be saved: `layout` gives each its shape, `address` where it
 * lies (the parameter itself, its master, a moment). One piece of host memory serves them all; `free` gives it back.
 */
export function savedTensors(
  device: Device,
  entries: readonly { readonly name: string; readonly weight: Weight }[],
  dtype: ComputeDType,
): { readonly tensors: SavedTensor[]; free(): void } {
  const rowBytes = Math.max(...entries.map(({ weight }) => 16 * (weight.shape[1] ?? 1) * bytesPerElement(dtype)));
  const staging = device.allocateHost(Math.max(STAGING_BYTES, rowBytes), "staging for a checkpoint");
  const tensors = entries.map(
    ({ name, weight }): SavedTensor => ({
      name,
      dtype: dtype === "float32" ? "F32" : "BF16",
      shape: weight.shape,
      *chunks() {
        const total = weight.shape[0] ?? 0;
        const step = rowsPerChunk(weight, dtype, staging.byteLength);
        for (let from = 0; from < total; from += step) {
          const count = Math.min(step, total - from);
          device.saveParameter(staging.address, dtype, weight, from, count);
          yield { address: staging.address, byteLength: count * (weight.shape[1] ?? 1) * bytesPerElement(dtype) };
        }
      },
    }),
  );
  return { tensors, free: () => staging.free() };
}
