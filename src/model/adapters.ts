/**
 * The products of low-rank adapters (LoRA), beside those of the weights in linear.ts. They are never merged into the
 * weights, so that sampling and training compute the same bits, and the model without them is its own reference.
 */
import type { Pieces } from "../device/breathe.ts";
import type { AdapterTerm, Weight } from "../device/device.ts";
import { adapterColumns } from "../families/adapters.ts";
import type { Adapter, Linear } from "../families/layer.ts";
import { columns, firstRows, type Tensor } from "../tensor/tensor.ts";
import { gradientOf, type Model, type ParameterGradients } from "./model.ts";

/** An adapter of one of several maps of the same input, with its columns of their output and of the products. */
interface Part {
  readonly adapter: Adapter<Weight>;
  readonly output: readonly [from: number, width: number];
  readonly down: readonly [from: number, width: number];
}

function partsOf(linears: readonly Linear<Weight>[], isJoined: boolean): Part[] {
  const adapted = linears.filter(({ adapter }) => adapter !== undefined);
  const ranks = adapted.map(({ adapter }) => adapter!.a.shape[0]!);
  const { starts } = adapterColumns(ranks);
  let output = 0;
  let beside = 0;
  const parts: Part[] = [];
  for (const { weight, adapter } of linears) {
    const [width = 0] = weight.shape;
    if (adapter) {
      const rank = ranks[parts.length]!;
      const from = isJoined ? beside : starts[parts.length]!;
      parts.push({ adapter, output: [output, width], down: [from, rank] });
      beside += rank;
    }
    output += width;
  }
  return parts;
}

const columnsOf = (t: Tensor, [from, width]: Part["down"]): Tensor => columns(t, from, width);

/** The rows of a pass in a buffer of `adapterProducts`. */
function productsFor(model: Model, name: "down" | "ddown", x: Tensor): Tensor {
  const buffer = model.adapterProducts?.[name];
  if (!buffer) throw new Error(`no buffer for the ${name} products of adapters`);
  return firstRows(buffer, x.shape[0] ?? 0);
}

/** down = scale · x · aᵀ of each part; all of them have the same scale. */
function forwardDown({ device }: Model, down: Tensor, x: Tensor, parts: readonly Part[], joined: Weight | null): void {
  const [first] = parts;
  const scale = first!.adapter.scale;
  if (joined) device.ops.matmulForward(columns(down, 0, joined.shape[0]!), x, joined, null, false, scale);
  else
    for (const { adapter, down: own } of parts)
      device.ops.matmulForward(columnsOf(down, own), x, adapter.a, null, false, adapter.scale);
}

/** scale · x · aᵀ of the maps that have adapters, to be multiplied by bᵀ; columns are those of all outputs side by side. */
export function adapterTerms(
  model: Model,
  x: Tensor,
  linears: readonly Linear<Weight>[],
  joined: Weight | null = null,
): AdapterTerm[] {
  const parts = partsOf(linears, joined !== null);
  if (parts.length === 0) return [];
  const down = productsFor(model, "down", x);
  forwardDown(model, down, x, parts, joined);
  return parts.map(({ adapter, output: [from], down: own }) => ({ down: columnsOf(down, own), b: adapter.b, from }));
}

/** da and db += of the maps that have adapters. Leaves what `addAdapterInputs` reads, which must follow. */
export function* adapterGradients(
  model: Model,
  gradients: ParameterGradients,
  linears: readonly Linear<Weight>[],
  joined: Weight | null,
  dy: Tensor,
  x: Tensor,
): Pieces {
  const parts = partsOf(linears, joined !== null);
  if (parts.length === 0) return;
  const { ops } = model.device;
  const [down, ddown] = [productsFor(model, "down", x), productsFor(model, "ddown", x)];
  forwardDown(model, down, x, parts, joined);
  for (const { adapter, output, down: own } of parts) {
    const { b, scale } = adapter;
    const dout = columnsOf(dy, output);
    const db = gradientOf(gradients, b);
    if (db) ops.matmulBackwardWeight(db, dout, columnsOf(down, own), b);
    ops.matmulBackwardInput(columnsOf(ddown, own), dout, b, false, scale);
  }
  yield;
  for (const { a, own } of inputsOf(parts, joined)) {
    const da = gradientOf(gradients, a);
    if (da) ops.matmulBackwardWeight(da, columnsOf(ddown, own), x, a);
  }
  yield;
}

/** The matrices that read the input, with their columns of the products. */
function inputsOf(parts: readonly Part[], joined: Weight | null): { readonly a: Weight; readonly own: Part["down"] }[] {
  if (joined) return [{ a: joined, own: [0, joined.shape[0]!] }];
  return parts.map(({ adapter, down: own }) => ({ a: adapter.a, own }));
}

/** dx += of the maps that have adapters, whose input may have been where dx is. */
export function* addAdapterInputs(
  model: Model,
  linears: readonly Linear<Weight>[],
  joined: Weight | null,
  dx: Tensor,
): Pieces {
  const parts = partsOf(linears, joined !== null);
  if (parts.length === 0) return;
  const ddown = productsFor(model, "ddown", dx);
  for (const { a, own } of inputsOf(parts, joined))
    model.device.ops.matmulBackwardInput(dx, columnsOf(ddown, own), a, true);
  yield;
}
