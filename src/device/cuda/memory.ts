/**
 * Memory of one GPU and pinned host memory; every byte is counted, and everything is freed at the end. Scratch is one
 * buffer per slot, which grows when an op asks for more, but never while a sequence of launches is captured.
 */

import { CUDA_ERROR_OUT_OF_MEMORY } from "../../../ffi/bindings/cuda.ts";
import { RunError } from "../../errors.ts";
import { mebibytes } from "../../tensor/mebibytes.ts";
import type { DeviceMemory } from "../device.ts";
import type { Gpu } from "./gpu.ts";

/** Alignment of scratch, which kernels may assume, and granularity of its size. */
const ALIGNMENT = 256;

const SETTINGS =
  "lower micro_batch_tokens, max_concurrent_sequences or max_completion_length (grpo plan shows what each takes), or end other programs that hold the GPU's memory (nvidia-smi)";

export interface GpuMemory {
  /** @throws RunError saying how much was requested, is free and is held */
  allocate(byteLength: number, what: string): DeviceMemory;
  /** Allocates pinned memory, whose copies run asynchronously to the host. @throws RunError */
  allocateHost(byteLength: number, what: string): DeviceMemory;
  /** Whether the whole range is in one block from `allocateHost`. */
  isPinned(address: number, byteLength: number): boolean;
  /** Address of at least `bytes`, 256-aligned, valid until more is requested of the slot. */
  scratch(slot: number, bytes: number): number;
  /** How often a slot of scratch has moved: launches recorded before use its old address. */
  moves(): number;
  /** Bytes of device memory currently held. */
  heldBytes(): number;
  /** Frees everything. */
  close(): void;
}

const aligned = (bytes: number) => Math.max(1, Math.ceil(bytes / ALIGNMENT)) * ALIGNMENT;

export function openMemory(gpu: Gpu): GpuMemory {
  const { calls, out } = gpu.driver;
  const device = new Map<number, number>();
  const host = new Map<number, number>();
  const slots = new Map<number, DeviceMemory>();
  let held = 0;
  let moves = 0;

  /** Queued copies and kernels may still use memory that is about to be freed. */
  const settle = () => {
    if (!gpu.lost) gpu.synchronize();
  };
  const freeDevice = (address: number) => {
    const bytes = device.get(address);
    if (bytes === undefined) return;
    device.delete(address);
    held -= bytes;
    gpu.release("cuMemFree_v2", address);
  };
  const freeHost = (address: number) => {
    if (host.delete(address)) gpu.release("cuMemFreeHost", address);
  };

  const refused = (what: string, bytes: number): RunError => {
    const [free, total] = [gpu.freeBytes(), gpu.totalBytes];
    return new RunError(
      `${what}: ${gpu.name} refused ${mebibytes(bytes)} MiB; ${mebibytes(free)} of its ${mebibytes(total)} MiB are free and this run holds ${mebibytes(held)}; ${SETTINGS}`,
    );
  };

  const memory: GpuMemory = {
    allocate(byteLength, what) {
      gpu.outsideCapture(`${what}: an allocation`);
      const bytes = aligned(byteLength);
      const status = calls.cuMemAlloc_v2(out.address, bytes);
      if (status === CUDA_ERROR_OUT_OF_MEMORY) throw refused(what, bytes);
      gpu.check("cuMemAlloc_v2", status, what);
      const address = out.u64();
      device.set(address, bytes);
      held += bytes;
      return {
        address,
        byteLength,
        free() {
          if (!device.has(address)) return;
          settle();
          freeDevice(address);
        },
      };
    },
    allocateHost(byteLength, what) {
      gpu.outsideCapture(`${what}: an allocation`);
      const status = calls.cuMemHostAlloc(out.address, Math.max(1, byteLength), 0);
      if (status === CUDA_ERROR_OUT_OF_MEMORY)
        throw new RunError(
          `${what}: the system refused ${mebibytes(byteLength)} MiB of pinned memory; end other programs that hold memory, or raise the limit on locked memory (ulimit -l)`,
        );
      gpu.check("cuMemHostAlloc", status, what);
      const address = out.u64();
      host.set(address, byteLength);
      return {
        address,
        byteLength,
        free() {
          if (!host.has(address)) return;
          settle();
          freeHost(address);
        },
      };
    },
    isPinned(address, byteLength) {
      for (const [start, bytes] of host) if (address >= start && address + byteLength <= start + bytes) return true;
      return false;
    },
    scratch(slot, bytes) {
      const buffer = slots.get(slot);
      if (buffer && buffer.byteLength >= bytes) return buffer.address;
      gpu.outsideCapture(`scratch ${slot} of ${bytes} bytes`);
      if (buffer) {
        buffer.free();
        moves++;
      }
      slots.delete(slot);
      const larger = memory.allocate(aligned(bytes), "scratch of the kernels");
      slots.set(slot, larger);
      return larger.address;
    },
    moves: () => moves,
    heldBytes: () => held,
    close() {
      settle();
      for (const address of [...device.keys()]) freeDevice(address);
      for (const address of [...host.keys()]) freeHost(address);
      slots.clear();
    },
  };
  return memory;
}
