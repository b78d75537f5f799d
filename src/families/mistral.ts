/** Mistral (arXiv 2310.06825): Llama's layers without biases, and with a sliding window if the file does not say null. */
import type { Family } from "./config.ts";
import { type Defaults, readDecoderFields } from "./fields.ts";
import { llamaParameters } from "./llama.ts";

const defaults: Defaults = {
  ...{ kvHeads: 8, headDim: null, maxPositions: 131072, bos: 1, eos: 2 },
  windows: {
    size: ({ sliding_window: window }) => (window === undefined ? 4096 : window),
    slides: () => true,
    fixed: true,
  },
};

export const mistral: Family = {
  name: "Mistral",
  read(json, path) {
    const fields = readDecoderFields(json, path, defaults);
    return { ...fields.common, ...llamaParameters(fields, {}) };
  },
};
