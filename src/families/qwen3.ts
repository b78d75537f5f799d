/**
 * Qwen3's dense models (arXiv 2505.09388): Llama's layers with norms over each head of q and k, and their own head
 * size.
 */
import type { Family } from "./config.ts";
import { type Defaults, qwenWindows, readDecoderFields } from "./fields.ts";
import { llamaParameters } from "./llama.ts";

const defaults: Defaults = {
  kvHeads: 32,
  headDim: 128,
  maxPositions: 32768,
  bos: null,
  eos: null,
  windows: qwenWindows,
};

export const qwen3: Family = {
  name: "Qwen3",
  read(json, path) {
    const fields = readDecoderFields(json, path, defaults);
    const attentionBias = fields.given.attention_bias ?? false;
    const biases = { inputBias: attentionBias, outputBias: attentionBias };
    return { ...fields.common, ...llamaParameters(fields, { ...biases, headNorms: "each head" }) };
  },
};
