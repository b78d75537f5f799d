/**
 * Llama (Touvron et al. 2023, arXiv 2302.13971) and models with its architecture, such as SmolLM2: RMSNorm before
 * rotary attention and before a gated MLP, with all biases or none. Qwen's layers have other optional parts, under the
 * same names.
 */
import type { Family, ModelParameters } from "./config.ts";
import { type DecoderFields, type Defaults, readDecoderFields } from "./fields.ts";
import { type Layer, linear, matrix, type ParameterSpec, vector } from "./layer.ts";

const defaults: Defaults = { kvHeads: null, headDim: null, maxPositions: 2048, bos: 1, eos: 2 };

export const llama: Family = {
  name: "Llama",
  read(json, path) {
    const fields = readDecoderFields(json, path, defaults);
    const attentionBias = fields.given.attention_bias ?? false;
    const mlpBias = fields.given.mlp_bias ?? false;
    const parts = { inputBias: attentionBias, outputBias: attentionBias, mlpBias, headNorms: false };
    return { ...fields.common, ...llamaParameters(fields, parts) };
  },
};

/** Parameters that only some models with Llama's architecture have. */
interface OptionalParts {
  /** Bias on the q, k and v projections. */
  readonly inputBias: boolean;
  /** Bias on the o projection. */
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
  /** RMSNorm over each head of q and k. */
  readonly headNorms: boolean;
}

/** Parameters under Llama's names. */
export function llamaParameters(fields: DecoderFields, parts: OptionalParts): ModelParameters {
  const { vocab_size: V, hidden_size: D } = fields.given;
  const layerPath = "model.layers";
  return {
    embedding: matrix("model.embed_tokens.weight", V, D),
    layer: (index) => llamaLayer(`${layerPath}.${index}`, fields, parts),
    layerPath,
    finalNorm: vector("model.norm.weight", D),
    lmHead: matrix("lm_head.weight", V, D),
  };
}

function llamaLayer(at: string, fields: DecoderFields, parts: OptionalParts): Layer<ParameterSpec> {
  const { rope, activation, attention: shape } = fields;
  const { hidden_size: D, intermediate_size: F } = fields.given;
  const [Q, K] = [shape.heads * shape.headDim, shape.kvHeads * shape.headDim];
  const headNorm = (name: string) => vector(`${at}.self_attn.${name}.weight`, shape.headDim);
  return {
    inputNorm: vector(`${at}.input_layernorm.weight`, D),
    attention: {
      shape,
      rope,
      q: linear(`${at}.self_attn.q_proj`, Q, D, parts.inputBias),
      k: linear(`${at}.self_attn.k_proj`, K, D, parts.inputBias),
      v: linear(`${at}.self_attn.v_proj`, K, D, parts.inputBias),
      headNorms: parts.headNorms ? { q: headNorm("q_norm"), k: headNorm("k_norm") } : null,
      o: linear(`${at}.self_attn.o_proj`, D, Q, parts.outputBias),
    },
    postNorm: vector(`${at}.post_attention_layernorm.weight`, D),
    mlp: {
      activation,
      intermediateSize: F,
      gate: linear(`${at}.mlp.gate_proj`, F, D, parts.mlpBias),
      up: linear(`${at}.mlp.up_proj`, F, D, parts.mlpBias),
      down: linear(`${at}.mlp.down_proj`, D, F, parts.mlpBias),
    },
  };
}
