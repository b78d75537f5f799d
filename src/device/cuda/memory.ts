/**
 * Memory of one GPU and pinned memory of the host: every byte counted, every piece given back at the end. Scratch is a
 * buffer a slot that grows when an op asks for more, and never while a sequence of launches is captured.
 */
import { CUDA_ERROR_OUT_OF_MEMORY } from "../../../ffi/bindings/cuda.ts";
import { RunError } from "../../errors.ts";
import type { DeviceMemory } from "../device.ts";
import type { Gpu } from "./gpu.ts";

const MiB = 2 ** 20;
/** What kernels may assume of scratch, and what it grows by. */
const ALIGNMENT = 256;

const SETTINGS =
  "lower micro_batch_tokens, max_concurrent_sequences or max_completion_length (grpo plan shows what each takes), or end what else holds the GPU's memory (nvidia-smi)";

export interface GpuMemory {
  /** @throws RunError that says how much was asked for, is free and is held */
  allocate(byteLength: number, what: string): DeviceMemory;
  /** Pinned: copies to and from it run beside the host. @throws RunError */
  allocateHost(byteLength: number, what: string): DeviceMemory;
  /** Whether all of it is pinned memory from here. */
  isPinned(address: number, byteLength: number): boolean;
  /** Address of at least `bytes`, 256-aligned, good until the slot is asked for more. */
  scratch(slot: number, bytes: number): number;
  /** Counts how often a slot of scratch has moved: launches recorded before have its old address. */
  moves(): number;
  /** Bytes of device memory held now. */
  heldBytes(): number;
  /** Gives everything back. */
  close(): void;
}

const aligned = (bytes: number) => Math.max(1, Math.ceil(bytes / ALIGNMENT)) * ALIGNMENT;
const mebibytes = (bytes: number) => (bytes / MiB).toFixed(bytes < 100 * MiB ? 1 : 0);

export function openMemory(gpu: Gpu): GpuMemory {
  const { calls, out } = gpu.driver;
  const device = new Map<number, number>();
  const host = new Map<number, number>();
  const slots = new Map<number, DeviceMemory>();
  let held = 0;
  let moves = 0;

  /** Copies and kernels that are queued may still use what is given back. */
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
          `${what}: the system refused ${mebibytes(byteLength)} MiB of pinned memory; end what else holds memory, or raise the limit of locked memory (ulimit -l)`,
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
