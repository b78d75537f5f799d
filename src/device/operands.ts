/**
 * Operand helpers shared by the launchers of both devices, so that these agree: sizes and their checks, addresses
 * within fused rows, and the scalar arguments of kernels that take the same ones in ffi/cpu and ffi/cuda.
 */
import { bytesPerElement } from "../tensor/dtype.ts";
import { columns, reshape, type Tensor } from "../tensor/tensor.ts";
import type { AdamWSettings, AttentionShape, HeadTransform, LogitCap, SamplingSettings, Weight } from "./device.ts";

export function dim(t: Tensor | Weight, index: number): number {
  return t.shape[index] ?? 1;
}

/** @throws RangeError naming the op and the mismatch, which is always a bug in the caller, never in the input */
export function expectShape(condition: boolean, what: string): void {
  if (!condition) throw new RangeError(what);
}

type ProductSizes = readonly [M: number, N: number, K: number];

/** Sizes of y (M, N) = x (M, K) · wᵀ. */
export function forwardSizes(y: Tensor, x: Tensor, w: Weight): ProductSizes {
  const [M, N, K] = [dim(x, 0), dim(w, 0), dim(w, 1)];
  const fits = dim(x, 1) === K && dim(y, 0) === M && dim(y, 1) === N;
  expectShape(fits, `${w.name}: ${y.shape} = ${x.shape} · ${w.shape}ᵀ`);
  return [M, N, K];
}

/** Sizes of dx (M, K) = dy (M, N) · w. */
export function backwardInputSizes(dx: Tensor, dy: Tensor, w: Weight): ProductSizes {
  const [M, N, K] = [dim(dy, 0), dim(w, 0), dim(w, 1)];
  const fits = dim(dx, 0) === M && dim(dx, 1) === K && dim(dy, 1) === N;
  expectShape(fits, `${w.name}: ${dx.shape} = ${dy.shape} · ${w.shape}`);
  return [M, N, K];
}

/** Sizes of dw (N, K) += dy (M, N)ᵀ · x (M, K). */
export function backwardWeightSizes(dy: Tensor, x: Tensor, w: Weight): ProductSizes {
  const [M, N, K] = [dim(dy, 0), dim(w, 0), dim(w, 1)];
  const fits = dim(x, 0) === M && dim(x, 1) === K && dim(dy, 1) === N;
  expectShape(fits, `${w.name}: ${w.shape} += ${dy.shape}ᵀ · ${x.shape}`);
  return [M, N, K];
}

/** Sizes of a norm over the last `D` of x (T, heads · D). */
export function normSizes(y: Tensor, x: Tensor, weight: Weight, heads: number): readonly [T: number, D: number] {
  const [T, D] = [dim(x, 0), dim(weight, 0)];
  expectShape(dim(x, 1) === heads * D && dim(y, 0) === T, `${weight.name}: ${y.shape} from ${x.shape} by ${D}`);
  return [T, D];
}

/** Addresses of q, k and v in rows that begin at `address`, with heads `headBytes` apart. */
export function headAddresses(address: number, headBytes: number, { heads, kvHeads }: AttentionShape) {
  return [address, address + heads * headBytes, address + (heads + kvHeads) * headBytes] as const;
}

/** Addresses of q, k and v within fused rows. */
export function qkvAddresses(qkv: Tensor, shape: AttentionShape) {
  const { heads, kvHeads, headDim } = shape;
  expectShape(heads % kvHeads === 0, `attention: ${heads} query heads for ${kvHeads} key heads`);
  const width = (heads + 2 * kvHeads) * headDim;
  expectShape(dim(qkv, 1) === width, `${qkv.name}: ${qkv.shape} is not q, k and v side by side`);
  return headAddresses(qkv.address, headDim * bytesPerElement(qkv.dtype), shape);
}

/** The columns of q and k, which a layer without head norms rotates where its products left them. */
export function rotatedInPlace(qkv: Tensor, raw: Tensor, { heads, kvHeads, headDim }: AttentionShape): Tensor {
  expectShape(raw.address === qkv.address, `${qkv.name} is not ${raw.name}, which no norms are applied to`);
  return columns(qkv, 0, (heads + kvHeads) * headDim);
}

/** The arguments of a heads kernel that both devices share: buffers, sizes, row strides. */
export function headsArguments(
  qkv: Tensor,
  raw: Tensor,
  { norms, positions, cos, sin }: HeadTransform,
  shape: AttentionShape,
) {
  qkvAddresses(qkv, shape);
  qkvAddresses(raw, shape);
  const { heads, kvHeads, headDim } = shape;
  const T = dim(raw, 0);
  const fits = dim(qkv, 0) === T && dim(positions, 0) === T && headDim % 2 === 0;
  expectShape(fits, `${qkv.name}: ${qkv.shape} from ${raw.shape} at ${positions.shape} positions`);
  const sized = !norms || (dim(norms.q, 0) === headDim && dim(norms.k, 0) === headDim);
  expectShape(sized, `${norms?.q.name}: ${norms?.q.shape} for heads of ${headDim}`);
  const weights = [norms?.q.address ?? 0, norms?.k.address ?? 0];
  const buffers = [raw.address, ...weights, positions.address, cos.address, sin.address];
  return { buffers, sizes: [T, heads, kvHeads, headDim], strides: [qkv.rowStride, raw.rowStride] };
}

/**
 * The factor on logits, 1 for greedy. Training and sampling share this rounding, or they would differ in the last bits.
 */
export function inverseTemperature(temperature: number): number {
  return temperature > 0 ? Math.fround(1 / Math.fround(temperature)) : 1;
}

/** The gradient of a chunk of capped logits. */
export function cappedGradient({ dlogits }: LogitCap, logits: Tensor): Tensor {
  expectShape(dlogits !== null, `${logits.name}: no room for the gradient of capped logits`);
  return reshape(dlogits!, logits.shape);
}

/** Scalars of `sample`, in order: "seed stream greedy inverse_temperature top_k top_p min_p repetition_penalty". */
export function samplingScalars(settings: SamplingSettings): number[] {
  const { seed, stream, temperature, topK, topP, minP, repetitionPenalty } = settings;
  const scaling = [temperature > 0 ? 0 : 1, inverseTemperature(temperature)];
  return [seed >>> 0, stream >>> 0, ...scaling, topK, topP, minP, repetitionPenalty];
}

/** Address of the marks of seen tokens, for the repetition penalty; 0 without one. */
export function penalizedAddress(seen: Tensor | null, { repetitionPenalty }: SamplingSettings): number {
  return seen !== null && repetitionPenalty !== 1 ? seen.address : 0;
}

/** Scalars of `adamw`: "lr beta1 beta2 eps weight_decay correction1 correction2 grad_scale". */
export function adamwScalars(settings: AdamWSettings): number[] {
  // Compute the corrections from the kernel's float32 betas: 1 − 0.999 differs by a relative 1e-5 in float32.
  const [beta1, beta2] = [Math.fround(settings.beta1), Math.fround(settings.beta2)];
  const { learningRate, epsilon, weightDecay, step, gradientScale } = settings;
  return [learningRate, beta1, beta2, epsilon, weightDecay, 1 - beta1 ** step, 1 - beta2 ** step, gradientScale];
}

/** Scalars of stochastic rounding: "seed stream step parameter first_element". */
export function roundingScalars({ rounding, step }: AdamWSettings): number[] {
  const { seed, stream, parameter, first = 0 } = rounding ?? { seed: 0, stream: 0, parameter: 0 };
  return [seed >>> 0, stream >>> 0, step >>> 0, parameter >>> 0, first];
}
