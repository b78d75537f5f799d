/**
 * A whole model in float64, from the definitions, one sequence at a time: log-probabilities and entropies of a completion's
 * tokens. No caches, no blocks, no sharing: for tiny models. What the gradient of the real one is compared with is a difference
 * quotient of this.
 */
import type { ModelConfig } from "../src/families/config.ts";
import {
  type Attention,
  type Experts,
  isExperts,
  type Linear,
  type Mlp,
  type ParameterSpec,
} from "../src/families/layer.ts";
import { layersOf, ownHead } from "../src/families/parameters.ts";
import { type Rotary, ropeTable } from "../src/families/rope.ts";
import { glu, logSoftmax } from "./ops/reference.ts";

/** A parameter's values, row-major, by its name. */
export type Parameters = ReadonlyMap<string, Float64Array>;

export type Rows = Float64Array[]; // (T)(D)

/** Cosines and sines of a layer's rotary embedding, (positions, headDim/2). */
export type RotaryTable = (rotary: Rotary, positions: number) => Record<"cos" | "sin", ArrayLike<number>>;

export interface ReferenceScores {
  readonly logprobs: number[]; // (R)
  readonly entropies: number[]; // (R)
}

/** Of `completion` after `prompt`, each token given all before it, at temperature 1. */
export function referenceScores(
  config: ModelConfig,
  parameters: Parameters,
  prompt: readonly number[],
  completion: readonly number[],
): ReferenceScores {
  const hidden = referenceHidden(config, parameters, [...prompt, ...completion.slice(0, -1)], ropeTable);
  const head = valuesOf(parameters, ownHead(config) ?? config.embedding.copyOf ?? config.embedding);
  const rows = completion.map((target, i) => {
    const logits = product(hidden[prompt.length - 1 + i]!, head, config.vocabSize);
    const { logitCap: cap } = config;
    const { logp, entropy } = logSoftmax(cap === undefined ? logits : logits.map((z) => cap * Math.tanh(z / cap)), 1);
    return { logprob: logp[target]!, entropy };
  });
  return { logprobs: rows.map(({ logprob }) => logprob), entropies: rows.map(({ entropy }) => entropy) };
}

/** What a head reads: the residual stream after the last norm, a row per token. */
export function referenceHidden(
  config: ModelConfig,
  parameters: Parameters,
  tokens: readonly number[],
  rotaryTable: RotaryTable,
): Rows {
  const get = (spec: ParameterSpec) => valuesOf(parameters, spec);
  const { hiddenSize: D, embeddingScale = 1 } = config;
  const embedding = get(config.embedding);
  let x: Rows = tokens.map((token) =>
    embedding.slice(token * D, (token + 1) * D).map((value) => value * embeddingScale),
  );
  const normed = (rows: Rows, weight: ParameterSpec | null) =>
    weight === null ? rows : rows.map((row) => rmsnorm(row, multiplier(weight, get), config.rmsNormEps));
  const added = (y: Rows) => x.map((row, t) => row.map((value, d) => value + y[t]![d]!));
  for (const layer of layersOf(config)) {
    const { rope, shape } = layer.attention;
    const table = rotaryTable({ headDim: shape.headDim, rope }, tokens.length);
    const attended = attention(normed(x, layer.inputNorm), layer.attention, table, get, config.rmsNormEps);
    x = added(normed(attended, layer.attentionNorm));
    const read = normed(x, layer.postNorm);
    x = added(normed(isExperts(layer.mlp) ? experts(read, layer.mlp, get) : mlp(read, layer.mlp, get), layer.mlpNorm));
  }
  return normed(x, config.finalNorm);
}

function valuesOf(parameters: Parameters, { name }: ParameterSpec): Float64Array {
  const values = parameters.get(name);
  if (!values) throw new Error(`no parameter ${name}`);
  return values;
}

/** w (N, K) · x (K) */
export function product(x: Float64Array, w: Float64Array, N: number): Float64Array {
  const K = x.length;
  return Float64Array.from({ length: N }, (_, n) => {
    let sum = 0;
    for (let k = 0; k < K; k++) sum += w[n * K + k]! * x[k]!;
    return sum;
  });
}

function rmsnorm(x: Float64Array, weight: Float64Array, epsilon: number): Float64Array {
  const rstd = 1 / Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length + epsilon);
  return x.map((value, d) => value * rstd * weight[d]!);
}

type Get = (spec: ParameterSpec) => Float64Array;

/** What a norm multiplies by. */
function multiplier(norm: ParameterSpec, get: Get): Float64Array {
  const { offset = 0 } = norm;
  return get(norm).map((value) => offset + value);
}

function linear({ weight, bias, adapter }: Linear<ParameterSpec>, get: Get): (x: Float64Array) => Float64Array {
  const [w, b] = [get(weight), bias && get(bias)];
  const N = weight.shape[0]!;
  const low = adapter && { a: get(adapter.a), b: get(adapter.b), rank: adapter.a.shape[0]!, scale: adapter.scale };
  return (x) => {
    const y = product(x, w, N);
    const beside = low && product(product(x, low.a, low.rank), low.b, N);
    return y.map((value, n) => value + (b ? b[n]! : 0) + (beside ? low!.scale * beside[n]! : 0));
  };
}

/** The outputs of maps of the same input, side by side. */
function sideBySide(maps: readonly Linear<ParameterSpec>[], get: Get): (x: Float64Array) => Float64Array {
  const each = maps.map((map) => linear(map, get));
  return (x) => Float64Array.from(each.flatMap((map) => [...map(x)]));
}

function mlp(x: Rows, { activation, intermediateSize: F, gateUp, down }: Mlp<ParameterSpec>, get: Get): Rows {
  const [toBoth, toOut] = [sideBySide(gateUp, get), linear(down, get)];
  return x.map((row) => {
    const both = toBoth(row);
    const at = glu((i) => both[i]!, F, activation === "gelu_tanh");
    return toOut(Float64Array.from({ length: F }, (_, f) => at(f)));
  });
}

/** The most probable experts' MLPs, weighed by their probabilities. */
function experts(x: Rows, mixture: Experts<ParameterSpec>, get: Get): Rows {
  const { router, gate, up, down, perToken, normalized } = mixture;
  const plain = (weight: ParameterSpec) => ({ weight, bias: null });
  return x.map((row) => {
    const { logp } = logSoftmax(product(row, get(router), gate.length), 1);
    const chosen = [...logp.keys()].sort((a, b) => logp[b]! - logp[a]! || a - b).slice(0, perToken);
    const all = normalized ? chosen.reduce((sum, e) => sum + Math.exp(logp[e]!), 0) : 1;
    const sum = new Float64Array(row.length);
    for (const e of chosen) {
      const own = { ...mixture, gateUp: [plain(gate[e]!), plain(up[e]!)], down: plain(down[e]!) };
      const [out] = mlp([row], own, get);
      for (let d = 0; d < sum.length; d++) sum[d]! += (Math.exp(logp[e]!) / all) * out![d]!;
    }
    return sum;
  });
}

/** Causal attention of all heads, H / Hkv of which share keys and values. */
function attention(
  x: Rows,
  a: Attention<ParameterSpec>,
  { cos, sin }: ReturnType<RotaryTable>,
  get: Get,
  epsilon: number,
): Rows {
  const { heads, kvHeads, headDim: Dh, scale, window = x.length } = a.shape;
  const half = Dh / 2;
  const qkv = x.map(sideBySide(a.qkv, get));
  const headsOf = (from: number, count: number, norm: ParameterSpec | null): Rows[] =>
    qkv.map((row) => {
      const own = row.slice(from * Dh, (from + count) * Dh);
      const all = norm && a.headNorms?.over === "all heads" ? rmsnorm(own, multiplier(norm, get), epsilon) : own;
      return Array.from({ length: count }, (_, h) => {
        const head = all.slice(h * Dh, (h + 1) * Dh);
        return norm && a.headNorms?.over === "each head" ? rmsnorm(head, multiplier(norm, get), epsilon) : head;
      });
    });
  const rotated = (rows: Rows[]): Rows[] =>
    rows.map((row, t) =>
      row.map((head) =>
        head.map((value, d) => {
          const [c, s] = [cos[t * half + (d % half)]!, sin[t * half + (d % half)]!];
          return d < half ? value * c - head[d + half]! * s : value * c + head[d - half]! * s;
        }),
      ),
    );
  const q = rotated(headsOf(0, heads, a.headNorms?.q ?? null));
  const k = rotated(headsOf(heads, kvHeads, a.headNorms?.k ?? null));
  const v = headsOf(heads + kvHeads, kvHeads, null);
  const out = x.map((_, t) => {
    const mixed = new Float64Array(heads * Dh);
    for (let h = 0; h < heads; h++) {
      const shared = Math.floor(h / (heads / kvHeads));
      const scores = Float64Array.from({ length: t + 1 }, (_, s) => {
        if (t - s >= window) return Number.NEGATIVE_INFINITY;
        let sum = 0;
        for (let d = 0; d < Dh; d++) sum += q[t]![h]![d]! * k[s]![shared]![d]!;
        return sum * scale;
      });
      const { logp } = logSoftmax(scores, 1);
      for (let s = 0; s <= t; s++)
        for (let d = 0; d < Dh; d++) mixed[h * Dh + d]! += Math.exp(logp[s]!) * v[s]![shared]![d]!;
    }
    return mixed;
  });
  return out.map(linear(a.o, get));
}
