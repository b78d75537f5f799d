/** How launchers divide work over threads: units of elements, and how many threads a row of them keeps busy. */
import { bytesPerElement, type DType } from "../../tensor/dtype.ts";

/** Elements that a thread moves at once: 16 bytes of the widest type, as unit_elements of primitives.cuh has it. */
export function unitElements(...operands: readonly { readonly dtype: DType }[]): number {
  return 16 / Math.max(2, ...operands.map(({ dtype }) => bytesPerElement(dtype)));
}

export function ceilDiv(a: number, b: number): number {
  return Math.ceil(a / b);
}

/** The smallest power of two that is at least `count`, between two others. */
export function powerOfTwo(count: number, least: number, most: number): number {
  let power = least;
  while (power < count && power < most) power *= 2;
  return power;
}
