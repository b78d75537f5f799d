/**
 * Copies parameters to and from row-major host memory, such as a mapped file, through two pinned pieces: the host fills
 * or empties one while the GPU copies the other. Types are converted on the GPU. What is in pinned memory itself, the state of
 * an optimizer, is copied by the host.
 */
import { bytesAt } from "../../../ffi/bindings/libc.ts";
import { bytesPerElement, type DType } from "../../tensor/dtype.ts";
import { elementCount, tensor } from "../../tensor/tensor.ts";
import type { Device, Ops, Weight } from "../device.ts";
import type { Gpu } from "./gpu.ts";
import type { GpuMemory } from "./memory.ts";
import { cudaNf4Layout } from "./ops/nf4.ts";
import { type PinnedPiece, pinnedPiece } from "./pinned.ts";

const PIECE_BYTES = 8 * 2 ** 20;
/** The scratch slot for a piece in the host's type. */
const SLOT = 1;
/** Upper bound of the scratch used in either direction. */
export const parameterScratchBytes = PIECE_BYTES;

export type Parameters = Pick<Device, "loadParameter" | "saveParameter" | "nf4Layout" | "loadCodes">;

interface Range {
  readonly address: number;
  readonly bytes: number;
}

function copyOnHost(to: number, from: number, bytes: number): void {
  for (let at = 0; at < bytes; at += PIECE_BYTES) {
    const n = Math.min(PIECE_BYTES, bytes - at);
    new Uint8Array(bytesAt(to + at, n)).set(new Uint8Array(bytesAt(from + at, n)));
  }
}

export function openParameters(
  gpu: Gpu,
  memory: GpuMemory,
  ops: Pick<Ops, "cast">,
  upload: Device["upload"],
): Parameters {
  const pieces: PinnedPiece[] = [];
  /** One of the two pieces. */
  const piece = (index: number): PinnedPiece =>
    (pieces[index % 2] ??= pinnedPiece(gpu, memory, PIECE_BYTES, "staging of parameters"));

  /** Splits `elements` into parts that fit a piece in either type: part number, first element, count. */
  function* parts(elements: number, a: DType, b: DType): Generator<[part: number, at: number, n: number]> {
    const most = PIECE_BYTES / Math.max(bytesPerElement(a), bytesPerElement(b));
    for (let at = 0, part = 0; at < elements; at += most, part++) yield [part, at, Math.min(most, elements - at)];
  }

  const rowsOf = (w: Weight) => elementCount(w.shape.slice(1));

  /** Where a parameter's rows are, if in pinned memory. @throws Error if they would have to be converted there */
  const pinnedRows = (w: Weight, dtype: DType, from: number, count: number): Range | null => {
    const row = rowsOf(w) * bytesPerElement(w.dtype);
    const range = { address: w.address + from * row, bytes: count * row };
    if (!memory.isPinned(range.address, range.bytes)) return null;
    if (dtype !== w.dtype) throw new Error(`${w.name}: ${w.dtype} in host memory is not converted to ${dtype}`);
    gpu.synchronize();
    return range;
  };

  return {
    loadParameter(w, address, dtype, from, count) {
      gpu.outsideCapture(`${w.name}: loading`);
      const held = pinnedRows(w, dtype, from, count);
      if (held) return copyOnHost(held.address, address, held.bytes);
      const [size, wSize, width] = [bytesPerElement(dtype), bytesPerElement(w.dtype), rowsOf(w)];
      for (const [part, at, n] of parts(count * width, dtype, w.dtype)) {
        const { memory: pinned, bytes, event } = piece(part);
        gpu.waitFor(event); // the last copy from this piece, maybe for an earlier parameter
        bytes.set(new Uint8Array(bytesAt(address + at * size, n * size)));
        const target = w.address + (from * width + at) * wSize;
        const place = dtype === w.dtype ? target : memory.scratch(SLOT, n * size);
        gpu.call("cuMemcpyHtoDAsync_v2", place, pinned.address, n * size, gpu.stream);
        gpu.mark(event);
        if (place !== target) ops.cast(tensor(w.name, target, w.dtype, [n]), tensor(w.name, place, dtype, [n]));
      }
    },
    saveParameter(address, dtype, w, from, count) {
      gpu.outsideCapture(`${w.name}: saving`);
      const held = pinnedRows(w, dtype, from, count);
      if (held) return copyOnHost(address, held.address, held.bytes);
      const [size, wSize, width] = [bytesPerElement(dtype), bytesPerElement(w.dtype), rowsOf(w)];
      const direct = memory.isPinned(address, count * width * size);
      let empty: (() => void) | null = null;
      for (const [part, at, n] of parts(count * width, dtype, w.dtype)) {
        const source = w.address + (from * width + at) * wSize;
        const place = dtype === w.dtype ? source : memory.scratch(SLOT, n * size);
        if (place !== source) ops.cast(tensor(w.name, place, dtype, [n]), tensor(w.name, source, w.dtype, [n]));
        if (direct) {
          gpu.call("cuMemcpyDtoHAsync_v2", address + at * size, place, n * size, gpu.stream);
          continue;
        }
        const { memory: pinned, bytes, event } = piece(part);
        gpu.call("cuMemcpyDtoHAsync_v2", pinned.address, place, n * size, gpu.stream);
        gpu.mark(event);
        empty?.();
        empty = () => {
          gpu.waitFor(event);
          new Uint8Array(bytesAt(address + at * size, n * size)).set(bytes.subarray(0, n * size));
        };
      }
      empty?.();
      if (direct) gpu.synchronize();
    },
    nf4Layout: cudaNf4Layout,
    loadCodes(w, codes, from) {
      const at = w.address + cudaNf4Layout(w.shape).codes + (from * rowsOf(w)) / 2;
      upload(tensor(w.name, at, "uint8", [codes.length]), codes);
    },
  };
}
