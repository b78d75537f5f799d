/** Attention over a packed group (one prompt, its completions) and over one long sequence, forward and backward. */
import type { AttentionShape } from "../../src/device/device.ts";
import { bytesPerElement, type ComputeDType } from "../../src/tensor/dtype.ts";
import {
  type Benches,
  computeDTypes,
  EXPONENTIAL,
  near,
  type OpBench,
  picks,
  sizesText,
  slack,
  type Use,
} from "./case.ts";
import { gradientType, packedTokens, type Shapes } from "./shapes.ts";
import type { Workspace } from "./workspace.ts";

interface Segment {
  readonly start: number;
  readonly length: number;
  readonly prefixLength: number;
}

/** Packed tokens: the prefix of every segment but the first are the first segment's tokens. */
interface Packing {
  readonly use: Use;
  readonly name: Readonly<Record<string, number>>;
  readonly tokens: number;
  readonly segments: readonly Segment[];
}

/** Relative to values of size 1: float32's exponential and sums, and rounding to bfloat16 on the way out. */
const tolerance = (dtype: ComputeDType) => (dtype === "bfloat16" ? 2 ** -8 : 2 ** -16);

function group({ prompt, completion, samples, ...s }: Shapes): Packing {
  const completions = Array.from({ length: samples }, (_, i) => ({
    start: prompt + i * completion,
    length: completion,
    prefixLength: prompt,
  }));
  return {
    use: "training",
    name: { prompt, completions: samples, length: completion },
    tokens: packedTokens({ prompt, completion, samples, ...s }),
    segments: [{ start: 0, length: prompt, prefixLength: 0 }, ...completions],
  };
}

function alone(T: number): Packing {
  return { use: "large", name: { T }, tokens: T, segments: [{ start: 0, length: T, prefixLength: 0 }] };
}

export function shapeOf({ H, Hkv, Dh }: Shapes): AttentionShape {
  return { heads: H, kvHeads: Hkv, headDim: Dh, scale: 1 / Math.sqrt(Dh) };
}

export const widthOf = ({ heads, kvHeads, headDim }: AttentionShape) => (heads + 2 * kvHeads) * headDim;

/** (token, key) pairs that are not masked, of one head. */
function visiblePairs(segments: readonly Segment[]): number {
  return segments.reduce((sum, s) => sum + s.length * s.prefixLength + (s.length * (s.length + 1)) / 2, 0);
}

/** Whether token t sees row j. */
function sees(segments: readonly Segment[], t: number, j: number): boolean {
  const own = segments.find((s) => t >= s.start && t < s.start + s.length)!;
  return j < own.prefixLength || (j >= own.start && j <= t);
}

/** Rows that token t sees, its own last. */
function seenBy(segments: readonly Segment[], t: number): number[] {
  const own = segments.find((s) => t >= s.start && t < s.start + s.length)!;
  const prefix = Array.from({ length: own.prefixLength }, (_, i) => i);
  return [...prefix, ...Array.from({ length: t - own.start + 1 }, (_, i) => own.start + i)];
}

/** Where a head's q, k and v begin in a row of qkv. */
function headColumns({ heads, kvHeads, headDim }: AttentionShape, head: number) {
  const kv = Math.floor((head * kvHeads) / heads);
  return { q: head * headDim, k: (heads + kv) * headDim, v: (heads + kvHeads + kv) * headDim };
}

/** Softmax of one query over the keys at `rows`: weights, and their log-sum-exp. */
function weightsOf(
  q: (d: number) => number,
  key: (row: number, d: number) => number,
  rows: readonly number[],
  shape: AttentionShape,
) {
  const scores = Float64Array.from(rows, (row) => {
    let dot = 0;
    for (let d = 0; d < shape.headDim; d++) dot += q(d) * key(row, d);
    return dot * shape.scale;
  });
  const top = scores.reduce((a, b) => Math.max(a, b));
  const lse = top + Math.log(scores.reduce((sum, x) => sum + Math.exp(x - top), 0));
  return { weights: scores.map((x) => Math.exp(x - lse)), lse };
}

/** Compares one head's output with Σ weight · value. @returns the log-sum-exp of its scores */
export function checkHead(
  what: string,
  got: Float64Array,
  query: { at: (d: number) => number; head: number },
  cache: (row: number, column: number) => number,
  rows: readonly number[],
  shape: AttentionShape,
  dtype: ComputeDType,
): number {
  const c = headColumns(shape, query.head);
  const { weights, lse } = weightsOf(
    (d) => query.at(c.q + d),
    (row, d) => cache(row, c.k + d),
    rows,
    shape,
  );
  for (const d of picks(shape.headDim, 5)) {
    const want = rows.reduce((sum, row, i) => sum + weights[i]! * cache(row, c.v + d), 0);
    near(`${what}, ${d}]`, got[query.head * shape.headDim + d], want, tolerance(dtype));
  }
  return lse;
}

function forward(packing: Packing, shape: AttentionShape, dtype: ComputeDType): OpBench {
  const { tokens: T, segments } = packing;
  const [width, heads] = [widthOf(shape), shape.heads];
  return {
    op: "attentionForward",
    use: packing.use,
    dtype,
    sizes: sizesText({ ...packing.name, H: heads, Dh: shape.headDim }),
    flops: visiblePairs(segments) * heads * (4 * shape.headDim + EXPONENTIAL),
    bytes: T * (width + heads * shape.headDim) * bytesPerElement(dtype) + 4 * T * heads,
    open(w) {
      const b = packed(w, packing, shape, dtype);
      return {
        run: () => w.device.ops.attentionForward(b.out, b.lse, b.qkv, b.segments, shape),
        verify() {
          const lse = w.values(b.lse);
          for (const t of picks(T, 7))
            for (const head of picks(heads, 3)) {
              const query = { at: (d: number) => b.qkv.at(t * width + d), head };
              const cache = (row: number, column: number) => b.qkv.at(row * width + column);
              const want = checkHead(
                `out[${t}, ${head}`,
                w.values(b.out, t),
                query,
                cache,
                seenBy(segments, t),
                shape,
                dtype,
              );
              near(`lse[${t}, ${head}]`, lse[t * heads + head], want, 2 ** -16 * (1 + Math.abs(want)));
            }
        },
      };
    },
  };
}

function packed(w: Workspace, { tokens: T, segments }: Packing, shape: AttentionShape, dtype: ComputeDType) {
  return {
    qkv: w.input("qkv", dtype, [T, widthOf(shape)]),
    out: w.output("out", dtype, [T, shape.heads * shape.headDim]),
    lse: w.output("lse", "float32", [T, shape.heads]),
    segments: w.integers(
      "segments",
      [segments.length, 4],
      segments.flatMap((s) => [s.start, s.length, 0, s.prefixLength]),
    ),
  };
}

function backward(packing: Packing, shape: AttentionShape, dtype: ComputeDType, grad: ComputeDType): OpBench {
  const { tokens: T, segments } = packing;
  const { heads, kvHeads, headDim: Dh, scale } = shape;
  const width = widthOf(shape);
  return {
    op: "attentionBackward",
    use: packing.use,
    dtype,
    sizes: sizesText({ ...packing.name, H: heads, Dh }),
    flops: visiblePairs(segments) * heads * (10 * Dh + EXPONENTIAL),
    bytes: T * ((width + heads * Dh) * (bytesPerElement(dtype) + bytesPerElement(grad)) + 4 * heads),
    open(w) {
      const b = packed(w, packing, shape, dtype);
      const dout = w.input("dout", grad, [T, heads * Dh]);
      const dqkv = w.output("dqkv", grad, [T, width]);
      const scratch = w.output("scratch", "float32", [T, w.device.attentionScratchElements(shape)]);
      w.device.ops.attentionForward(b.out, b.lse, b.qkv, b.segments, shape);
      return {
        run: () => w.device.ops.attentionBackward(dqkv, dout, b.qkv, b.out, b.lse, b.segments, scratch, shape),
        verify() {
          const [out, lse] = [w.values(b.out), w.values(b.lse)];
          const dot = (count: number, f: (d: number) => number, g: (d: number) => number) => {
            let sum = 0;
            for (let d = 0; d < count; d++) sum += f(d) * g(d);
            return sum;
          };
          /** P and dS of token t, head, key j. */
          const pair = (t: number, head: number, j: number) => {
            const c = headColumns(shape, head);
            const [o, q] = [(t * heads + head) * Dh, t * width + c.q];
            const score =
              scale *
              dot(
                Dh,
                (d) => b.qkv.at(q + d),
                (d) => b.qkv.at(j * width + c.k + d),
              );
            const p = Math.exp(score - lse[t * heads + head]!);
            const dp = dot(
              Dh,
              (d) => dout.at(o + d),
              (d) => b.qkv.at(j * width + c.v + d),
            );
            const mean = dot(
              Dh,
              (d) => dout.at(o + d),
              (d) => out[o + d]!,
            );
            return { p, ds: p * (dp - mean) * scale };
          };
          // Sums of up to T terms of mixed sign, with bfloat16's rounding of `out` in each.
          // Tensor cores take P and dS as bfloat16 too: each term is off by half a unit in its last place at most.
          const cores = w.rounding.attention && dtype === "bfloat16" ? 2 ** -8 : 0;
          const allowed = (magnitude: number, want: number) =>
            2 ** -14 * (1 + magnitude) + cores * magnitude + slack(0, want, grad);
          for (const t of picks(T, 4))
            for (const head of picks(heads, 2)) {
              const c = headColumns(shape, head);
              const seen = seenBy(segments, t);
              const parts = seen.map((j) => pair(t, head, j).ds);
              const size = parts.reduce((sum, x) => sum + Math.abs(x), 0);
              const row = w.values(dqkv, t);
              for (const d of picks(Dh, 3)) {
                const want = seen.reduce((sum, j, i) => sum + parts[i]! * b.qkv.at(j * width + c.k + d), 0);
                near(`dq[${t}, ${head}, ${d}]`, row[c.q + d], want, allowed(size, want));
              }
            }
          for (const j of picks(T, 3))
            for (const kv of picks(kvHeads, 2)) {
              const perKey = heads / kvHeads;
              const c = headColumns(shape, kv * perKey);
              const terms: { t: number; head: number; p: number; ds: number }[] = [];
              for (let t = 0; t < T; t++)
                if (sees(segments, t, j))
                  for (let i = 0; i < perKey; i++)
                    terms.push({ t, head: kv * perKey + i, ...pair(t, kv * perKey + i, j) });
              const size = terms.reduce((sum, x) => sum + Math.abs(x.ds) + x.p, 0);
              const row = w.values(dqkv, j);
              for (const d of picks(Dh, 3)) {
                const dk = terms.reduce((sum, x) => sum + x.ds * b.qkv.at(x.t * width + x.head * Dh + d), 0);
                const dv = terms.reduce((sum, x) => sum + x.p * dout.at((x.t * heads + x.head) * Dh + d), 0);
                near(`dk[${j}, ${kv}, ${d}]`, row[c.k + d], dk, allowed(size, dk));
                near(`dv[${j}, ${kv}, ${d}]`, row[c.v + d], dv, allowed(size, dv));
              }
            }
        },
      };
    },
  };
}

export function attentionBenches(s: Shapes): Benches<"attentionForward" | "attentionBackward"> {
  const shape = shapeOf(s);
  const packings = [group(s), alone(packedTokens(s))];
  return {
    attentionForward: computeDTypes.flatMap((dtype) => packings.map((packing) => forward(packing, shape, dtype))),
    attentionBackward: computeDTypes.flatMap((dtype) =>
      packings.map((packing) => backward(packing, shape, dtype, gradientType(s, dtype))),
    ),
  };
}
