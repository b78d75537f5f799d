/** The two models of the roofline table, as their config.json files say. */
import { type ModelConfig, parseModelConfig } from "../../src/config/model.ts";

const qwen3 = {
  model_type: "qwen3",
  architectures: ["Qwen3ForCausalLM"],
  vocab_size: 151936,
  hidden_size: 1024,
  intermediate_size: 3072,
  num_hidden_layers: 28,
  num_attention_heads: 16,
  num_key_value_heads: 8,
  head_dim: 128,
  max_position_embeddings: 40960,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000,
  tie_word_embeddings: true,
  hidden_act: "silu",
  attention_bias: false,
  dtype: "bfloat16",
  eos_token_id: 151645,
};

const qwen2 = {
  model_type: "qwen2",
  architectures: ["Qwen2ForCausalLM"],
  vocab_size: 152064,
  hidden_size: 3584,
  intermediate_size: 18944,
  num_hidden_layers: 28,
  num_attention_heads: 28,
  num_key_value_heads: 4,
  max_position_embeddings: 32768,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000,
  tie_word_embeddings: false,
  hidden_act: "silu",
  dtype: "bfloat16",
  eos_token_id: 151645,
};

export interface RooflineModel {
  readonly name: string;
  readonly config: ModelConfig;
}

export const models: readonly RooflineModel[] = [
  { name: "Qwen3-0.6B", config: parseModelConfig(qwen3, "Qwen3-0.6B") },
  { name: "Qwen2.5-7B", config: parseModelConfig(qwen2, "Qwen2.5-7B") },
];
