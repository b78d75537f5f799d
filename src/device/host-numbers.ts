/** Numbers in the host's memory: those that the program itself makes, as a parameter, and those of files. */
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { nativeBlock } from "../../ffi/bindings/native.ts";
import { breathe } from "./breathe.ts";
import type { Device, DeviceMemory, Weight } from "./device.ts";

/** A view of host memory, such as a mapped file. */
export function hostBytes(address: number, byteLength: number): ArrayBuffer {
  return bytesAt(address, byteLength);
}

/** Bytes that are cleared at once. */
const CLEARED_BYTES = 64 * 2 ** 20;

/** Makes host memory zero. */
export async function clearHost({ address, byteLength }: Pick<DeviceMemory, "address" | "byteLength">): Promise<void> {
  for (let at = 0; at < byteLength; at += CLEARED_BYTES) {
    new Uint8Array(bytesAt(address + at, Math.min(CLEARED_BYTES, byteLength - at))).fill(0);
    await breathe();
  }
}

/** Fills a parameter with row-major numbers. */
export function loadNumbers(device: Pick<Device, "loadParameter">, w: Weight, values: Float32Array): void {
  const block = nativeBlock(values.byteLength);
  try {
    new Float32Array(block.view.buffer).set(values);
    device.loadParameter(w, block.address, "float32", 0, w.shape[0] ?? 0);
  } finally {
    block.free();
  }
}
