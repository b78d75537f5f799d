/** Numbers that the program itself makes, as a parameter. */
import { nativeBlock } from "../../ffi/bindings/native.ts";
import type { Device, Weight } from "./device.ts";

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
