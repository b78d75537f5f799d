/**
 * Buffers in blocks: the parts of a block lie side by side without a gap, so that all of them are also one buffer. For
 * parameters, and what has their layout.
 */
import { bytesPerElement, type DType } from "./dtype.ts";
import type { PlanBuilder } from "./plan.ts";
import { type Tensor, tensor } from "./tensor.ts";

export interface Block {
  readonly name: string;
  readonly parts: readonly { readonly name: string; readonly elements: number }[];
}

/** Adds a block to the plan, as a buffer named `prefix/name`. */
export function planBlock(
  plan: PlanBuilder,
  [group, prefix, dtype]: readonly [group: string, prefix: string, dtype: DType],
  { name, parts }: Block,
  lifetime?: Parameters<PlanBuilder["add"]>[4],
): void {
  const elements = parts.reduce((sum, part) => sum + part.elements, 0);
  plan.add(group, `${prefix}/${name}`, dtype, [elements], lifetime);
}

/** A planned block and its parts after allocation, flat, by their own names; a block of one part is that part. */
export function bindBlock(
  tensors: ReadonlyMap<string, Tensor>,
  prefix: string,
  { name, parts }: Block,
): ReadonlyMap<string, Tensor> {
  const whole = tensors.get(`${prefix}/${name}`);
  if (!whole) throw new Error(`${prefix}/${name} is not in the memory plan`);
  const found = new Map([[name, whole]]);
  let from = 0;
  for (const part of parts) {
    const address = whole.address + from * bytesPerElement(whole.dtype);
    found.set(part.name, tensor(`${prefix}/${part.name}`, address, whole.dtype, [part.elements]));
    from += part.elements;
  }
  return found;
}
