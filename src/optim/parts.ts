/** What an optimizer updates: parameters, with masters and moments of those of their elements that this process has. */
import type { QuantizedMoment, Weight } from "../device/device.ts";
import { bytesPerElement } from "../tensor/dtype.ts";
import { rows, type Tensor } from "../tensor/tensor.ts";
import { MOMENT_BLOCK } from "./form.ts";

export interface OptimizedParameter {
  readonly weight: Weight;
  readonly decays: boolean;
  readonly gradient: Tensor;
}

/** Elements of a parameter that this process updates: all of them, or with several ranks some. */
export interface OptimizedPart extends OptimizedParameter {
  /** The parameter's name and its number among those trained, and its first element of these. */
  readonly name: string;
  readonly number: number;
  readonly from: number;
  /** For a float32 model, the parameter itself; else float32 or its lower half (Device.masterDType); null: there is none. */
  readonly master: Tensor | null;
  readonly moments: Moments;
}

export type Moments =
  | { readonly bits: 32; readonly m: Tensor; readonly v: Tensor }
  | { readonly bits: 8; readonly m: QuantizedMoment; readonly v: QuantizedMoment };

/**
 * Moments with each of their buffers replaced, in order.
 *
 * @param replace `per`: elements of the parameter to a number of the buffer
 */
export function mapMoments(moments: Moments, replace: (buffer: Tensor, per: number) => Tensor): Moments {
  if (moments.bits === 32) return { bits: 32, m: replace(moments.m, 1), v: replace(moments.v, 1) };
  const coded = ({ codes, absmax }: QuantizedMoment): QuantizedMoment => ({
    codes: replace(codes, 1),
    absmax: replace(absmax, MOMENT_BLOCK),
  });
  return { bits: 8, m: coded(moments.m), v: coded(moments.v) };
}

/** What a buffer has of elements [from, from + count) of a parameter; `from` is a multiple of `per`, the elements to a number. */
export function rangeOf(buffer: Tensor, per: number, from: number, count: number): Tensor {
  return rows(buffer, from / per, Math.ceil(count / per));
}

/** Some elements of a parameter, in its own layout: for what is elementwise. */
export function elementsOf(weight: Weight, from: number, count: number): Weight {
  const address = weight.address + from * bytesPerElement(weight.dtype);
  return { ...weight, address, elements: count };
}
