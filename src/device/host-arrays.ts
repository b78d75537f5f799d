/** Typed arrays that both devices copy to tensors, and return for tensors that are read. */
import { byteLength, rowElements, type Tensor } from "../tensor/tensor.ts";
import type { NumberArray } from "./device.ts";

/** The array's bytes, to copy to `target`. @throws RangeError if they do not fit */
export function bytesFor(target: Tensor, data: NumberArray): Uint8Array {
  const bytes = byteLength(target);
  if (data.byteLength > bytes) throw new RangeError(`${target.name}: ${data.byteLength} bytes into ${bytes}`);
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** @throws RangeError for a view with gaps */
export function expectPacked(source: Tensor): void {
  if (source.rowStride !== rowElements(source)) throw new RangeError(`${source.name}: only packed tensors are read`);
}

/** The bytes as an array of the tensor's type, bfloat16 as Uint16Array. */
export function arrayOf(source: Tensor, bytes: ArrayBuffer): NumberArray {
  switch (source.dtype) {
    case "float32":
      return new Float32Array(bytes);
    case "float64":
      return new Float64Array(bytes);
    case "int32":
      return new Int32Array(bytes);
    case "uint32":
      return new Uint32Array(bytes);
    case "uint8":
      return new Uint8Array(bytes);
    default:
      return new Uint16Array(bytes);
  }
}
