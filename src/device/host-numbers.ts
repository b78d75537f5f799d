/** Numbers in the host's memory: those that the program itself makes, as a parameter, and those of files. */
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { nativeBlock } from "../../ffi/bindings/native.ts";
import type { Device, Weight } from "./device.ts";

/** A view of host memory, such as a mapped file. */
export function hostBytes(address: number, byteLength: number): ArrayBuffer {
  return bytesAt(address, byteLength);
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
