/** Models that are measured without their weights, at the sizes in their config.json files; any other model by its folder. */
import { readModelConfig } from "../src/checkpoint/huggingface.ts";
import type { ModelConfig } from "../src/families/config.ts";
import { parseModelConfig } from "../src/families/families.ts";

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

const qwen3Large = {
  ...qwen3,
  ...{ hidden_size: 5120, intermediate_size: 25600, num_hidden_layers: 64, num_attention_heads: 64 },
  tie_word_embeddings: false,
};

const qwen2Small = {
  ...qwen2,
  ...{ vocab_size: 151936, hidden_size: 896, intermediate_size: 4864, num_hidden_layers: 24 },
  ...{ num_attention_heads: 14, num_key_value_heads: 2, tie_word_embeddings: true },
};

const smollm2 = {
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  vocab_size: 49152,
  hidden_size: 576,
  intermediate_size: 1536,
  num_hidden_layers: 30,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  max_position_embeddings: 8192,
  rms_norm_eps: 1e-5,
  rope_theta: 100000,
  tie_word_embeddings: true,
  hidden_act: "silu",
  dtype: "bfloat16",
  eos_token_id: 2,
};

export interface NamedModel {
  readonly name: string;
  readonly config: ModelConfig;
}

const named = (name: string, config: Record<string, unknown>): NamedModel => ({
  name,
  config: parseModelConfig(config, name),
});

const [small, large] = [named("Qwen3-0.6B", qwen3), named("Qwen2.5-7B", qwen2)];

/** The models of the roofline table. */
export const rooflineModels: readonly NamedModel[] = [small, large];
/** Those of the table of ranks. */
export const exchangedModels: readonly NamedModel[] = [small, large, named("Qwen3-32B", qwen3Large)];
export const models: readonly NamedModel[] = [
  named("SmolLM2-135M", smollm2),
  named("Qwen2.5-0.5B", qwen2Small),
  small,
  large,
];

/** A model by its name in the list, or else by its folder. @throws InputError for a folder without config.json */
export function modelNamed(name: string): NamedModel {
  const found = models.find((model) => model.name.toLowerCase() === name.toLowerCase());
  return found ?? { name, config: readModelConfig(name) };
}
