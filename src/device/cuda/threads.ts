/** Helpers for dividing work over threads. */
import { bytesPerElement, type DType } from "../../tensor/dtype.ts";

/** Elements that a thread moves at once: 16 bytes of the widest type, like unit_elements in primitives.cuh. */
export function unitElements(...operands: readonly { readonly dtype: DType }[]): number {
  return 16 / Math.max(2, ...operands.map(({ dtype }) => bytesPerElement(dtype)));
}

export function ceilDiv(a: number, b: number): number {
  return Math.ceil(a / b);
}

/** The smallest power of two that is at least `count`, clamped to the powers of two `least` and `most`. */
export function powerOfTwo(count: number, least: number, most: number): number {
  let power = least;
  while (power < count && power < most) power *= 2;
  return power;
}
