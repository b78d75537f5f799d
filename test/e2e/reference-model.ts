/**
 * The transformer in float64, a sequence at a time, as the papers write it: what packed passes and their gradients are
 * held against. No caches, no blocks, nothing shared; the default rotary embedding only.
 */
import type { ModelConfig } from "../../src/families/config.ts";

export type Parameters = ReadonlyMap<string, Float64Array>;

/** y = x · wᵀ + bias */
function linear(x: readonly Float64Array[], parameters: Parameters, name: string): Float64Array[] {
  const w = parameters.get(`${name}.weight`)!;
  const bias = parameters.get(`${name}.bias`);
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

/** x / rms(x) · weight, over each `weight.length` of a row. */
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

/** Each head turned by its position: pairs (i, i + Dh/2). */
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

function attend(q: Float64Array[], k: Float64Array[], v: Float64Array[], config: ModelConfig): Float64Array[] {
  const { numHeads, numKvHeads, headDim } = config;
  return q.map((row, t) => {
    const out = new Float64Array(numHeads * headDim);
    for (let head = 0; head < numHeads; head++) {
      const [from, to] = [head * headDim, Math.floor((head * numKvHeads) / numHeads) * headDim];
      const weights = Array.from({ length: t + 1 }, (_, s) => {
        let dot = 0;
        for (let i = 0; i < headDim; i++) dot += row[from + i]! * k[s]![to + i]!;
        return Math.exp(dot / Math.sqrt(headDim));
      });
      const total = weights.reduce((a, b) => a + b, 0);
      for (let s = 0; s <= t; s++)
        for (let i = 0; i < headDim; i++) out[from + i]! += (weights[s]! / total) * v[s]![to + i]!;
    }
    return out;
  });
}

const plus = (x: Float64Array[], y: Float64Array[]) => x.map((row, t) => row.map((v, i) => v + y[t]![i]!));

/** The scalar head's number at every token of a sequence. (T) */
export function referenceValues(config: ModelConfig, parameters: Parameters, ids: ArrayLike<number>): number[] {
  const { hiddenSize: D, rmsNormEps, headDim, rope } = config;
  const get = (name: string) => parameters.get(name)!;
  const embedding = get("model.embed_tokens.weight");
  let x = Array.from(ids, (id) => embedding.slice(id * D, (id + 1) * D));
  for (let layer = 0; layer < config.numLayers; layer++) {
    const at = `model.layers.${layer}`;
    const normed = norm(x, get(`${at}.input_layernorm.weight`), rmsNormEps);
    let [q, k, v] = ["q", "k", "v"].map((p) => linear(normed, parameters, `${at}.self_attn.${p}_proj`)) as [
      Float64Array[],
      Float64Array[],
      Float64Array[],
    ];
    if (config.qkNorm) {
      q = norm(q, get(`${at}.self_attn.q_norm.weight`), rmsNormEps);
      k = norm(k, get(`${at}.self_attn.k_norm.weight`), rmsNormEps);
    }
    const attention = attend(rotate(q, headDim, rope.theta), rotate(k, headDim, rope.theta), v, config);
    x = plus(x, linear(attention, parameters, `${at}.self_attn.o_proj`));
    const after = norm(x, get(`${at}.post_attention_layernorm.weight`), rmsNormEps);
    const gate = linear(after, parameters, `${at}.mlp.gate_proj`);
    const up = linear(after, parameters, `${at}.mlp.up_proj`);
    const glu = gate.map((row, t) => row.map((g, i) => (g / (1 + Math.exp(-g))) * up[t]![i]!));
    x = plus(x, linear(glu, parameters, `${at}.mlp.down_proj`));
  }
  return linear(norm(x, get("model.norm.weight"), rmsNormEps), parameters, "score").map((row) => row[0]!);
}
