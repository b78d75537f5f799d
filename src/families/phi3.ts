/**
 * Phi-3 and Phi-4 (arXiv 2404.14219, 2412.08905): Llama's layers with one product for q, k and v and one for gate and up,
 * some with a sliding window.
 */
import type { Family } from "./config.ts";
import { type Defaults, readDecoderFields } from "./fields.ts";
import { llamaParameters } from "./llama.ts";

const defaults: Defaults = {
  ...{ kvHeads: null, headDim: null, maxPositions: 4096, bos: 1, eos: 32000, epsilon: 1e-5 },
  windows: { size: ({ sliding_window: window }) => window ?? null, slides: () => true, fixed: true },
};

export const phi3: Family = {
  name: "Phi3",
  read(json, path) {
    const fields = readDecoderFields(json, path, defaults);
    return { ...fields.common, ...llamaParameters(fields, { fused: true }) };
  },
};
