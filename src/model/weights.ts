/**
 * Loads a model's parameters from a checkpoint's mapped tensors, and returns them as tensors to save.
 */

import { breathe } from "../device/breathe.ts";
import type { Device, Weight } from "../device/device.ts";
import { loadNumbers } from "../device/host-numbers.ts";
import { InputError } from "../errors.ts";
import type { ModelConfig } from "../families/config.ts";
import { parameterSpecs, scalarHead } from "../families/parameters.ts";
import { bytesPerElement, type ComputeDType, type DType } from "../tensor/dtype.ts";
import type { StoredNf4 } from "../tensor/nf4.ts";
import { tensor } from "../tensor/tensor.ts";
import { loadAsNf4, loadNf4 } from "./load-nf4.ts";
import type { ModelWeights } from "./model.ts";

/** A checkpoint's mapped tensors, as a source of parameters. */
export interface ParameterSource {
  /** Names the source in errors. */
  readonly path: string;
  /** The source is a language model, which has no scalar head: it starts at zeros. */
  readonly scalarHeadFromZero?: boolean;
  /** The row-major tensor with that name, or null. */
  find(name: string): { readonly address: number; readonly dtype: DType; readonly shape: readonly number[] } | null;
  /** A matrix in NF4, or null if it is stored otherwise. */
  quantized?(name: string): StoredNf4 | null;
  /** The numbers of a parameter that is in no file, or null. */
  numbers?(name: string, shape: readonly number[]): Float32Array | null;
  /** Drops what was read of it from memory; it is read again when touched. */
  release(): void;
}

/** Bytes of the checkpoint that may be resident in addition to the parameters that they become. */
const READ_AT_ONCE = 16 * 2 ** 20;

function startsAtZero(source: ParameterSource, name: string): boolean {
  return name === scalarHead && source.scalarHeadFromZero === true;
}

type Named = { readonly name: string; readonly shape: readonly number[] };

/** @throws InputError if the tensor is missing or its shape differs from what config.json implies */
function findParameter(source: ParameterSource, parameter: Named) {
  const found = source.find(parameter.name);
  if (!found)
    throw new InputError(
      `${source.path}: tensor ${parameter.name} is missing; the checkpoint does not belong to this config.json`,
    );
  return ofShape(source, parameter, found);
}

function ofShape<T extends Pick<Named, "shape">>(source: ParameterSource, { name, shape }: Named, found: T): T {
  if (found.shape.length !== shape.length || found.shape.some((n, i) => n !== shape[i]))
    throw new InputError(
      `${source.path}: tensor ${name} has shape [${found.shape}], config.json implies [${shape}]; weights and config.json must belong to one model`,
    );
  return found;
}

/**
 * Checks that a checkpoint has the tensors that its config.json implies, before anything is allocated.
 *
 * @throws InputError naming the first tensor that is missing or has the wrong shape or type
 */
export function checkWeights(config: ModelConfig, source: ParameterSource): void {
  for (const spec of parameterSpecs(config)) {
    if (startsAtZero(source, spec.name)) continue;
    const stored = spec.quantized ? source.quantized?.(spec.name) : null;
    if (stored) ofShape(source, spec, stored);
    else findParameter(source, spec);
  }
}

/**
 * Fills the parameters from a checkpoint.
 *
 * @throws InputError as `checkWeights` does
 */
export async function loadWeights(
  device: Device,
  weights: Pick<ModelWeights, "all">,
  source: ParameterSource,
): Promise<void> {
  let resident = 0;
  for (const weight of weights.all) {
    if (startsAtZero(source, weight.name)) {
      device.ops.fill(asFloats(weight), 0);
      continue;
    }
    const numbers = source.numbers?.(weight.name, weight.shape);
    if (numbers) {
      loadNumbers(device, weight, numbers);
      await breathe();
      continue;
    }
    const stored = weight.quantized ? source.quantized?.(weight.name) : null;
    if (stored) await loadNf4(device, weight, ofShape(source, weight, stored));
    if (stored) continue;
    const { address, dtype } = findParameter(source, weight);
    if (weight.quantized) {
      await loadAsNf4(device, weight, address, dtype);
      source.release();
      resident = 0;
      continue;
    }
    const rowBytes = (weight.shape[1] ?? 1) * bytesPerElement(dtype);
    for (const { from, count } of rowChunks(weight, dtype, READ_AT_ONCE)) {
      if (resident + count * rowBytes > READ_AT_ONCE) {
        source.release();
        resident = 0;
      }
      device.loadParameter(weight, address + from * rowBytes, dtype, from, count);
      resident += count * rowBytes;
      await breathe();
    }
  }
}

/** A parameter's memory as float32. The buffer is padded, so half a float more is still within it. */
function asFloats({ name, address, elements, dtype, quantized }: Weight) {
  return tensor(name, address, "float32", [Math.ceil((elements * (quantized ? 1 : bytesPerElement(dtype))) / 4)]);
}

/** Fills the parameters from those of a model of the same config and type. */
export async function copyWeights({ ops }: Device, weights: ModelWeights, source: ModelWeights): Promise<void> {
  for (const [i, weight] of weights.all.entries()) {
    ops.cast(asFloats(weight), asFloats(source.all[i]!));
    await breathe();
  }
}

/** The rows of `weight` in chunks of at most about `bytes`, at least one block of rows each. */
function* rowChunks(weight: Weight, dtype: DType, bytes: number): Generator<{ from: number; count: number }> {
  const rowBytes = (weight.shape[1] ?? 1) * bytesPerElement(dtype);
  const [total = 0] = weight.shape;
  const step = Math.max(16, Math.floor(bytes / rowBytes / 16) * 16);
  for (let from = 0; from < total; from += step) yield { from, count: Math.min(step, total - from) };
}

/** A tensor to write to a checkpoint: row-major, in chunks. A chunk is valid until the next one is requested. */
export interface SavedTensor {
  readonly name: string;
  readonly dtype: "F32" | "BF16";
  readonly shape: readonly number[];
  chunks(): Iterable<{ readonly address: number; readonly byteLength: number }>;
}

/** Bytes of host memory that chunks are staged in. */
const STAGING_BYTES = 8 * 2 ** 20;

/**
 * Parameters, or buffers in their layout (masters, moments), as tensors to save. All share one host staging buffer,
 * which `free` releases.
 */
export function savedTensors(
  device: Device,
  entries: readonly { readonly name: string; readonly weight: Weight }[],
  dtype: ComputeDType,
): { readonly tensors: SavedTensor[]; free(): void } {
  const rowBytes = Math.max(0, ...entries.map(({ weight }) => 16 * (weight.shape[1] ?? 1) * bytesPerElement(dtype)));
  const staging = device.allocateHost(Math.max(STAGING_BYTES, rowBytes), "staging for a checkpoint");
  const tensors = entries.map(
    ({ name, weight }): SavedTensor => ({
      name,
      dtype: dtype === "float32" ? "F32" : "BF16",
      shape: weight.shape,
      *chunks() {
        for (const { from, count } of rowChunks(weight, dtype, staging.byteLength)) {
          device.saveParameter(staging.address, dtype, weight, from, count);
          yield { address: staging.address, byteLength: count * (weight.shape[1] ?? 1) * bytesPerElement(dtype) };
        }
      },
    }),
  );
  return { tensors, free: () => staging.free() };
}
