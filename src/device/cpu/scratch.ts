/** Upper bounds of the scratch memory that the kernels' threads hold, and the sizes of their layouts. */
import { elementCount } from "../../tensor/tensor.ts";
import { type AttentionShape, PAGE_TOKENS, type ScratchSizes } from "../device.ts";

/** Columns of a weight panel, as in ffi/cpu/simd.h. */
const PANEL = 16;

function padded(headDim: number): number {
  return Math.ceil(headDim / PANEL) * PANEL;
}

export function parameterElements(shape: readonly number[]): number {
  if (shape.length !== 2) return elementCount(shape);
  const [n = 0, k = 0] = shape;
  return Math.ceil(n / PANEL) * PANEL * k;
}

export function pageElements({ kvHeads, headDim }: AttentionShape): { keys: number; values: number } {
  return { keys: kvHeads * PAGE_TOKENS * headDim, values: kvHeads * PAGE_TOKENS * padded(headDim) };
}

export function attentionScratchElements({ kvHeads, headDim }: AttentionShape): number {
  return kvHeads * 2 * padded(headDim);
}

/** `stores`: the path's products take bfloat16 operands. */
export function scratchBytes(threads: number, stores: boolean, sizes: readonly ScratchSizes[]): number {
  const perThread = Math.max(...sizes.map(scratchPerThread));
  if (!stores) return threads * perThread;
  return threads * (perThread + PAIRED_BYTES) + Math.max(...sizes.map(convertedBytes));
}

/** An upper bound of one thread's scratch memory over all kernels: the sum of its slots' largest uses. */
function scratchPerThread(s: ScratchSizes): number {
  const { heads, kvHeads, headDim } = s.attention;
  const group = heads / kvHeads;
  const keys = s.longest + 2 * PAGE_TOKENS;
  const deepest = Math.max(s.hiddenSize, s.intermediateSize, heads * headDim);
  const rowBlock = Math.min(s.tokens, 480);
  const activations = 4 * Math.max(384 * 1024, 96 * deepest);
  const attention = 4 * keys * (2 * headDim + 3 * padded(headDim));
  const queries = 4 * PAGE_TOKENS * group * (3 * padded(headDim) + 2 * PAGE_TOKENS + 64);
  const sums = 4 * rowBlock * Math.min(deepest, PANEL * Math.ceil((deepest * s.tokens) / (PANEL * 480 * 64) + 1));
  return Math.max(activations, attention, 4 * s.vocabSize) + Math.max(queries, sums, 4 * s.vocabSize) + 8 * s.vocabSize;
}

/** What a thread of a bfloat16 path holds beside: sums of 480 rows by 16 panels, and 512 rows of two panels. */
const PAIRED_BYTES = 4 * 480 * 16 * PANEL + 2 * 512 * 2 * PANEL;

/** An upper bound of the operand that such a path converts for all threads, as ffi/cpu/path_bf16.cpp cuts it. */
function convertedBytes(s: ScratchSizes): number {
  const { heads, kvHeads, headDim } = s.attention;
  const [limit, whole] = [32 * 2 ** 20, (n: number) => Math.ceil(n / 32) * 32];
  const outputs = whole(Math.max(s.vocabSize, 2 * s.intermediateSize, s.hiddenSize, (heads + 2 * kvHeads) * headDim));
  const inputs = whole(Math.max(s.hiddenSize, s.intermediateSize, heads * headDim));
  const gradient = 2 * outputs * Math.min(s.tokens, Math.max(limit / (2 * outputs), 96));
  const transposed = 2 * inputs * Math.min(whole(s.tokens), Math.max(limit / (2 * inputs), 512));
  return Math.ceil(Math.max(gradient, transposed) / 4096) * 4096;
}
