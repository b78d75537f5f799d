/**
 * The transformer in float64, one sequence at a time, as in the papers: the reference for packed passes and their gradients. No
 * caches, no blocks, no sharing; only the default rotary embedding.
 */
import type { AttentionShape } from "../../src/device/device.ts";
import type { ModelConfig } from "../../src/families/config.ts";
import type { Linear, ParameterSpec } from "../../src/families/layer.ts";
import { ownHead } from "../../src/families/parameters.ts";

export type Parameters = ReadonlyMap<string, Float64Array>;

/** y = x · wᵀ + bias */
function linear(x: readonly Float64Array[], parameters: Parameters, own: Linear<ParameterSpec>): Float64Array[] {
  const w = parameters.get(own.weight.name)!;
  const bias = own.bias && parameters.get(own.bias.name)!;
  return x.map((row) => {
    const y = new Float64Array(w.length / row.length);
    for (let n = 0; n < y.length; n++) {
      let sum = bias?.[n] ?? 0;
      for (let k = 0; k < row.length; k++) sum += row[k]! * w[n * row.length + k]!;
      y[n] = sum;
    }
    return y;
  });
}

/** x / rms(x) · weight, over each row segment of `weight.length`. */
function norm(x: readonly Float64Array[], weight: Float64Array, epsilon: number): Float64Array[] {
  return x.map((row) => {
    const y = new Float64Array(row.length);
    for (let at = 0; at < row.length; at += weight.length) {
      const part = row.subarray(at, at + weight.length);
      const rms = Math.sqrt(part.reduce((sum, v) => sum + v * v, 0) / weight.length + epsilon);
      for (let i = 0; i < weight.length; i++) y[at + i] = (part[i]! / rms) * weight[i]!;
    }
    return y;
  });
}

/** Each head rotated by its position: pairs (i, i + Dh/2). */
function rotate(x: readonly Float64Array[], headDim: number, theta: number): Float64Array[] {
  const half = headDim / 2;
  return x.map((row, position) => {
    const y = row.slice();
    for (let head = 0; head < row.length; head += headDim)
      for (let i = 0; i < half; i++) {
        const angle = position * theta ** (-i / half);
        const [a, b] = [row[head + i]!, row[head + i + half]!];
        y[head + i] = a * Math.cos(angle) - b * Math.sin(angle);
        y[head + i + half] = b * Math.cos(angle) + a * Math.sin(angle);
      }
    return y;
  });
}

function attend(q: Float64Array[], k: Float64Array[], v: Float64Array[], shape: AttentionShape): Float64Array[] {
  const { heads: numHeads, kvHeads: numKvHeads, headDim } = shape;
  return q.map((row, t) => {
    const out = new Float64Array(numHeads * headDim);
    for (let head = 0; head < numHeads; head++) {
      const [from, to] = [head * headDim, Math.floor((head * numKvHeads) / numHeads) * headDim];
      const weights = Array.from({ length: t + 1 }, (_, s) => {
        let dot = 0;
        for (let i = 0; i < headDim; i++) dot += row[from + i]! * k[s]![to + i]!;
        return Math.exp(dot * shape.scale);
      });
      const total = weights.reduce((a, b) => a + b, 0);
      for (let s = 0; s <= t; s++)
        for (let i = 0; i < headDim; i++) out[from + i]! += (weights[s]! / total) * v[s]![to + i]!;
    }
    return out;
  });
}

const plus = (x: Float64Array[], y: Float64Array[]) => x.map((row, t) => row.map((v, i) => v + y[t]![i]!));

/** The scalar head's output at every token of a sequence. (T) */
export function referenceValues(config: ModelConfig, parameters: Parameters, ids: ArrayLike<number>): number[] {
  const { hiddenSize: D, rmsNormEps } = config;
  const get = ({ name }: { readonly name: string }) => parameters.get(name)!;
  const embedding = get(config.embedding);
  let x = Array.from(ids, (id) => embedding.slice(id * D, (id + 1) * D));
  for (let layer = 0; layer < config.numLayers; layer++) {
    const { inputNorm, attention, postNorm, mlp } = config.layer(layer);
    const { shape, rope, headNorms } = attention;
    const normed = norm(x, get(inputNorm), rmsNormEps);
    let [q, k] = [linear(normed, parameters, attention.q), linear(normed, parameters, attention.k)];
    const v = linear(normed, parameters, attention.v);
    if (headNorms) {
      q = norm(q, get(headNorms.q), rmsNormEps);
      k = norm(k, get(headNorms.k), rmsNormEps);
    }
    const turned = (heads: Float64Array[]) => rotate(heads, shape.headDim, rope.theta);
    x = plus(x, linear(attend(turned(q), turned(k), v, shape), parameters, attention.o));
    const after = norm(x, get(postNorm), rmsNormEps);
    const gate = linear(after, parameters, mlp.gate);
    const up = linear(after, parameters, mlp.up);
    const glu = gate.map((row, t) => row.map((g, i) => (g / (1 + Math.exp(-g))) * up[t]![i]!));
    x = plus(x, linear(glu, parameters, mlp.down));
  }
  const score = { weight: ownHead(config)!, bias: null };
  return linear(norm(x, get(config.finalNorm), rmsNormEps), parameters, score).map((row) => row[0]!);
}
