/** What launchers ask of their operands: sizes, types as macros, and how many threads a row of them keeps busy. */
import { bytesPerElement, type DType } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Weight } from "../device.ts";

export function dim(t: Tensor | Weight, index: number): number {
  return t.shape[index] ?? 1;
}

/** @throws RangeError naming the op and what does not fit: always a bug of the caller, never of the input. */
export function require(condition: boolean, what: string): void {
  if (!condition) throw new RangeError(what);
}

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

/** What logits are multiplied by: one rounding for training and sampling, or the two would differ in their last bits. */
export function inverseTemperature(temperature: number): number {
  return temperature > 0 ? Math.fround(1 / Math.fround(temperature)) : 1;
}
