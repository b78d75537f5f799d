/** What an optimizer updates: parameters, with masters and moments of those of their elements that this process has. */
import type { QuantizedMoment, Weight } from "../device/device.ts";
import { bytesPerElement } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";

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

/** Some elements of a parameter, in its own layout: for what is elementwise. */
export function elementsOf(weight: Weight, from: number, count: number): Weight {
  const address = weight.address + from * bytesPerElement(weight.dtype);
  return { ...weight, address, elements: count };
}
