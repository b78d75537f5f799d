/**
 * Which parameters a model has: names as in its Hugging Face checkpoint, shapes, and whether weight decay applies.
 * Llama, Qwen2 and Qwen3 share one structure and differ in biases and q/k norms;
 * the head is the LM's or a single row.
 */
import type { ModelConfig } from "./config.ts";

export interface ParameterSpec {
  readonly name: string;
  /** [N, K] of a matrix that maps K inputs to N outputs; [N] of a norm's weight or a bias. */
  readonly shape: readonly number[];
  /** AdamW's decoupled decay: matrices only, embeddings and head included. */
  readonly decays: boolean;
}

/** The head of a reward model or critic, (1, D), as transformers' sequence classification names it. */
export const scalarHead = "score.weight";

/** Every parameter in the order of the forward pass. */
export function parameterSpecs(config: ModelConfig): ParameterSpec[] {
  const { hiddenSize, intermediateSize, vocabSize, numHeads, numKvHeads, headDim } = config;
  const specs: ParameterSpec[] = [];
  const matrix = (name: string, n: number, k: number) => specs.push({ name, shape: [n, k], decays: true });
  const vector = (name: string, n: number) => specs.push({ name, shape: [n], decays: false });
  const linear = (name: string, n: number, k: number, bias: boolean) => {
    matrix(`${name}.weight`, n, k);
    if (bias) vector(`${name}.bias`, n);
  };
  matrix("model.embed_tokens.weight", vocabSize, hiddenSize);
  for (let layer = 0; layer < config.numLayers; layer++) {
    const at = `model.layers.${layer}`;
    vector(`${at}.input_layernorm.weight`, hiddenSize);
    linear(`${at}.self_attn.q_proj`, numHeads * headDim, hiddenSize, config.attentionInputBias);
    linear(`${at}.self_attn.k_proj`, numKvHeads * headDim, hiddenSize, config.attentionInputBias);
    linear(`${at}.self_attn.v_proj`, numKvHeads * headDim, hiddenSize, config.attentionInputBias);
    if (config.qkNorm) {
      vector(`${at}.self_attn.q_norm.weight`, headDim);
      vector(`${at}.self_attn.k_norm.weight`, headDim);
    }
    linear(`${at}.self_attn.o_proj`, hiddenSize, numHeads * headDim, config.attentionOutputBias);
    vector(`${at}.post_attention_layernorm.weight`, hiddenSize);
    linear(`${at}.mlp.gate_proj`, intermediateSize, hiddenSize, config.mlpBias);
    linear(`${at}.mlp.up_proj`, intermediateSize, hiddenSize, config.mlpBias);
    linear(`${at}.mlp.down_proj`, hiddenSize, intermediateSize, config.mlpBias);
  }
  vector("model.norm.weight", hiddenSize);
  if (config.head === "score") matrix(scalarHead, 1, hiddenSize);
  else if (!config.tieWordEmbeddings) matrix("lm_head.weight", vocabSize, hiddenSize);
  return specs;
}

/** Number of parameters, tied ones counted once. */
export function parameterCount(config: ModelConfig): number {
  return parameterSpecs(config).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
}
