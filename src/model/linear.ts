/** A linear map with or without bias, or several of the same input, forward and backward. */
import type { Pieces } from "../device/breathe.ts";
import type { Device, Weight } from "../device/device.ts";
import type { Linear } from "../families/layer.ts";
import { columns, type Tensor } from "../tensor/tensor.ts";
import { gradientOf, type LinearGroup, type ParameterGradients } from "./model.ts";

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

/** dweight and dbias += if they are trained. */
function* parameterGradients(
  { ops }: Device,
  gradients: ParameterGradients,
  { weight, bias }: Linear<Weight>,
  dy: Tensor,
  x: Tensor,
): Pieces {
  const dweight = gradientOf(gradients, weight);
  if (dweight) {
    ops.matmulBackwardWeight(dweight, dy, x, weight);
    yield;
  }
  const dbias = bias && gradientOf(gradients, bias);
  if (dbias) ops.biasBackward(dbias, dy);
}

/** dx = or += dy · weight; dweight and dbias += if they are trained. */
export function* backwardLinear(
  device: Device,
  gradients: ParameterGradients,
  linear: Linear<Weight>,
  dx: Tensor,
  dy: Tensor,
  x: Tensor,
  accumulate = false,
): Pieces {
  yield* parameterGradients(device, gradients, linear, dy, x);
  device.ops.matmulBackwardInput(dx, dy, linear.weight, accumulate);
  yield;
}

/** Each part with its columns of y. */
function* columnsOf(parts: readonly Linear<Weight>[], y: Tensor) {
  let from = 0;
  for (const part of parts) {
    const [width = 0] = part.weight.shape;
    yield [part, columns(y, from, width)] as const;
    from += width;
  }
}

/** y = x · weightᵀ + bias of each map, side by side. */
export function* forwardGroup(device: Device, y: Tensor, x: Tensor, { parts, joined }: LinearGroup): Pieces {
  if (joined) {
    forwardLinear(device, y, x, joined);
    yield;
    return;
  }
  for (const [part, own] of columnsOf(parts, y)) {
    forwardLinear(device, own, x, part);
    yield;
  }
}

/** dx = or += Σ dy · weight; dweight and dbias += if they are trained. */
export function* backwardGroup(
  device: Device,
  gradients: ParameterGradients,
  { parts, joined }: LinearGroup,
  dx: Tensor,
  dy: Tensor,
  x: Tensor,
  accumulate = false,
): Pieces {
  if (!joined) {
    for (const [i, [part, own]] of [...columnsOf(parts, dy)].entries())
      yield* backwardLinear(device, gradients, part, dx, own, x, accumulate || i > 0);
    return;
  }
  // Parts that are not all trained have gradients of their own alone.
  const whole = [joined.weight, ...(joined.bias ? [joined.bias] : [])].every(({ name }) => gradients.has(name));
  if (whole) yield* parameterGradients(device, gradients, joined, dy, x);
  else for (const [part, own] of columnsOf(parts, dy)) yield* parameterGradients(device, gradients, part, own, x);
  device.ops.matmulBackwardInput(dx, dy, joined.weight, accumulate);
  yield;
}
