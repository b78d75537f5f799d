/** A linear map with or without bias and adapter, or several of the same input, forward and backward. */
import type { Pieces } from "../device/breathe.ts";
import type { AdapterTerm, Weight } from "../device/device.ts";
import type { Linear } from "../families/layer.ts";
import { columns, type Tensor } from "../tensor/tensor.ts";
import { adapterGradients, adapterTerms, addAdapterInputs } from "./adapters.ts";
import { gradientOf, type LinearGroup, type Model, type ParameterGradients } from "./model.ts";

/** y = or += x · weightᵀ + bias, + the terms of adapters */
function product(
  { device: { ops } }: Model,
  y: Tensor,
  x: Tensor,
  { weight, bias }: Linear<Weight>,
  terms: readonly AdapterTerm[],
  accumulate = false,
): void {
  if (terms.length > 0) ops.adaptedForward(y, x, weight, bias, terms, accumulate);
  else ops.matmulForward(y, x, weight, bias, accumulate);
}

/** y = or += x · weightᵀ + bias, + the adapter's */
export function forwardLinear(model: Model, y: Tensor, x: Tensor, linear: Linear<Weight>, accumulate = false): void {
  product(model, y, x, linear, adapterTerms(model, x, [linear]), accumulate);
}

/** dweight and dbias += if they are trained. */
function* parameterGradients(
  { device: { ops } }: Model,
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

/** dx = or += dy · weight, + the adapter's; gradients of what is trained +=. x is not read once dx is written. */
export function* backwardLinear(
  model: Model,
  gradients: ParameterGradients,
  linear: Linear<Weight>,
  dx: Tensor,
  dy: Tensor,
  x: Tensor,
  accumulate = false,
): Pieces {
  yield* parameterGradients(model, gradients, linear, dy, x);
  yield* adapterGradients(model, gradients, [linear], null, dy, x);
  model.device.ops.matmulBackwardInput(dx, dy, linear.weight, accumulate);
  yield;
  yield* addAdapterInputs(model, [linear], null, dx);
}

/**
 * The same of a map without adapter, whose x is not there before dx is: `restore` then writes it, perhaps where dx was.
 */
export function* backwardLinearRestoring(
  model: Model,
  gradients: ParameterGradients,
  linear: Linear<Weight>,
  dx: Tensor,
  dy: Tensor,
  restore: () => Tensor,
): Pieces {
  model.device.ops.matmulBackwardInput(dx, dy, linear.weight, false);
  yield;
  yield* parameterGradients(model, gradients, linear, dy, restore());
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

/** y = x · weightᵀ + bias of each map, + the adapters', side by side. */
export function* forwardGroup(model: Model, y: Tensor, x: Tensor, { parts, joined, joinedDown }: LinearGroup): Pieces {
  const terms = adapterTerms(model, x, parts, joinedDown);
  if (joined) {
    product(model, y, x, joined, terms);
    yield;
    return;
  }
  let from = 0;
  for (const part of parts) {
    const [width = 0] = part.weight.shape;
    const own = terms.filter((term) => term.from === from).map((term) => ({ ...term, from: 0 }));
    product(model, columns(y, from, width), x, part, own);
    from += width;
    yield;
  }
}

/** dx = or += Σ dy · weight, + the adapters'; gradients of what is trained += */
export function* backwardGroup(
  model: Model,
  gradients: ParameterGradients,
  { parts, joined, joinedDown }: LinearGroup,
  dx: Tensor,
  dy: Tensor,
  x: Tensor,
  accumulate = false,
): Pieces {
  const whole =
    joined && [joined.weight, ...(joined.bias ? [joined.bias] : [])].every(({ name }) => gradients.has(name));
  // Parts that are not all trained have gradients of their own alone.
  if (whole) yield* parameterGradients(model, gradients, joined, dy, x);
  else for (const [part, own] of columnsOf(parts, dy)) yield* parameterGradients(model, gradients, part, own, x);
  yield* adapterGradients(model, gradients, parts, joinedDown, dy, x);
  if (joined) {
    model.device.ops.matmulBackwardInput(dx, dy, joined.weight, accumulate);
    yield;
  } else
    for (const [i, [part, own]] of [...columnsOf(parts, dy)].entries()) {
      model.device.ops.matmulBackwardInput(dx, own, part.weight, accumulate || i > 0);
      yield;
    }
  yield* addAdapterInputs(model, parts, joinedDown, dx);
}
