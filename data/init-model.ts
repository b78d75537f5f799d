/**
 * The bundled model before any training: a small Llama with random weights, as a Hugging Face folder's config.json,
 * generation_config.json and tensors. tokenizer.ts makes its tokenizer, make.ts trains it.
 */

import { nearlyNormal, seededSource } from "./random.ts";
import { endTokenId, padTokenId } from "./tokenizer.ts";

/** The shape of the bundled model: 0.35 million parameters, 1.4 MB in float32. */
export const modelShape = {
  hiddenSize: 128,
  layers: 2,
  heads: 4,
  keyValueHeads: 2,
  headDim: 32,
  intermediateSize: 256,
  maxPositions: 512,
} as const;

/**
 * Standard deviation of the initial weights: 1 / sqrt(hidden size), which keeps the size of what passes through. The
 * usual 0.02 suits widths of 768 and more; at 128 it makes early training several times slower.
 */
export const initializerRange = 1 / Math.sqrt(modelShape.hiddenSize);

export interface NamedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** config.json of a model with `vocabularySize` tokens. */
export function modelConfig(vocabularySize: number): Record<string, unknown> {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    vocab_size: vocabularySize,
    hidden_size: modelShape.hiddenSize,
    intermediate_size: modelShape.intermediateSize,
    num_hidden_layers: modelShape.layers,
    num_attention_heads: modelShape.heads,
    num_key_value_heads: modelShape.keyValueHeads,
    head_dim: modelShape.headDim,
    max_position_embeddings: modelShape.maxPositions,
    hidden_act: "silu",
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    attention_bias: false,
    mlp_bias: false,
    tie_word_embeddings: true,
    initializer_range: initializerRange,
    eos_token_id: endTokenId,
    pad_token_id: padTokenId,
    bos_token_id: null,
    torch_dtype: "float32",
  };
}

/** generation_config.json: where to stop. */
export function generationConfig(): Record<string, unknown> {
  return { eos_token_id: endTokenId, pad_token_id: padTokenId };
}

/**
 * Random weights: norms are 1, matrices are drawn from a normal distribution of standard deviation `initializerRange`,
 * those that write into the residual stream divided by sqrt(2 layers), as in GPT-2 (Radford et al. 2019, section 2.3).
 * The head is tied to the embedding, so it is not among them.
 */
export function initialTensors(vocabularySize: number, seed: number): NamedTensor[] {
  const { hiddenSize: D, intermediateSize: F, layers, heads, keyValueHeads, headDim } = modelShape;
  const next = seededSource(seed);
  const residual = initializerRange / Math.sqrt(2 * layers);
  const matrix = (name: string, shape: readonly [number, number], deviation = initializerRange): NamedTensor => ({
    name,
    shape,
    values: Float32Array.from({ length: shape[0] * shape[1] }, () => deviation * nearlyNormal(next)),
  });
  const norm = (name: string): NamedTensor => ({ name, shape: [D], values: new Float32Array(D).fill(1) });
  const tensors = [matrix("model.embed_tokens.weight", [vocabularySize, D])];
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}`;
    tensors.push(
      norm(`${at}.input_layernorm.weight`),
      matrix(`${at}.self_attn.q_proj.weight`, [heads * headDim, D]),
      matrix(`${at}.self_attn.k_proj.weight`, [keyValueHeads * headDim, D]),
      matrix(`${at}.self_attn.v_proj.weight`, [keyValueHeads * headDim, D]),
      matrix(`${at}.self_attn.o_proj.weight`, [D, heads * headDim], residual),
      norm(`${at}.post_attention_layernorm.weight`),
      matrix(`${at}.mlp.gate_proj.weight`, [F, D]),
      matrix(`${at}.mlp.up_proj.weight`, [F, D]),
      matrix(`${at}.mlp.down_proj.weight`, [D, F], residual),
    );
  }
  tensors.push(norm("model.norm.weight"));
  return tensors;
}
