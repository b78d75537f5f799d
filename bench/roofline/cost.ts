/**
 * What each op must move and compute at least, by the shapes it is called with: every operand once from memory, every
 * result once to it, the floating-point operations of the formula. Kernels may do more; the table says how much.
 */
import type { AttentionShape, KeyValuePages, Ops, Weight } from "../../src/device/device.ts";
import { bytesPerElement } from "../../src/tensor/dtype.ts";
import { elementCount, type Tensor } from "../../src/tensor/tensor.ts";

export interface Cost {
  readonly bytes: number;
  readonly flops: number;
  /** On tensor cores: cuBLAS's products, or our own `mma.sync`. */
  readonly unit: "cublas" | "mma" | "float32";
  /** Bytes that kernels of our own move, where a product moves the rest. */
  readonly own?: number;
}

/** What the costs of attention need beside shapes: how long the sequences are. */
export interface Lengths {
  /** (start, length, prefix start, prefix length) of the packed batch whose segment table this is. */
  segments(table: Tensor): Int32Array;
  /** Tokens in the cache of each sequence decoded, and tokens of prompts counted once a group. */
  cache(lengths: Tensor): { readonly tokens: number; readonly distinct: number };
}

const bytesOf = (t: Tensor): number => elementCount(t.shape) * bytesPerElement(t.dtype);
const weightBytes = (w: Weight): number => w.elements * bytesPerElement(w.dtype);
const optional = (t: Tensor | null): number => (t ? bytesOf(t) : 0);
const rowsOf = (t: Tensor): number => t.shape[0] ?? 1;

function product(m: number, w: Weight, bytes: number): Cost {
  const [n = 1, k = 1] = w.shape;
  return { bytes, flops: 2 * m * n * k, unit: w.dtype === "bfloat16" ? "cublas" : "float32" };
}

const memory = (bytes: number, flops = 0): Cost => ({ bytes, flops, unit: "float32" });

/** Pairs of a query and a key it sees. */
function visiblePairs(segments: Int32Array): number {
  let pairs = 0;
  for (let s = 0; s < segments.length; s += 4) {
    const [length, prefix] = [segments[s + 1]!, segments[s + 3]!];
    pairs += length * prefix + (length * (length + 1)) / 2;
  }
  return pairs;
}

function attention(products: number, pairs: number, shape: AttentionShape, dtype: string, bytes: number): Cost {
  const flops = 2 * products * shape.headDim * shape.heads * pairs;
  return { bytes, flops, unit: dtype === "bfloat16" ? "mma" : "float32" };
}

function cacheBytes(tokens: number, { keys }: KeyValuePages, { kvHeads, headDim }: AttentionShape): number {
  return 2 * tokens * kvHeads * headDim * bytesPerElement(keys.dtype);
}

type Costs = { readonly [K in keyof Ops]: (lengths: Lengths, ...args: Parameters<Ops[K]>) => Cost };

export const costs: Costs = {
  matmulForward: (_, y, x, w, bias, accumulate) =>
    product(
      rowsOf(x),
      w,
      bytesOf(x) + weightBytes(w) + bytesOf(y) * (accumulate ? 2 : 1) + (bias ? weightBytes(bias) : 0),
    ),
  matmulBackwardInput: (_, dx, dy, w, accumulate) =>
    product(rowsOf(dy), w, bytesOf(dy) + weightBytes(w) + bytesOf(dx) * (accumulate ? 2 : 1)),
  matmulBackwardWeight: (_, dw, dy, x, w) => product(rowsOf(dy), w, bytesOf(dy) + bytesOf(x) + 2 * bytesOf(dw)),
  biasBackward: (_, dbias, dy) => memory(bytesOf(dy) + 2 * bytesOf(dbias), elementCount(dy.shape)),
  embeddingForward: (_, x, ids, w) =>
    memory(bytesOf(x) + bytesOf(ids) + rowsOf(x) * (weightBytes(w) / (w.shape[0] ?? 1))),
  embeddingBackward: (_, _dw, dx, ids) => memory(3 * bytesOf(dx) + bytesOf(ids), elementCount(dx.shape)),
  rmsnormForward: (_, y, rstd, x, weight) =>
    memory(bytesOf(y) + bytesOf(x) + optional(rstd) + weightBytes(weight), 4 * elementCount(x.shape)),
  rmsnormBackward: (_, dx, _dweight, dy, x, weight, rstd, dresidual) =>
    memory(
      bytesOf(dx) + bytesOf(dy) + bytesOf(x) + bytesOf(rstd) + optional(dresidual) + weightBytes(weight),
      10 * elementCount(x.shape),
    ),
  ropeForward: (_, x) => memory(2 * bytesOf(x), 3 * elementCount(x.shape)),
  ropeBackward: (_, dx) => memory(2 * bytesOf(dx), 3 * elementCount(dx.shape)),
  attentionForward: (lengths, out, lse, qkv, segments, shape) =>
    attention(
      2,
      visiblePairs(lengths.segments(segments)),
      shape,
      qkv.dtype,
      bytesOf(qkv) + bytesOf(out) + optional(lse),
    ),
  attentionBackward: (lengths, dqkv, dout, qkv, out, lse, segments, _scratch, shape) =>
    attention(
      5,
      visiblePairs(lengths.segments(segments)),
      shape,
      qkv.dtype,
      bytesOf(dqkv) + bytesOf(dout) + bytesOf(qkv) + bytesOf(out) + bytesOf(lse),
    ),
  kvStore: (_, pages, qkv, page, offset, shape) =>
    memory(2 * cacheBytes(rowsOf(qkv), pages, shape) + bytesOf(page) + bytesOf(offset)),
  attentionDecode: (lengths, out, _qkv, pages, table, _prompts, completions, shape) => {
    const { tokens, distinct } = lengths.cache(completions);
    const flops = 4 * tokens * shape.heads * shape.headDim;
    return memory(cacheBytes(distinct, pages, shape) + 2 * bytesOf(out) + bytesOf(table), flops);
  },
  gluForward: (_, y, x) => memory(bytesOf(y) + bytesOf(x), 6 * elementCount(y.shape)),
  gluBackward: (_, dx, dy, x) => memory(bytesOf(dx) + bytesOf(dy) + bytesOf(x), 14 * elementCount(dy.shape)),
  // The logits are written and read: what a head that keeps them in registers would save is no kernel of ours.
  lmHeadForward: (_, _logprob, _entropy, _lse, logits, hidden, w) => ({
    ...product(rowsOf(hidden), w, bytesOf(hidden) + weightBytes(w) + 2 * bytesOf(logits)),
    own: bytesOf(logits),
  }),
  lmHeadBackward: (_, dhidden, dw, logits, _dlogprob, _dentropy, hidden, w) => {
    const one = product(rowsOf(hidden), w, 0);
    const dlogits = elementCount(logits.shape) * bytesPerElement(w.dtype);
    const bytes = bytesOf(hidden) * 2 + 2 * weightBytes(w) + 2 * bytesOf(logits) + 3 * dlogits;
    const own = bytesOf(logits) + dlogits;
    return { ...one, flops: 3 * one.flops, bytes: bytes + bytesOf(dhidden) + 2 * optional(dw), own };
  },
  sample: (_, ids, _logprob, _sampling, logits) =>
    memory(2 * rowsOf(ids) * (logits.shape[1] ?? 1) * 4, 6 * rowsOf(ids) * (logits.shape[1] ?? 1)),
  adamw: (_, w, master, m, v, g) =>
    memory(
      bytesOf(g) + 2 * (bytesOf(m) + bytesOf(v)) + 2 * bytesOf(master) + (w.dtype === "float32" ? 0 : weightBytes(w)),
      14 * w.elements,
    ),
  sumSquares: (_, _sum, x) => memory(bytesOf(x), 2 * elementCount(x.shape)),
  scale: (_, x) => memory(2 * bytesOf(x), elementCount(x.shape)),
  add: (_, y, x) => memory(2 * bytesOf(y) + bytesOf(x), elementCount(x.shape)),
  fill: (_, x) => memory(bytesOf(x)),
  cast: (_, y, x) => memory(bytesOf(y) + bytesOf(x)),
  gatherRows: (_, y, _x, index) => memory(2 * bytesOf(y) + bytesOf(index)),
  scatterRows: (_, dx, dy, index) => memory(bytesOf(dx) + 2 * bytesOf(dy) + bytesOf(index)),
};
