/**
 * Data between arrays of the program and tensors on the GPU, always through pinned memory: an upload returns as soon as
 * the array has been copied there, and a read waits for the GPU without holding up the event loop.
 */
import { bytesAt } from "../../../ffi/bindings/libc.ts";
import { byteLength, rowElements, type Tensor } from "../../tensor/tensor.ts";
import type { DeviceMemory, NumberArray } from "../device.ts";
import type { Gpu } from "./gpu.ts";
import type { GpuMemory } from "./memory.ts";
import { openWaiter } from "./waiting.ts";

/** The ring that uploads go through: a piece is written again only when its copies are done. */
const PIECES = 8;
const PIECE_BYTES = 512 * 1024;
/** Uploads of a decode step are of a few bytes; copies start at multiples of this. */
const ALIGNMENT = 256;
/** Bytes that a synchronous download moves at once. */
const DOWNLOAD_BYTES = 4 * 2 ** 20;
const LEAST_READ = 4096;

export interface Transfers {
  upload(target: Tensor, data: NumberArray): void;
  download(source: Tensor): NumberArray;
  read(source: Tensor): Promise<NumberArray>;
}

interface PinnedPiece {
  readonly memory: DeviceMemory;
  readonly bytes: Uint8Array;
  readonly event: number;
}

function pinned(gpu: Gpu, memory: GpuMemory, byteLength: number, what: string): PinnedPiece {
  const piece = memory.allocateHost(byteLength, what);
  return { memory: piece, bytes: new Uint8Array(bytesAt(piece.address, byteLength)), event: gpu.createEvent() };
}

function requirePacked(source: Tensor): void {
  if (source.rowStride !== rowElements(source)) throw new RangeError(`${source.name}: only packed tensors are read`);
}

/** The bytes as an array of the tensor's type, bfloat16 as Uint16Array. */
function arrayOf(source: Tensor, bytes: ArrayBuffer): NumberArray {
  switch (source.dtype) {
    case "float32":
      return new Float32Array(bytes);
    case "float64":
      return new Float64Array(bytes);
    case "int32":
      return new Int32Array(bytes);
    case "uint32":
      return new Uint32Array(bytes);
    default:
      return new Uint16Array(bytes);
  }
}

export function openTransfers(gpu: Gpu, memory: GpuMemory): Transfers {
  const ring: PinnedPiece[] = [];
  let current = 0;
  let used = 0;

  /** Room for `bytes` in the ring, none of it read by a copy that is still queued. */
  const room = (bytes: number): { piece: PinnedPiece; offset: number } => {
    if (used + bytes > PIECE_BYTES) {
      gpu.mark(ring[current]!.event);
      current = (current + 1) % PIECES;
      used = 0;
      if (ring[current]) gpu.waitFor(ring[current]!.event);
    }
    ring[current] ??= pinned(gpu, memory, PIECE_BYTES, "staging of uploads");
    const offset = used;
    used = Math.min(PIECE_BYTES, used + Math.ceil(bytes / ALIGNMENT) * ALIGNMENT);
    return { piece: ring[current]!, offset };
  };

  // Pieces that reads wait in, by size: several reads may be under way.
  const idle = new Map<number, PinnedPiece[]>();
  const take = (bytes: number): PinnedPiece => {
    const size = Math.max(LEAST_READ, 2 ** Math.ceil(Math.log2(bytes)));
    return idle.get(size)?.pop() ?? pinned(gpu, memory, size, "staging of reads");
  };
  const giveBack = (piece: PinnedPiece) => {
    const size = piece.memory.byteLength;
    const others = idle.get(size);
    if (others) others.push(piece);
    else idle.set(size, [piece]);
  };
  const wait = openWaiter();
  const fetch = (piece: PinnedPiece, address: number, bytes: number) => {
    gpu.call("cuMemcpyDtoHAsync_v2", piece.memory.address, address, bytes, gpu.stream);
    gpu.mark(piece.event);
  };

  return {
    upload(target, data) {
      gpu.outsideCapture(`${target.name}: an upload`);
      const bytes = byteLength(target);
      if (data.byteLength > bytes) throw new RangeError(`${target.name}: ${data.byteLength} bytes into ${bytes}`);
      const source = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      for (let at = 0; at < source.length; at += PIECE_BYTES) {
        const part = source.subarray(at, at + PIECE_BYTES);
        const { piece, offset } = room(part.length);
        piece.bytes.set(part, offset);
        const from = piece.memory.address + offset;
        gpu.call("cuMemcpyHtoDAsync_v2", target.address + at, from, part.length, gpu.stream);
      }
    },
    download(source) {
      gpu.outsideCapture(`${source.name}: a download`);
      requirePacked(source);
      const whole = new Uint8Array(byteLength(source));
      for (let at = 0; at < whole.length; at += DOWNLOAD_BYTES) {
        const bytes = Math.min(DOWNLOAD_BYTES, whole.length - at);
        const piece = take(bytes);
        fetch(piece, source.address + at, bytes);
        gpu.waitFor(piece.event);
        whole.set(piece.bytes.subarray(0, bytes), at);
        giveBack(piece);
      }
      return arrayOf(source, whole.buffer);
    },
    async read(source) {
      gpu.outsideCapture(`${source.name}: a read`);
      requirePacked(source);
      const bytes = byteLength(source);
      if (bytes === 0) return arrayOf(source, new ArrayBuffer(0));
      const piece = take(bytes);
      fetch(piece, source.address, bytes);
      await wait(source.name, () => gpu.reached(piece.event));
      const copy = piece.bytes.slice(0, bytes).buffer;
      giveBack(piece);
      return arrayOf(source, copy);
    },
  };
}
