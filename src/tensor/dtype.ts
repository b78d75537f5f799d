/** Element types of device tensors, checkpoints and index buffers. */

/** The types of parameters and activations. */
export type ComputeDType = "float32" | "bfloat16";
export type DType = ComputeDType | "float16" | "float64" | "int32" | "uint32" | "uint16" | "uint8";

const sizes: Record<DType, number> = {
  float32: 4,
  bfloat16: 2,
  float16: 2,
  float64: 8,
  int32: 4,
  uint32: 4,
  uint16: 2,
  uint8: 1,
};

/** Bytes of one element. */
export function bytesPerElement(dtype: DType): number {
  return sizes[dtype];
}

const scratch = new DataView(new ArrayBuffer(4));

/** The float32 value of a bfloat16 bit pattern. */
export function bfloat16ToNumber(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

/** The bit pattern of the nearest bfloat16, ties to even; NaN stays NaN. */
export function numberToBfloat16(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}
