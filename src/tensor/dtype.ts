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

/** Numbers of a floating-point type of at most 32 bits as float32; `bytes` are taken over where they are float32 already. */
export function float32Numbers(bytes: ArrayBuffer, dtype: DType): Float32Array {
  if (dtype === "float32") return new Float32Array(bytes);
  if (dtype === "float16") return Float32Array.from(new Float16Array(bytes));
  if (dtype !== "bfloat16") throw new TypeError(`${dtype} is not read as float32`);
  const bits = new Uint16Array(bytes);
  const wide = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) wide[i] = bits[i]! << 16;
  return new Float32Array(wide.buffer);
}

/** The bit pattern of the nearest bfloat16, ties to even; NaN stays NaN. */
export function numberToBfloat16(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}
