/** Counters of kernels whose blocks count themselves, or share out their work. */
import { nativeBlock } from "../../../ffi/bindings/native.ts";
import type { Gpu } from "./gpu.ts";
import type { GpuMemory } from "./memory.ts";

/** How many there are, u32 each. */
export const COUNTERS = 1024;
export const counterBytes = 4 * COUNTERS;

/** Their address on the device: all 0. Launches follow each other, and each leaves them 0. */
export function openCounters(gpu: Gpu, memory: GpuMemory): number {
  const { address } = memory.allocate(counterBytes, "counters of the kernels");
  const zeros = nativeBlock(counterBytes);
  try {
    gpu.call("cuMemcpyHtoDAsync_v2", address, zeros.address, counterBytes, gpu.stream);
    gpu.synchronize();
  } finally {
    zeros.free();
  }
  return address;
}
