/**
 * What a checkpoint's optimizer.safetensors has of an optimizer in another form than the usual one: moments in 8 bits, in the
 * order in which they lie, and metadata that say how they were written.
 */
import type { MappedTensor, openSafetensors } from "../checkpoint/safetensors.ts";
import { onlyFinite, type TensorSource } from "../checkpoint/safetensors-write.ts";
import type { Device } from "../device/device.ts";
import { hostBytes } from "../device/host-numbers.ts";
import { InputError } from "../errors.ts";
import type { Model } from "../model/model.ts";
import type { OptimizerState, StateBuffer } from "../optim/adamw.ts";
import { usualForm } from "../optim/form.ts";
import { bytesPerElement } from "../tensor/dtype.ts";
import { byteLength, rows, type Tensor } from "../tensor/tensor.ts";
import { momentNames, type Optimized, partsOf, stateOf } from "./optimizer-state.ts";

interface CodedBuffer {
  readonly name: string;
  readonly dtype: "F32" | "U8";
  readonly parameter: string;
  readonly kind: StateBuffer;
  readonly buffer: Tensor;
}

/** The buffers of moments in 8 bits under their names. */
export function codedBuffers(trained: Optimized): CodedBuffer[] {
  return stateOf(trained).flatMap(({ weight: { name: parameter }, kind, buffer }) => {
    const [moment, coded] = kind.split(" ") as [keyof typeof momentNames, string?];
    if (!coded) return [];
    const isScale = coded === "absmax";
    const name = `${momentNames[moment]}${isScale ? ".absmax" : ""}.${parameter}`;
    return [{ name, dtype: isScale ? "F32" : "U8", parameter, kind, buffer }];
  });
}

/** Bytes of a buffer that are on the host at once. */
const COPIED_BYTES = 8 * 2 ** 20;

function* pieces(buffer: Tensor): Generator<Tensor> {
  const [total = 0] = buffer.shape;
  const step = COPIED_BYTES / bytesPerElement(buffer.dtype);
  for (let from = 0; from < total; from += step) yield rows(buffer, from, Math.min(step, total - from));
}

/** @param collect puts it together, where ranks have it in parts */
function asItLies(device: Device, { name, dtype, buffer }: CodedBuffer, collect: () => Promise<void>): TensorSource {
  const source: TensorSource = {
    ...{ name, dtype, shape: buffer.shape },
    async *chunks() {
      await collect();
      for (const piece of pieces(buffer)) {
        const { buffer: bytes, byteOffset, byteLength } = await device.read(piece);
        yield new Uint8Array(bytes, byteOffset, byteLength);
      }
    },
  };
  return source.dtype === "F32" ? onlyFinite(source) : source;
}

/** Moments in 8 bits, to be written to a file. */
export function codedMoments(trained: Optimized): TensorSource[] {
  const among = partsOf(trained);
  return codedBuffers(trained).map((each) =>
    asItLies(trained.model.device, each, async () => among?.collect(each.parameter, each.kind)),
  );
}

/** Metadata about a form other than the usual one. The order of moments matters in 8 bits. */
export function formMetadata({ device, weights }: Model, { form }: OptimizerState): Readonly<Record<string, string>> {
  const { optim, masterDtype } = form;
  return {
    ...(optim === "adamw_8bit" && { optim, layout: device.parameterLayout(weights.dtype) }),
    ...(masterDtype !== usualForm.masterDtype && { master_dtype: masterDtype }),
  };
}

const shown = (text: string): string => (/^\w{1,40}$/.test(text) ? text : JSON.stringify(text.slice(0, 40)));

/** @throws InputError if a file was written with an optimizer of another form, or on a device that lays it out otherwise */
export function requireSameForm(
  path: string,
  model: Model,
  optimizer: OptimizerState,
  there: Readonly<Record<string, string>>,
): void {
  const here = formMetadata(model, optimizer);
  for (const [key, usual] of [
    ["optim", usualForm.optim],
    ["master_dtype", usualForm.masterDtype],
  ] as const) {
    const [then, now] = [there[key] ?? usual, here[key] ?? usual];
    if (then !== now)
      throw new InputError(
        `${path}: the checkpoint was written with ${key} ${shown(then)}, now it is ${now}; resume with the setting that the run had`,
      );
  }
  if (there.layout !== here.layout)
    throw new InputError(
      `${path}: metadata field layout is ${JSON.stringify((there.layout ?? "").slice(0, 40))}, moments in 8 bits lie in ${here.layout} here; resume on a device of the kind that wrote the checkpoint (on a CPU, BUN_GRPO_CPU_PATH chooses)`,
    );
}

/**
 * Loads moments in 8 bits.
 *
 * @param requireSound refuses numbers that no saved tensor has
 * @throws InputError for a tensor that is missing or of another type or shape
 */
export function loadCodedMoments(
  { path, tensors }: Pick<ReturnType<typeof openSafetensors>, "path" | "tensors">,
  trained: Optimized,
  requireSound: (tensor: MappedTensor) => void,
): void {
  const { device } = trained.model;
  for (const { name, dtype, parameter, kind, buffer } of codedBuffers(trained)) {
    const found = tensors.get(name);
    if (!found)
      throw new InputError(
        `${path}: tensor ${name} is missing; the checkpoint was written with another dtype or model`,
      );
    if (found.dtype !== dtype || found.shape.join() !== buffer.shape.join())
      throw new InputError(
        `${path}: tensor ${name} is ${found.dtype} [${found.shape}], expected ${dtype} [${buffer.shape}]`,
      );
    if (dtype === "F32") requireSound(found);
    let { address } = found;
    for (const piece of pieces(buffer)) {
      const bytes = byteLength(piece);
      const held = hostBytes(address, bytes);
      device.upload(piece, dtype === "U8" ? new Uint8Array(held) : new Float32Array(held));
      address += bytes;
    }
    partsOf(trained)?.keep(parameter, kind);
  }
}
