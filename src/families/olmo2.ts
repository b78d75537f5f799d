/**
 * OLMo 2 (arXiv 2501.00656): Llama's layers with the norms after attention and MLP instead of before them, and norms over
 * all heads of q and k at once.
 */
import type { Family } from "./config.ts";
import { type Defaults, readDecoderFields } from "./fields.ts";
import { llamaParameters } from "./llama.ts";

const defaults: Defaults = { kvHeads: null, headDim: null, maxPositions: 2048, bos: null, eos: 50279, epsilon: 1e-5 };

export const olmo2: Family = {
  name: "Olmo2",
  read(json, path) {
    const fields = readDecoderFields(json, path, defaults);
    const attentionBias = fields.given.attention_bias ?? false;
    const biases = { inputBias: attentionBias, outputBias: attentionBias };
    return { ...fields.common, ...llamaParameters(fields, { ...biases, norms: "after", headNorms: "all heads" }) };
  },
};
