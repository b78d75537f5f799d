/** Causal grouped-query attention over packed segments in float64, all scores of a row at once, and its gradient. */
import type { AttentionShape } from "../../src/device/device.ts";

export interface Segment {
  readonly start: number;
  readonly length: number;
  readonly prefixStart: number;
  readonly prefixLength: number;
}

/** Rows of the packed tokens that token `index` of the segment sees, itself included. */
function visible(s: Segment, index: number): number[] {
  const range = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i);
  return [...range(s.prefixStart, s.prefixLength), ...range(s.start, index + 1)];
}

/** Where q, k and v of a token's head lie in qkv (T, (H + 2·Hkv)·Dh). */
function offsets({ heads, kvHeads, headDim }: AttentionShape) {
  const width = (heads + 2 * kvHeads) * headDim;
  const group = heads / kvHeads;
  return {
    q: (t: number, h: number) => t * width + h * headDim,
    k: (t: number, h: number) => t * width + (heads + Math.floor(h / group)) * headDim,
    v: (t: number, h: number) => t * width + (heads + kvHeads + Math.floor(h / group)) * headDim,
  };
}

function dotAt(a: Float64Array, ai: number, b: Float64Array, bi: number, count: number): number {
  let sum = 0;
  for (let d = 0; d < count; d++) sum += a[ai + d]! * b[bi + d]!;
  return sum;
}

function sizeAt(a: Float64Array, ai: number, b: Float64Array, bi: number, count: number): number {
  let sum = 0;
  for (let d = 0; d < count; d++) sum += Math.abs(a[ai + d]! * b[bi + d]!);
  return sum;
}

/** Calls `body` for every token and head with the rows it sees and its weights over them. */
function forRows(
  qkv: Float64Array,
  segments: readonly Segment[],
  shape: AttentionShape,
  body: (token: number, head: number, seen: number[], weights: Float64Array, lse: number) => void,
): void {
  const at = offsets(shape);
  for (const s of segments)
    for (let i = 0; i < s.length; i++) {
      const [t, seen] = [s.start + i, visible(s, i)];
      for (let h = 0; h < shape.heads; h++) {
        const scores = Float64Array.from(
          seen,
          (j) => shape.scale * dotAt(qkv, at.q(t, h), qkv, at.k(j, h), shape.headDim),
        );
        const top = scores.reduce((a, b) => Math.max(a, b));
        const lse = top + Math.log(scores.reduce((sum, x) => sum + Math.exp(x - top), 0));
        body(
          t,
          h,
          seen,
          scores.map((x) => Math.exp(x - lse)),
          lse,
        );
      }
    }
}

/** out (T, H·Dh), lse (T, H); `magnitude` is Σ p |v|, which a rounding of the weights p scales with. */
export function attention(qkv: Float64Array, segments: readonly Segment[], shape: AttentionShape, tokens: number) {
  const { heads, headDim } = shape;
  const at = offsets(shape);
  const [out, lse] = [new Float64Array(tokens * heads * headDim), new Float64Array(tokens * heads)];
  const magnitude = new Float64Array(out.length);
  forRows(qkv, segments, shape, (t, h, seen, weights, total) => {
    lse[t * heads + h] = total;
    for (const [i, j] of seen.entries())
      for (let d = 0; d < headDim; d++) {
        const [to, part] = [(t * heads + h) * headDim + d, weights[i]! * qkv[at.v(j, h) + d]!];
        out[to]! += part;
        magnitude[to]! += Math.abs(part);
      }
  });
  return { out, lse, magnitude };
}

/**
 * dqkv. `out` is what the forward pass stored: its rounding enters through dout · out. `magnitude` is what roundings of p,
 * dout and the scores' gradients scale with.
 */
export function attentionGradient(
  dout: Float64Array,
  qkv: Float64Array,
  out: Float64Array,
  segments: readonly Segment[],
  shape: AttentionShape,
): { dqkv: Float64Array; magnitude: Float64Array } {
  const { heads, headDim, scale } = shape;
  const at = offsets(shape);
  const [dqkv, magnitude] = [new Float64Array(qkv.length), new Float64Array(qkv.length)];
  forRows(qkv, segments, shape, (t, h, seen, weights) => {
    const o = (t * heads + h) * headDim;
    const mean = dotAt(dout, o, out, o, headDim);
    for (const [i, j] of seen.entries()) {
      const [q, k, v] = [at.q(t, h), at.k(j, h), at.v(j, h)];
      const dscore = weights[i]! * (dotAt(dout, o, qkv, v, headDim) - mean) * scale;
      const size = weights[i]! * (sizeAt(dout, o, qkv, v, headDim) + Math.abs(mean)) * scale;
      for (let d = 0; d < headDim; d++) {
        dqkv[q + d]! += dscore * qkv[k + d]!;
        dqkv[k + d]! += dscore * qkv[q + d]!;
        dqkv[v + d]! += weights[i]! * dout[o + d]!;
        magnitude[q + d]! += size * Math.abs(qkv[k + d]!);
        magnitude[k + d]! += size * Math.abs(qkv[q + d]!);
        magnitude[v + d]! += weights[i]! * Math.abs(dout[o + d]!);
      }
    }
  });
  return { dqkv, magnitude };
}
