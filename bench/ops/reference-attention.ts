/**
 * Causal grouped-query attention over packed segments in float64, all scores of a row at once, and its gradient, element by
 * element.
 */
import type { AttentionShape } from "../../src/device/device.ts";
import { memo, type Values } from "./case.ts";
import { dot, sumOfProducts } from "./reference.ts";
import type { Sum } from "./tolerance.ts";

export interface Segment {
  readonly start: number;
  readonly length: number;
  readonly prefixStart: number;
  readonly prefixLength: number;
}

export const widthOf = ({ heads, kvHeads, headDim }: AttentionShape) => (heads + 2 * kvHeads) * headDim;

/** Offsets of q, k and v of a token's head in qkv (T, (H + 2·Hkv)·Dh). */
function offsets(shape: AttentionShape) {
  const { heads, kvHeads, headDim } = shape;
  const width = widthOf(shape);
  const group = heads / kvHeads;
  return {
    q: (t: number, h: number) => t * width + h * headDim,
    k: (t: number, h: number) => t * width + (heads + Math.floor(h / group)) * headDim,
    v: (t: number, h: number) => t * width + (heads + kvHeads + Math.floor(h / group)) * headDim,
  };
}

/** Rows of the packed tokens that each token attends to, itself included. */
function visibility(segments: readonly Segment[], { window = Number.POSITIVE_INFINITY }: AttentionShape) {
  const range = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i);
  const holding = (t: number) => segments.find((s) => t >= s.start && t < s.start + s.length)!;
  /** Tokens before t in its prefix and its segment. */
  const position = (t: number) => t - holding(t).start + holding(t).prefixLength;
  const near = (t: number, j: number) => position(t) - position(j) < window;
  return {
    seenBy(t: number): number[] {
      const s = holding(t);
      const all = [...range(s.prefixStart, s.prefixLength), ...range(s.start, t - s.start + 1)];
      return all.filter((j) => near(t, j));
    },
    seeing(j: number): number[] {
      const own = holding(j);
      const others = segments.filter((s) => j >= s.prefixStart && j < s.prefixStart + s.prefixLength);
      const all = [...range(j, own.start + own.length - j), ...others.flatMap((s) => range(s.start, s.length))];
      return all.filter((t) => near(t, j));
    },
  };
}

/** Softmax of a query's scores over some keys: its weights, and the log-sum-exp. */
function softmaxOver(keys: readonly number[], score: (key: number) => number) {
  const scores = Float64Array.from(keys, score);
  const top = scores.reduce((a, b) => Math.max(a, b));
  const lse = top + Math.log(scores.reduce((sum, x) => sum + Math.exp(x - top), 0));
  return { keys, weights: scores.map((x) => Math.exp(x - lse)), lse };
}

/**
 * One query's out (H·Dh), with its keys and values in rows `keys` of `cache`; the magnitude is Σ p |v|, to which a rounding
 * error of the weights p is proportional.
 */
function rowOf(query: Values, cache: Values, keys: readonly number[], shape: AttentionShape) {
  const { headDim: Dh, scale } = shape;
  const at = offsets(shape);
  const softmax = memo((h) =>
    softmaxOver(
      keys,
      (j) =>
        scale *
        dot(
          Dh,
          (d) => query(at.q(0, h) + d),
          (d) => cache(at.k(j, h) + d),
        ),
    ),
  );
  return {
    lse: (h: number): number => softmax(h).lse,
    out(i: number): Sum {
      const [h, d] = [Math.floor(i / Dh), i % Dh];
      const { weights } = softmax(h);
      return sumOfProducts(
        keys.length,
        (i) => weights[i]!,
        (i) => cache(at.v(keys[i]!, h) + d),
      );
    },
  };
}

/** out (B, H·Dh) of queries whose keys and values are the rows `keys` of another tensor. */
export function decodedAttention(
  qkv: Values,
  cache: Values,
  keys: (b: number) => readonly number[],
  shape: AttentionShape,
): (index: number) => Sum {
  const [width, columns] = [widthOf(shape), shape.heads * shape.headDim];
  const row = memo((b) => rowOf((i) => qkv(b * width + i), cache, keys(b), shape));
  return (i) => row(Math.floor(i / columns)).out(i % columns);
}

/** out (T, H·Dh), lse (T, H) */
export function attention(qkv: Values, segments: readonly Segment[], shape: AttentionShape) {
  const { seenBy } = visibility(segments, shape);
  const [width, columns] = [widthOf(shape), shape.heads * shape.headDim];
  const row = memo((t) => rowOf((i) => qkv(t * width + i), qkv, seenBy(t), shape));
  return {
    out: (i: number): Sum => row(Math.floor(i / columns)).out(i % columns),
    lse: (i: number): number => row(Math.floor(i / shape.heads)).lse(i % shape.heads),
  };
}

/** A query and a key it attends to: its weight, its score's gradient, and the bound on that gradient's error from rounding dout. */
interface Pair {
  /** The query's token and head if the gradient is a key's or value's; the key's token if it is a query's. */
  readonly at: number;
  readonly head: number;
  readonly p: number;
  readonly ds: number;
  readonly loose: number;
}

/**
 * dqkv (T, …). `out` and `lse` are what the forward pass stored: out's rounding enters through dout · out. The magnitude is
 * proportional to the effect of rounding p and the scores' gradients and, if `roundsDout`, dout too.
 */
export function attentionGradient(
  { dout, qkv, out, lse }: { readonly dout: Values; readonly qkv: Values; readonly out: Values; readonly lse: Values },
  segments: readonly Segment[],
  shape: AttentionShape,
  roundsDout: boolean,
): (index: number) => Sum {
  const { heads, kvHeads, headDim: Dh, scale } = shape;
  const at = offsets(shape);
  const [width, group] = [widthOf(shape), heads / kvHeads];
  const { seenBy, seeing } = visibility(segments, shape);
  const outRow = (t: number, h: number) => (t * heads + h) * Dh;
  const mean = memo((row) =>
    dot(
      Dh,
      (d) => dout(row * Dh + d),
      (d) => out(row * Dh + d),
    ),
  );

  const pair = (t: number, h: number, j: number): Omit<Pair, "at" | "head"> => {
    const [q, k, v, o] = [at.q(t, h), at.k(j, h), at.v(j, h), outRow(t, h)];
    const score =
      scale *
      dot(
        Dh,
        (d) => qkv(q + d),
        (d) => qkv(k + d),
      );
    const p = Math.exp(score - lse(t * heads + h));
    const dp = sumOfProducts(
      Dh,
      (d) => dout(o + d),
      (d) => qkv(v + d),
    );
    const off = mean(t * heads + h);
    const loose = roundsDout ? p * scale * (dp.magnitude + Math.abs(off)) : 0;
    return { p, ds: p * (dp.value - off) * scale, loose };
  };
  const ofQuery = memo((row) => {
    const [t, head] = [Math.floor(row / heads), row % heads];
    return seenBy(t).map((j): Pair => ({ at: j, head, ...pair(t, head, j) }));
  });
  const ofKey = memo((row) => {
    const [j, kv] = [Math.floor(row / kvHeads), row % kvHeads];
    const queries = Array.from({ length: group }, (_, i) => kv * group + i);
    return seeing(j).flatMap((t) => queries.map((head): Pair => ({ at: t, head, ...pair(t, head, j) })));
  });
  /** Σ over pairs of the score's gradient times an element of the other operand. */
  const summed = (pairs: readonly Pair[], other: (pair: Pair) => number): Sum => {
    const sum = sumOfProducts(
      pairs.length,
      (i) => pairs[i]!.ds,
      (i) => other(pairs[i]!),
    );
    const loose = pairs.reduce((size, one) => size + one.loose * Math.abs(other(one)), 0);
    return { ...sum, magnitude: sum.magnitude + loose };
  };

  return (i) => {
    const [t, column] = [Math.floor(i / width), i % width];
    const [part, d] = [Math.floor(column / Dh), column % Dh];
    if (part < heads) return summed(ofQuery(t * heads + part), ({ at: j, head }) => qkv(at.k(j, head) + d));
    if (part < heads + kvHeads)
      return summed(ofKey(t * kvHeads + part - heads), ({ at: token, head }) => qkv(at.q(token, head) + d));
    const pairs = ofKey(t * kvHeads + part - heads - kvHeads);
    const sum = sumOfProducts(
      pairs.length,
      (i) => pairs[i]!.p,
      (i) => dout(outRow(pairs[i]!.at, pairs[i]!.head) + d),
    );
    return roundsDout ? { ...sum, magnitude: 2 * sum.magnitude } : sum;
  };
}
