/**
 * A transformer layer, forward and backward, written once over the device's ops. Training, prefill and decode differ
 * only in how attention reads keys and values, so that is a parameter; everything else is the same code on the same
 * kernels, which is why a token's logprob has the same bits wherever it is computed (promise 2).
 *
 * The heads are in lm-head.ts and scalar-head.ts, the callers in trunk.ts and ../rollout.
 */

import type { Pieces } from "../device/breathe.ts";
import type { AttentionShape, Device, HeadTransform, Weight } from "../device/device.ts";
import { isExperts, type Layer, type Linear, type Mlp } from "../families/layer.ts";
import { columns, type Tensor } from "../tensor/tensor.ts";
import {
  addExperts,
  type BalanceBuffers,
  backwardExperts,
  forwardExperts,
  type LayerRoutes,
  recomputeExperts,
} from "./experts.ts";
import {
  type KeptActivations,
  keptActivations,
  type LayerBuffers,
  type LayerGradients,
  layerBuffers,
  layerGradientBuffers,
  layerInput,
} from "./layer-buffers.ts";
import { backwardGroup, backwardLinear, backwardLinearRestoring, forwardGroup, forwardLinear } from "./linear.ts";
import { gradientOf, type LinearGroup, type Model, type ParameterGradients } from "./model.ts";
import { layerRoutes, type Routing } from "./routes.ts";

/**
 * Attention of one layer: reads q, k and v as their products leave them (`qkvRaw`), transforms them into `qkv`, and writes
 * `attention` (and `lse` if needed).
 */
export type Attend = (layer: number, buffers: LayerBuffers, transform: HeadTransform, shape: AttentionShape) => void;

/** The columns of q, k, and q with k, in a fused row. */
function qkColumns(qkv: Tensor, { heads, kvHeads, headDim }: AttentionShape) {
  const [q, k] = [heads * headDim, kvHeads * headDim];
  return { q: columns(qkv, 0, q), k: columns(qkv, q, k), qk: columns(qkv, 0, q + k) };
}

/** y = x normalized; without a norm, x in y's type. */
function forwardNorm(
  { device: { ops }, config }: Model,
  y: Tensor,
  rstd: Tensor,
  x: Tensor,
  norm: Weight | null,
): void {
  if (norm) ops.rmsnormForward(y, rstd, x, norm, config.rmsNormEps);
  else ops.cast(y, x);
}

/**
 * residual → products of q, k and v, and their norms over all heads.
 *
 * @returns the buffers for attention
 */
function* forwardProducts(model: Model, layer: number, b: LayerBuffers): Generator<void, LayerBuffers> {
  const { device, config, weights } = model;
  const { inputNorm, attention } = weights.layers[layer]!;
  forwardNorm(model, b.normed, b.rstd, b.residual, inputNorm);
  yield* forwardGroup(model, b.qkvRaw, b.normed, weights.groups[layer]!.qkv);
  const { headNorms, shape } = attention;
  if (headNorms?.over !== "all heads") return b;
  device.ops.cast(b.qkv, b.qkvRaw);
  const [raw, own] = [qkColumns(b.qkvRaw, shape), qkColumns(b.qkv, shape)];
  device.ops.rmsnormForward(own.q, b.rstdQ, raw.q, headNorms.q, config.rmsNormEps);
  device.ops.rmsnormForward(own.k, b.rstdK, raw.k, headNorms.k, config.rmsNormEps);
  return { ...b, qkvRaw: b.qkv };
}

/** What q and k of the layer go through before attention. */
function headTransform({ config, weights, rope }: Model, layer: number, positions: Tensor): HeadTransform {
  const { headNorms } = weights.layers[layer]!.attention;
  const { cos, sin } = rope[layer]!;
  const norms = headNorms?.over === "each head" ? { ...headNorms, epsilon: config.rmsNormEps } : null;
  return { norms, positions, cos, sin };
}

/** q and k of all rows, normalized and rotated by their positions, beside v. */
export function forwardHeads({ ops }: Device, b: LayerBuffers, transform: HeadTransform, shape: AttentionShape): void {
  const { norms, positions, cos, sin } = transform;
  if (norms) ops.headsForward(b.qkv, b.rstdQ, b.rstdK, b.qkvRaw, norms, positions, cos, sin, shape);
  else ops.ropeForward(qkColumns(b.qkv, shape).qk, positions, cos, sin, shape.headDim);
}

/** residual → what the MLP adds to it, but for the last product or, of experts, the weighed sum; `glu`: not up to gate and up alone. */
function* forwardGlu(model: Model, layer: number, b: LayerBuffers, routes: LayerRoutes | null, glu = true): Pieces {
  const { device, weights } = model;
  const { postNorm, mlp } = weights.layers[layer]!;
  forwardNorm(model, b.postNormed, b.postRstd, b.residual, postNorm);
  if (isExperts(mlp)) {
    yield* forwardExperts(model, mlp, b, routes!);
    return;
  }
  yield* forwardGroup(model, b.gateUp, b.postNormed, weights.groups[layer]!.gateUp);
  if (glu) device.ops.gluForward(b.glu, b.gateUp, mlp.activation === "gelu_tanh");
}

/** The last product of attention or of the MLP, and its norm with what that reads. */
interface Output {
  readonly linear: Linear<Weight>;
  readonly norm: Weight | null;
  readonly out: Tensor; // (T, D)
  readonly rstd: Tensor; // (T)
}

function attentionOutput({ attention, attentionNorm }: Layer<Weight>, b: LayerBuffers): Output {
  return { linear: attention.o, norm: attentionNorm, out: b.attentionOut, rstd: b.attentionOutRstd };
}

/** null: of experts, which have no norm after them. */
function mlpOutput({ mlp, mlpNorm }: Layer<Weight>, b: LayerBuffers): Output | null {
  return isExperts(mlp) ? null : { linear: mlp.down, norm: mlpNorm, out: b.mlpOut, rstd: b.mlpOutRstd };
}

/** residual += norm(x · weightᵀ + bias) */
function forwardOutput(model: Model, output: Output, b: LayerBuffers, x: Tensor): void {
  const { device, config } = model;
  const { linear, norm, out, rstd } = output;
  if (!norm) {
    forwardLinear(model, b.residual, x, linear, true);
    return;
  }
  forwardLinear(model, out, x, linear);
  device.ops.rmsnormForward(b.added, rstd, out, norm, config.rmsNormEps);
  device.ops.add(b.residual, b.added);
}

/** The layer's part of a pass's routes; null if it has no experts. */
function routesOf(
  { weights: { layers } }: Model,
  layer: number,
  routing: Routing | null,
  T: number,
): LayerRoutes | null {
  if (!isExperts(layers[layer]!.mlp)) return null;
  if (!routing) throw new Error(`layer ${layer} has experts and no buffer for their routes`);
  return { experts: layerRoutes(routing, layers, layer, T), given: routing.given };
}

/**
 * One layer on the residual stream's rows, one per position, in place. `kept` takes what backward will need; `routing` is
 * used by layers with experts, and the probabilities of all experts are added to `balance`.
 */
export function* forwardLayer(
  model: Model,
  layer: number,
  buffers: LayerBuffers,
  positions: Tensor, // (T)
  attend: Attend,
  kept: KeptActivations | null = null,
  routing: Routing | null = null,
  balance: BalanceBuffers | null = null,
): Pieces {
  const { device } = model;
  const weights = model.weights.layers[layer]!;
  const T = positions.shape[0] ?? 0;
  const b = { ...layerBuffers(buffers, model.config, weights, T), ...kept };
  const routes = routesOf(model, layer, routing, T);
  const products = yield* forwardProducts(model, layer, b);
  attend(layer, products, headTransform(model, layer, positions), weights.attention.shape);
  yield;
  forwardOutput(model, attentionOutput(weights, b), b, b.attention);
  yield;
  if (kept) device.ops.cast(kept.afterAttention, b.residual);
  yield* forwardGlu(model, layer, b, routes);
  const output = mlpOutput(weights, b);
  if (output) forwardOutput(model, output, b, b.glu);
  else addExperts(model, b);
  if (routes && balance) device.ops.balanceForward(balance.load, b.routeProbabilities, balance.rowWeights);
  yield;
}

/**
 * Whether the gated unit's backward pass writes again what the unit gave, with what it reads anyway, for the gradient of
 * the down projection's weight. An adapter's gradients need that before, and so does a norm whose input is recomputed.
 */
function restoresGlu({ mlp, mlpNorm }: Layer<Weight>, kept: KeptActivations | null): boolean {
  return !isExperts(mlp) && mlp.down.adapter === undefined && (kept !== null || mlpNorm === null);
}

/** Recomputes a layer's forward pass from its input, up to what enters the last norm or, without one, the down projection. */
function* recompute(
  model: Model,
  layer: number,
  b: LayerBuffers,
  input: Tensor,
  positions: Tensor,
  segments: Tensor,
  routes: LayerRoutes | null,
  restores: boolean,
): Pieces {
  const { device, config } = model;
  const weights = model.weights.layers[layer]!;
  const { shape } = weights.attention;
  device.ops.cast(b.residual, input);
  const products = yield* forwardProducts(model, layer, b);
  forwardHeads(device, products, headTransform(model, layer, positions), shape);
  yield;
  device.ops.attentionForward(b.attention, b.lse, b.qkv, segments, shape);
  yield;
  forwardOutput(model, attentionOutput(weights, b), b, b.attention);
  yield;
  yield* forwardGlu(model, layer, b, routes, !restores);
  const output = mlpOutput(weights, b);
  if (!output?.norm) return;
  yield;
  forwardLinear(model, output.out, b.glu, output.linear);
  device.ops.rmsnormForward(b.added, output.rstd, output.out, output.norm, config.rmsNormEps);
}

/** Recomputes what `KeptActivations` leave out, by the same ops and so to the same bits. */
function* recomputeElementwise(
  model: Model,
  weights: Layer<Weight>,
  b: LayerBuffers,
  input: Tensor,
  restores: boolean,
): Pieces {
  const { inputNorm, postNorm, mlp } = weights;
  forwardNorm(model, b.normed, b.rstd, input, inputNorm);
  forwardNorm(model, b.postNormed, b.postRstd, b.residual, postNorm);
  if (isExperts(mlp)) recomputeExperts(model, mlp, b);
  else if (!restores) model.device.ops.gluForward(b.glu, b.gateUp, mlp.activation === "gelu_tanh");
  yield;
}

/** The gradients of the stream and of what is added to it or read from it. */
type StreamGradients = Pick<LayerGradients, "dresidual" | "dnormed">;

/**
 * dresidual in the type of gradients, converted once for the products that read it; in dnormed, which is free until it
 * is written by later ones.
 */
function outgoing({ ops }: Device, { dresidual, dnormed }: StreamGradients): Tensor {
  if (dnormed.dtype === dresidual.dtype) return dresidual;
  ops.cast(dnormed, dresidual);
  return dnormed;
}

/** The gradient of what an output's linear map gives, from dresidual. */
function outputGradient(model: Model, gradients: ParameterGradients, o: Output, g: StreamGradients): Tensor {
  const { device } = model;
  if (!o.norm) return outgoing(device, g);
  device.ops.rmsnormBackward(g.dnormed, gradientOf(gradients, o.norm), g.dresidual, o.out, o.norm, o.rstd, null);
  return g.dnormed;
}

/** dgateUp, given dresidual; it may take the place of gateUp, and dglu that of glu: each is read for the last time before. */
function* backwardGlu(
  model: Model,
  gradients: ParameterGradients,
  mlp: Mlp<Weight>,
  output: Output,
  b: LayerBuffers,
  g: StreamGradients & Pick<LayerGradients, "dglu" | "dgateUp">,
  restores: boolean,
): Pieces {
  const gelu = mlp.activation === "gelu_tanh";
  const dy = outputGradient(model, gradients, output, g);
  const gluBackward = (glu: Tensor | null) => model.device.ops.gluBackward(g.dgateUp, g.dglu, b.gateUp, gelu, glu);
  if (restores) {
    yield* backwardLinearRestoring(model, gradients, mlp.down, g.dglu, dy, () => {
      gluBackward(b.glu);
      return b.glu;
    });
    return;
  }
  yield* backwardLinear(model, gradients, mlp.down, g.dglu, dy, b.glu);
  gluBackward(null);
}

/** dresidual += the gradient of the stream in products that share their input, x normalized (rstd) or x itself. */
function* backwardInput(
  model: Model,
  gradients: ParameterGradients,
  group: LinearGroup,
  norm: Weight | null,
  g: StreamGradients,
  dy: Tensor,
  { normed, x, rstd }: { readonly normed: Tensor; readonly x: Tensor; readonly rstd: Tensor },
): Pieces {
  if (!norm) {
    yield* backwardGroup(model, gradients, group, g.dresidual, dy, normed, true);
    return;
  }
  yield* backwardGroup(model, gradients, group, g.dnormed, dy, normed);
  const { ops } = model.device;
  ops.rmsnormBackward(g.dresidual, gradientOf(gradients, norm), g.dnormed, x, norm, rstd, g.dresidual);
}

/**
 * One layer backward: recomputes what the forward pass did not keep, then turns dresidual from the gradient of the
 * layer's output into that of its input. Parameter gradients accumulate.
 */
export function* backwardLayer(
  model: Model,
  layer: number,
  activations: { readonly layer: LayerBuffers; readonly gradient: LayerGradients },
  gradients: ParameterGradients,
  positions: Tensor, // (T)
  segments: Tensor, // (S, 4)
  routing: Routing | null = null,
  balance: BalanceBuffers | null = null,
): Pieces {
  const { device } = model;
  const { ops } = device;
  const weights = model.weights.layers[layer]!;
  const { inputNorm, attention, postNorm, mlp } = weights;
  const { shape, headNorms } = attention;
  const T = positions.shape[0] ?? 0;
  const kept = keptActivations(activations.gradient, model.config, layer, weights, T);
  const shared = layerBuffers(activations.layer, model.config, weights, T);
  const b = kept ? { ...shared, ...kept, residual: kept.afterAttention } : shared;
  const g = layerGradientBuffers(activations.gradient, model, weights, b);
  const input = layerInput(activations.gradient, layer, T);

  // The forward pass has chosen the experts.
  const routes = routesOf(model, layer, routing && { ...routing, given: true }, T);

  const restores = restoresGlu(weights, kept);
  if (kept) yield* recomputeElementwise(model, weights, b, input, restores);
  else yield* recompute(model, layer, b, input, positions, segments, routes, restores);

  const groups = model.weights.groups[layer]!;
  if (isExperts(mlp)) {
    yield* backwardExperts(model, gradients, mlp, b, g, routes!.experts, balance);
    const dpost = gradientOf(gradients, postNorm!);
    ops.rmsnormBackward(g.dresidual, dpost, g.dnormed, b.residual, postNorm!, b.postRstd, g.dresidual);
  } else {
    yield* backwardGlu(model, gradients, mlp, mlpOutput(weights, b)!, b, g, restores);
    const between = { normed: b.postNormed, x: b.residual, rstd: b.postRstd };
    yield* backwardInput(model, gradients, groups.gateUp, postNorm, g, g.dgateUp, between);
  }

  const dout = outputGradient(model, gradients, attentionOutput(weights, b), g);
  yield* backwardLinear(model, gradients, attention.o, g.dattention, dout, b.attention);
  ops.attentionBackward(g.dqkv, g.dattention, b.qkv, b.attention, b.lse, segments, g.attentionScratch, shape);
  yield;
  const d = qkColumns(g.dqkv, shape);
  const { cos, sin } = model.rope[layer]!;
  ops.ropeBackward(d.qk, positions, cos, sin, shape.headDim);
  if (headNorms) {
    const raw = qkColumns(b.qkvRaw, shape);
    const [dq, dk] = [gradientOf(gradients, headNorms.q), gradientOf(gradients, headNorms.k)];
    const each = headNorms.over === "each head" ? shape : { heads: 1, kvHeads: 1 };
    ops.rmsnormBackward(d.q, dq, d.q, raw.q, headNorms.q, b.rstdQ, null, each.heads);
    ops.rmsnormBackward(d.k, dk, d.k, raw.k, headNorms.k, b.rstdK, null, each.kvHeads);
  }
  yield* backwardInput(model, gradients, groups.qkv, inputNorm, g, g.dqkv, {
    normed: b.normed,
    x: input,
    rstd: b.rstd,
  });
}
