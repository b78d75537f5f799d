/**
 * Llama (Touvron et al. 2023, arXiv 2302.13971) and models with its architecture, such as SmolLM2: RMSNorm before
 * rotary attention and before a gated MLP, with all biases or none. Other families' layers differ in optional parts,
 * under the same names.
 */
import type { Family, ModelParameters } from "./config.ts";
import { type DecoderFields, type Defaults, readDecoderFields } from "./fields.ts";
import {
  type Experts,
  type Layer,
  linear,
  type Mlp,
  matrix,
  type ParameterSpec,
  type QkNorms,
  vector,
} from "./layer.ts";
import type { RopeConfig } from "./rope-settings.ts";

const defaults: Defaults = { kvHeads: null, headDim: null, maxPositions: 2048, bos: 1, eos: 2 };

export const llama: Family = {
  name: "Llama",
  read(json, path) {
    const fields = readDecoderFields(json, path, defaults);
    const attentionBias = fields.given.attention_bias ?? false;
    const mlpBias = fields.given.mlp_bias ?? false;
    const parts = { inputBias: attentionBias, outputBias: attentionBias, mlpBias };
    return { ...fields.common, ...llamaParameters(fields, parts) };
  },
};

/** What only some models with Llama's architecture have; by default, nothing. */
interface OptionalParts {
  /** Bias on the q, k and v projections. */
  readonly inputBias?: boolean;
  /** Bias on the o projection. */
  readonly outputBias?: boolean;
  readonly mlpBias?: boolean;
  /** RMSNorm of q and k. */
  readonly headNorms?: QkNorms<unknown>["over"];
  /** Norms of what attention and MLP read (before, as by default), of what they add to the stream, or of both. */
  readonly norms?: "before" | "after" | "around";
  /** What is added to every norm's weight. */
  readonly normOffset?: number;
  /** One product makes q, k and v, and one gate and up. */
  readonly fused?: boolean;
  /** In place of a dense MLP; null: a dense one. */
  readonly experts?: (layer: number) => ExpertSizes | null;
  /** A layer's rotary embedding and window, if not the same in all. */
  readonly rope?: (layer: number) => RopeConfig;
}

export interface ExpertSizes extends Pick<Experts<unknown>, "intermediateSize" | "perToken" | "normalized"> {
  readonly count: number;
}

/** Parameters under Llama's names. */
export function llamaParameters(fields: DecoderFields, parts: OptionalParts): ModelParameters {
  const { vocab_size: V, hidden_size: D } = fields.given;
  const layerPath = "model.layers";
  return {
    embedding: matrix("model.embed_tokens.weight", V, D),
    layer: (index) => llamaLayer(`${layerPath}.${index}`, fields, parts, index),
    layerPath,
    finalNorm: vector("model.norm.weight", D, parts.normOffset),
    lmHead: matrix("lm_head.weight", V, D),
  };
}

function llamaLayer(at: string, fields: DecoderFields, parts: OptionalParts, index: number): Layer<ParameterSpec> {
  const { activation } = fields;
  const shape = fields.attention(index);
  const { inputBias = false, outputBias = false, mlpBias = false, fused = false, norms = "before" } = parts;
  const [before, after] = [norms !== "after", norms !== "before"];
  const { hidden_size: D, intermediate_size: F } = fields.given;
  const [Q, K] = [shape.heads * shape.headDim, shape.kvHeads * shape.headDim];
  const over = parts.headNorms;
  const headNorm = (name: string, all: number) =>
    vector(`${at}.self_attn.${name}.weight`, over === "each head" ? shape.headDim : all, parts.normOffset);
  const norm = (name: string) => vector(`${at}.${name}.weight`, D, parts.normOffset);
  const attention = (name: string, n: number, k: number, bias: boolean) =>
    linear(`${at}.self_attn.${name}_proj`, n, k, bias);
  const mlp = (name: string, n: number, k: number) => linear(`${at}.mlp.${name}_proj`, n, k, mlpBias);
  const experts = parts.experts?.(index);
  const dense: Mlp<ParameterSpec> = {
    activation,
    intermediateSize: F,
    gateUp: fused ? [mlp("gate_up", 2 * F, D)] : [mlp("gate", F, D), mlp("up", F, D)],
    down: mlp("down", D, F),
  };
  return {
    inputNorm: before ? norm("input_layernorm") : null,
    attention: {
      shape,
      rope: parts.rope?.(index) ?? fields.rope,
      qkv: fused
        ? [attention("qkv", Q + 2 * K, D, inputBias)]
        : [attention("q", Q, D, inputBias), attention("k", K, D, inputBias), attention("v", K, D, inputBias)],
      headNorms: over ? { over, q: headNorm("q_norm", Q), k: headNorm("k_norm", K) } : null,
      o: attention("o", D, Q, outputBias),
    },
    attentionNorm: after ? norm("post_attention_layernorm") : null,
    postNorm: before ? norm(after ? "pre_feedforward_layernorm" : "post_attention_layernorm") : null,
    mlp: experts ? expertsOf(`${at}.mlp`, D, activation, experts) : dense,
    mlpNorm: after ? norm("post_feedforward_layernorm") : null,
  };
}

function expertsOf(
  at: string,
  D: number,
  activation: Mlp<unknown>["activation"],
  { count, ...sizes }: ExpertSizes,
): Experts<ParameterSpec> {
  const F = sizes.intermediateSize;
  const each = (name: string, n: number, k: number) =>
    Array.from({ length: count }, (_, e) => matrix(`${at}.experts.${e}.${name}_proj.weight`, n, k));
  return {
    ...{ ...sizes, activation, router: matrix(`${at}.gate.weight`, count, D) },
    ...{ gate: each("gate", F, D), up: each("up", F, D), down: each("down", D, F) },
  };
}
