/**
 * A transformer layer, forward and backward, written once over the device's ops. Training, prefill and decode differ
 * only in how attention reads keys and values, so that is a parameter; everything else is the same code on the same
 * kernels, which is why a token's logprob has the same bits wherever it is computed (promise 2).
 *
 * The heads are in lm-head.ts and scalar-head.ts, the callers in trunk.ts and ../rollout.
 */

import type { Pieces } from "../device/breathe.ts";
import type { AttentionShape, Device, HeadTransform, Weight } from "../device/device.ts";
import type { Layer } from "../families/layer.ts";
import { columns, type Tensor } from "../tensor/tensor.ts";
import {
  type KeptActivations,
  keptActivations,
  type LayerBuffers,
  type LayerGradients,
  layerBuffers,
  layerGradientBuffers,
  layerInput,
} from "./layer-buffers.ts";
import { backwardGroup, backwardLinear, forwardGroup, forwardLinear } from "./linear.ts";
import { gradientOf, type Model, type ParameterGradients } from "./model.ts";

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

/** residual → products of q, k and v. */
function* forwardProducts({ device, config, weights }: Model, layer: number, b: LayerBuffers): Pieces {
  device.ops.rmsnormForward(b.normed, b.rstd, b.residual, weights.layers[layer]!.inputNorm, config.rmsNormEps);
  yield* forwardGroup(device, b.qkvRaw, b.normed, weights.groups[layer]!.qkv);
}

/** What q and k of the layer go through before attention. */
function headTransform({ config, weights, rope }: Model, layer: number, positions: Tensor): HeadTransform {
  const { headNorms } = weights.layers[layer]!.attention;
  const { cos, sin } = rope[layer]!;
  return { norms: headNorms && { ...headNorms, epsilon: config.rmsNormEps }, positions, cos, sin };
}

/** q and k of all rows, normalized and rotated by their positions, beside v. */
export function forwardHeads({ ops }: Device, b: LayerBuffers, transform: HeadTransform, shape: AttentionShape): void {
  const { norms, positions, cos, sin } = transform;
  if (norms) ops.headsForward(b.qkv, b.rstdQ, b.rstdK, b.qkvRaw, norms, positions, cos, sin, shape);
  else ops.ropeForward(qkColumns(b.qkv, shape).qk, positions, cos, sin, shape.headDim);
}

/** residual → gate and up → their product, before the down projection. */
function* forwardGlu({ device, config, weights }: Model, layer: number, b: LayerBuffers): Pieces {
  const { ops } = device;
  const { postNorm, mlp } = weights.layers[layer]!;
  ops.rmsnormForward(b.postNormed, b.postRstd, b.residual, postNorm, config.rmsNormEps);
  yield* forwardGroup(device, b.gateUp, b.postNormed, weights.groups[layer]!.gateUp);
  ops.gluForward(b.glu, b.gateUp, mlp.activation === "gelu_tanh");
}

/** One layer on the residual stream's rows, one per position, in place. `kept` takes what backward will need. */
export function* forwardLayer(
  model: Model,
  layer: number,
  buffers: LayerBuffers,
  positions: Tensor, // (T)
  attend: Attend,
  kept: KeptActivations | null = null,
): Pieces {
  const { device } = model;
  const weights = model.weights.layers[layer]!;
  const b = { ...layerBuffers(buffers, model.config, weights, positions.shape[0] ?? 0), ...kept };
  yield* forwardProducts(model, layer, b);
  attend(layer, b, headTransform(model, layer, positions), weights.attention.shape);
  yield;
  forwardLinear(device, b.residual, b.attention, weights.attention.o, true);
  yield;
  if (kept) device.ops.cast(kept.afterAttention, b.residual);
  yield* forwardGlu(model, layer, b);
  forwardLinear(device, b.residual, b.glu, weights.mlp.down, true);
  yield;
}

/** Recomputes a layer's forward pass, up to what enters the down projection, from its input. */
function* recompute(
  model: Model,
  layer: number,
  b: LayerBuffers,
  input: Tensor,
  positions: Tensor,
  segments: Tensor,
): Pieces {
  const { device } = model;
  const { shape, o } = model.weights.layers[layer]!.attention;
  device.ops.cast(b.residual, input);
  yield* forwardProducts(model, layer, b);
  forwardHeads(device, b, headTransform(model, layer, positions), shape);
  yield;
  device.ops.attentionForward(b.attention, b.lse, b.qkv, segments, shape);
  yield;
  forwardLinear(device, b.residual, b.attention, o, true);
  yield;
  yield* forwardGlu(model, layer, b);
}

/** Recomputes what `KeptActivations` leave out, by the same ops and so to the same bits. */
function* recomputeElementwise(
  { device, config }: Model,
  weights: Layer<Weight>,
  b: LayerBuffers,
  input: Tensor,
): Pieces {
  const { ops } = device;
  const { inputNorm, postNorm, mlp } = weights;
  ops.rmsnormForward(b.normed, b.rstd, input, inputNorm, config.rmsNormEps);
  ops.rmsnormForward(b.postNormed, b.postRstd, b.residual, postNorm, config.rmsNormEps);
  ops.gluForward(b.glu, b.gateUp, mlp.activation === "gelu_tanh");
  yield;
}

/**
 * dresidual in the type of gradients, converted once for the products that read it; in dnormed, which is free until it
 * is written by later ones.
 */
function outgoing({ ops }: Device, { dresidual, dnormed }: Pick<LayerGradients, "dresidual" | "dnormed">): Tensor {
  if (dnormed.dtype === dresidual.dtype) return dresidual;
  ops.cast(dnormed, dresidual);
  return dnormed;
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

  if (kept) yield* recomputeElementwise(model, weights, b, input);
  else yield* recompute(model, layer, b, input, positions, segments);

  const groups = model.weights.groups[layer]!;
  // dglu may take the place of glu, and dgateUp that of gateUp: each is read for the last time before.
  yield* backwardLinear(device, gradients, mlp.down, g.dglu, outgoing(device, g), b.glu);
  ops.gluBackward(g.dgateUp, g.dglu, b.gateUp, mlp.activation === "gelu_tanh");
  yield* backwardGroup(device, gradients, groups.gateUp, g.dnormed, g.dgateUp, b.postNormed);
  const dpost = gradientOf(gradients, postNorm);
  ops.rmsnormBackward(g.dresidual, dpost, g.dnormed, b.residual, postNorm, b.postRstd, g.dresidual);

  yield* backwardLinear(device, gradients, attention.o, g.dattention, outgoing(device, g), b.attention);
  ops.attentionBackward(g.dqkv, g.dattention, b.qkv, b.attention, b.lse, segments, g.attentionScratch, shape);
  yield;
  const d = qkColumns(g.dqkv, shape);
  const { cos, sin } = model.rope[layer]!;
  ops.ropeBackward(d.qk, positions, cos, sin, shape.headDim);
  if (headNorms) {
    const raw = qkColumns(b.qkvRaw, shape);
    const [dq, dk] = [gradientOf(gradients, headNorms.q), gradientOf(gradients, headNorms.k)];
    ops.rmsnormBackward(d.q, dq, d.q, raw.q, headNorms.q, b.rstdQ, null, shape.heads);
    ops.rmsnormBackward(d.k, dk, d.k, raw.k, headNorms.k, b.rstdK, null, shape.kvHeads);
  }
  yield* backwardGroup(device, gradients, groups.qkv, g.dnormed, g.dqkv, b.normed);
  const dinput = gradientOf(gradients, inputNorm);
  ops.rmsnormBackward(g.dresidual, dinput, g.dnormed, input, inputNorm, b.rstd, g.dresidual);
}
