/** A linear map with or without bias, forward and backward. */
import type { Pieces } from "../device/breathe.ts";
import type { Device, Weight } from "../device/device.ts";
import type { Linear } from "../families/layer.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { gradientOf, type ParameterGradients } from "./model.ts";

/** y = or += x · weightᵀ + bias */
export function forwardLinear(
  { ops }: Device,
  y: Tensor,
  x: Tensor,
  { weight, bias }: Linear<Weight>,
  accumulate = false,
): void {
  ops.matmulForward(y, x, weight, bias, accumulate);
}

/** dx = or += dy · weight; dweight and dbias += if they are trained. */
export function* backwardLinear(
  { ops }: Device,
  gradients: ParameterGradients,
  { weight, bias }: Linear<Weight>,
  dx: Tensor,
  dy: Tensor,
  x: Tensor,
  accumulate = false,
): Pieces {
  const dweight = gradientOf(gradients, weight);
  if (dweight) {
    ops.matmulBackwardWeight(dweight, dy, x, weight);
    yield;
  }
  const dbias = bias && gradientOf(gradients, bias);
  if (dbias) ops.biasBackward(dbias, dy);
  ops.matmulBackwardInput(dx, dy, weight, accumulate);
  yield;
}
