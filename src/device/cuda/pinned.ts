/** A piece of pinned host memory for staging copies, with an event that marks their completion. */
import { bytesAt } from "../../../ffi/bindings/libc.ts";
import type { DeviceMemory } from "../device.ts";
import type { Gpu } from "./gpu.ts";
import type { GpuMemory } from "./memory.ts";

export interface PinnedPiece {
  readonly memory: DeviceMemory;
  readonly bytes: Uint8Array;
  readonly event: number;
}

export function pinnedPiece(gpu: Gpu, memory: GpuMemory, byteLength: number, what: string): PinnedPiece {
  const piece = memory.allocateHost(byteLength, what);
  return { memory: piece, bytes: new Uint8Array(bytesAt(piece.address, byteLength)), event: gpu.createEvent() };
}
