/**
 * Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115): Llama's layers with biases on q, k and v, ignoring
 * `attention_bias`.
 */
import type { Family } from "./config.ts";
import { type Defaults, qwenWindows, readDecoderFields } from "./fields.ts";
import { llamaParameters } from "./llama.ts";

const defaults: Defaults = {
  kvHeads: 32,
  headDim: null,
  maxPositions: 32768,
  bos: null,
  eos: null,
  windows: qwenWindows,
};

export const qwen2: Family = {
  name: "Qwen2",
  read(json, path) {
    const fields = readDecoderFields(json, path, defaults);
    return { ...fields.common, ...llamaParameters(fields, { inputBias: true }) };
  },
};
