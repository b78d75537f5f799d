/**
 * Copies between typed arrays and tensors on the GPU, always through pinned memory: an upload returns as soon as the
 * array has been copied there, and a read waits for the GPU without blocking the event loop. Tensors may be in pinned memory
 * themselves; then work that is queued already comes first all the same.
 */
import { bytesAt } from "../../../ffi/bindings/libc.ts";
import { byteLength, type Tensor } from "../../tensor/tensor.ts";
import type { Device, NumberArray } from "../device.ts";
import { arrayOf, bytesFor, expectPacked } from "../host-arrays.ts";
import type { Gpu } from "./gpu.ts";
import type { GpuMemory } from "./memory.ts";
import { type PinnedPiece, pinnedPiece } from "./pinned.ts";
import { openWaiter } from "./waiting.ts";

/** Pieces in the ring that uploads go through; a piece is reused only when its copies are done. */
const PIECES = 8;
const PIECE_BYTES = 512 * 1024;
/** Copies start at multiples of this; small, since a decode step uploads only a few bytes. */
const ALIGNMENT = 256;
/** Bytes per copy of a synchronous download. */
const DOWNLOAD_BYTES = 4 * 2 ** 20;
const LEAST_READ = 4096;

export type Transfers = Pick<Device, "upload" | "download" | "read" | "queueRead">;

export function openTransfers(gpu: Gpu, memory: GpuMemory): Transfers {
  const ring: PinnedPiece[] = [];
  let current = 0;
  let used = 0;

  /** Room for `bytes` in the ring that no queued copy still reads. */
  const room = (bytes: number): { piece: PinnedPiece; offset: number } => {
    if (used + bytes > PIECE_BYTES) {
      gpu.mark(ring[current]!.event);
      current = (current + 1) % PIECES;
      used = 0;
      if (ring[current]) gpu.waitFor(ring[current]!.event);
    }
    ring[current] ??= pinnedPiece(gpu, memory, PIECE_BYTES, "staging of uploads");
    const offset = used;
    used = Math.min(PIECE_BYTES, used + Math.ceil(bytes / ALIGNMENT) * ALIGNMENT);
    return { piece: ring[current]!, offset };
  };

  // Free pieces for reads, by size; several reads may be in progress.
  const idle = new Map<number, PinnedPiece[]>();
  const take = (bytes: number): PinnedPiece => {
    const size = Math.max(LEAST_READ, 2 ** Math.ceil(Math.log2(bytes)));
    return idle.get(size)?.pop() ?? pinnedPiece(gpu, memory, size, "staging of reads");
  };
  const giveBack = (piece: PinnedPiece) => {
    const size = piece.memory.byteLength;
    const others = idle.get(size);
    if (others) others.push(piece);
    else idle.set(size, [piece]);
  };
  const wait = openWaiter();
  /** Marks the work before the last read of pinned memory. */
  let settled: number | null = null;
  const fetch = (piece: PinnedPiece, address: number, bytes: number) => {
    gpu.call("cuMemcpyDtoHAsync_v2", piece.memory.address, address, bytes, gpu.stream);
    gpu.mark(piece.event);
  };

  const queueRead = (source: Tensor): (() => Promise<NumberArray>) => {
    gpu.outsideCapture(`${source.name}: a read`);
    expectPacked(source);
    const bytes = byteLength(source);
    if (bytes === 0) return async () => arrayOf(source, new ArrayBuffer(0));
    if (memory.isPinned(source.address, bytes)) {
      settled ??= gpu.createEvent();
      const event = settled;
      gpu.mark(event);
      return async () => {
        await wait(source.name, () => gpu.reached(event));
        return arrayOf(source, bytesAt(source.address, bytes).slice(0));
      };
    }
    const piece = take(bytes);
    fetch(piece, source.address, bytes);
    return async () => {
      await wait(source.name, () => gpu.reached(piece.event));
      const copy = piece.bytes.slice(0, bytes).buffer;
      giveBack(piece);
      return arrayOf(source, copy);
    };
  };

  return {
    upload(target, data) {
      gpu.outsideCapture(`${target.name}: an upload`);
      const source = bytesFor(target, data);
      if (memory.isPinned(target.address, source.length)) {
        gpu.synchronize();
        new Uint8Array(bytesAt(target.address, source.length)).set(source);
        return;
      }
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
      expectPacked(source);
      const whole = new Uint8Array(byteLength(source));
      if (memory.isPinned(source.address, whole.length)) {
        gpu.synchronize();
        whole.set(new Uint8Array(bytesAt(source.address, whole.length)));
        return arrayOf(source, whole.buffer);
      }
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
    queueRead,
    read: async (source) => queueRead(source)(),
  };
}
