/**
 * The transformer's layers, forward and backward, written once over the device's ops. What differs between training,
 * prefill and decode is how keys and values are attended, so that is passed in; everything else is the same code on
 * the same kernels, which is why a token's logprob has the same bits wherever it is computed (promise 2).
 *
 * Leaves out the heads (lm-head.ts, scalar-head.ts) and who calls what (trunk.ts, ../rollout).
 */

import type { Pieces } from "../device/breathe.ts";
import type { Device, Weight } from "../device/device.ts";
import type { ModelConfig } from "../families/config.ts";
import { columns, firstRows, rows, type Tensor } from "../tensor/tensor.ts";
import { attentionShape, type LayerBuffers, type LayerGradientBuffers } from "./activations.ts";
import type { LayerWeights, Linear } from "./weights.ts";

/** Rotary tables on the device, (positions, Dh/2) float32. */
export interface RopeTables {
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/** Gradients by parameter name, flat float32 in the parameter's layout. */
export type ParameterGradients = ReadonlyMap<string, Tensor>;

/** Attention of one layer: reads `qkv`, writes `attention` (and `lse` where it is wanted). */
export type Attend = (layer: number, buffers: LayerBuffers) => void;

/** The buffers' first `count` rows. */
export function layerRows(buffers: LayerBuffers, count: number): LayerBuffers {
  const cut = {} as { -readonly [K in keyof LayerBuffers]: Tensor };
  for (const key of Object.keys(buffers) as (keyof LayerBuffers)[]) {
    const t = buffers[key];
    cut[key] = (t.shape[0] ?? 0) >= count ? firstRows(t, count) : t;
  }
  return cut;
}

function forwardLinear(device: Device, y: Tensor, x: Tensor, linear: Linear, accumulate = false): void {
  device.ops.matmulForward(y, x, linear.weight, linear.bias, accumulate);
}

/** Where q, k, and q with k, lie in a fused row. */
function qkvColumns(qkv: Tensor, config: ModelConfig) {
  const q = config.numHeads * config.headDim;
  const k = config.numKvHeads * config.headDim;
  return { q: columns(qkv, 0, q), k: columns(qkv, q, k), v: columns(qkv, q + k, k), qk: columns(qkv, 0, q + k) };
}

/** residual → q, k, v, normalized and turned by their positions. */
function* forwardQkv(
  device: Device,
  config: ModelConfig,
  weights: LayerWeights,
  b: LayerBuffers,
  positions: Tensor,
  rope: RopeTables,
): Pieces {
  const { ops } = device;
  ops.rmsnormForward(b.normed, b.rstd, b.residual, weights.inputNorm, config.rmsNormEps);
  const raw = qkvColumns(b.qkvRaw, config);
  const out = qkvColumns(b.qkv, config);
  forwardLinear(device, raw.q, b.normed, weights.q);
  yield;
  forwardLinear(device, raw.k, b.normed, weights.k);
  forwardLinear(device, out.v, b.normed, weights.v);
  if (weights.qNorm && weights.kNorm) {
    ops.rmsnormForward(out.q, b.rstdQ, raw.q, weights.qNorm, config.rmsNormEps, config.numHeads);
    ops.rmsnormForward(out.k, b.rstdK, raw.k, weights.kNorm, config.rmsNormEps, config.numKvHeads);
  }
  ops.ropeForward(out.qk, positions, rope.cos, rope.sin, config.headDim);
  yield;
}

/** residual → gate and up → their product, before the down projection. */
function* forwardGlu(device: Device, config: ModelConfig, weights: LayerWeights, b: LayerBuffers): Pieces {
  const { ops } = device;
  const F = config.intermediateSize;
  ops.rmsnormForward(b.postNormed, b.postRstd, b.residual, weights.postNorm, config.rmsNormEps);
  forwardLinear(device, columns(b.gateUp, 0, F), b.postNormed, weights.gate);
  yield;
  forwardLinear(device, columns(b.gateUp, F, F), b.postNormed, weights.up);
  yield;
  ops.gluForward(b.glu, b.gateUp, config.activation === "gelu_tanh");
}

/** One layer on `b.residual`, in place. */
export function* forwardLayer(
  device: Device,
  config: ModelConfig,
  weights: LayerWeights,
  layer: number,
  b: LayerBuffers,
  positions: Tensor,
  rope: RopeTables,
  attend: Attend,
): Pieces {
  yield* forwardQkv(device, config, weights, b, positions, rope);
  attend(layer, b);
  yield;
  forwardLinear(device, b.residual, b.attention, weights.o, true);
  yield;
  yield* forwardGlu(device, config, weights, b);
  forwardLinear(device, b.residual, b.glu, weights.down, true);
  yield;
}

/** dw, dbias += for one linear map; dx = or += its share. */
function* backwardLinear(
  device: Device,
  gradients: ParameterGradients,
  linear: Linear,
  dx: Tensor,
  dy: Tensor,
  x: Tensor,
  accumulate = false,
): Pieces {
  const { ops } = device;
  ops.matmulBackwardWeight(gradientOf(gradients, linear.weight), dy, x, linear.weight);
  yield;
  if (linear.bias) ops.biasBackward(gradientOf(gradients, linear.bias), dy);
  ops.matmulBackwardInput(dx, dy, linear.weight, accumulate);
  yield;
}

export function gradientOf(gradients: ParameterGradients, weight: Weight): Tensor {
  const gradient = gradients.get(weight.name);
  if (!gradient) throw new Error(`no gradient buffer for ${weight.name}`);
  return gradient;
}

/**
 * One layer backward: recomputes its forward pass from its input, then turns g.dresidual from the gradient of its
 * output into that of its input; parameter gradients accumulate.
 */
export function* backwardLayer(
  device: Device,
  config: ModelConfig,
  weights: LayerWeights,
  layer: number,
  b: LayerBuffers,
  g: LayerGradientBuffers,
  gradients: ParameterGradients,
  positions: Tensor,
  segments: Tensor,
  rope: RopeTables,
): Pieces {
  const { ops } = device;
  const shape = attentionShape(config);
  const T = b.residual.shape[0] ?? 0;
  const input = layerInput(g, layer, T);
  const at = (t: Tensor) => firstRows(t, T);
  const [dresidual, dnormed, dglu, dgateUp] = [at(g.dresidual), at(g.dnormed), at(g.dglu), at(g.dgateUp)];
  const [dattention, dqkv] = [at(g.dattention), at(g.dqkv)];

  ops.cast(b.residual, input);
  yield* forwardQkv(device, config, weights, b, positions, rope);
  ops.attentionForward(b.attention, b.lse, b.qkv, segments, shape);
  yield;
  forwardLinear(device, b.residual, b.attention, weights.o, true);
  yield;
  yield* forwardGlu(device, config, weights, b);

  const F = config.intermediateSize;
  yield* backwardLinear(device, gradients, weights.down, dglu, dresidual, b.glu);
  ops.gluBackward(dgateUp, dglu, b.gateUp, config.activation === "gelu_tanh");
  yield* backwardLinear(device, gradients, weights.gate, dnormed, columns(dgateUp, 0, F), b.postNormed);
  yield* backwardLinear(device, gradients, weights.up, dnormed, columns(dgateUp, F, F), b.postNormed, true);
  const dpost = gradientOf(gradients, weights.postNorm);
  ops.rmsnormBackward(dresidual, dpost, dnormed, b.residual, weights.postNorm, b.postRstd, dresidual);

  yield* backwardLinear(device, gradients, weights.o, dattention, dresidual, b.attention);
  ops.attentionBackward(dqkv, dattention, b.qkv, b.attention, b.lse, segments, g.attentionScratch, shape);
  yield;
  const d = qkvColumns(dqkv, config);
  ops.ropeBackward(d.qk, positions, rope.cos, rope.sin, config.headDim);
  if (weights.qNorm && weights.kNorm) {
    const raw = qkvColumns(b.qkvRaw, config);
    const [dq, dk] = [gradientOf(gradients, weights.qNorm), gradientOf(gradients, weights.kNorm)];
    ops.rmsnormBackward(d.q, dq, d.q, raw.q, weights.qNorm, b.rstdQ, null, config.numHeads);
    ops.rmsnormBackward(d.k, dk, d.k, raw.k, weights.kNorm, b.rstdK, null, config.numKvHeads);
  }
  yield* backwardLinear(device, gradients, weights.q, dnormed, d.q, b.normed);
  yield* backwardLinear(device, gradients, weights.k, dnormed, d.k, b.normed, true);
  yield* backwardLinear(device, gradients, weights.v, dnormed, d.v, b.normed, true);
  const dinput = gradientOf(gradients, weights.inputNorm);
  ops.rmsnormBackward(dresidual, dinput, dnormed, input, weights.inputNorm, b.rstd, dresidual);
}

/** The kept input of a layer, (T, D). */
export function layerInput(g: LayerGradientBuffers, layer: number, T: number): Tensor {
  const one = rows(g.inputs, layer, 1);
  const [, all = 0, D = 0] = g.inputs.shape;
  return firstRows({ ...one, shape: [all, D], rowStride: D }, T);
}
