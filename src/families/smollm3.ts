/**
 * SmolLM3 (Hugging Face, 2025): Llama's layers, some of which (by default every fourth) have no rotary embedding (Yang et
 * al. 2025, arXiv 2501.18795).
 */
import { z } from "zod";
import { InputError } from "../errors.ts";
import type { Family } from "./config.ts";
import { type Defaults, readDecoderFields } from "./fields.ts";
import { llamaParameters } from "./llama.ts";
import { noRope } from "./rope-settings.ts";

const defaults: Defaults = {
  ...{ kvHeads: 4, headDim: null, maxPositions: 32768, bos: 128000, eos: 128001 },
  ...{ theta: 2e6, tied: true },
  windows: {
    size: ({ use_sliding_window: used, sliding_window: window }) => (used ? (window ?? null) : null),
    // transformers' rule; its models have none
    slides: (layer, given) => !rotatedLayers(given, "", given.num_hidden_layers)(layer),
    fixed: false,
  },
};

export const smollm3: Family = {
  name: "SmolLM3",
  read(json, path) {
    const fields = readDecoderFields(json, path, defaults);
    const attentionBias = fields.given.attention_bias ?? false;
    const mlpBias = fields.given.mlp_bias ?? false;
    const rotates = rotatedLayers(json, path, fields.common.numLayers);
    const parts = {
      ...{ inputBias: attentionBias, outputBias: attentionBias, mlpBias },
      rope: (layer: number) => (rotates(layer) ? fields.rope : noRope),
    };
    return { ...fields.common, ...llamaParameters(fields, parts) };
  },
};

/** Which layers rotate: those that `no_rope_layers` marks with 1, else all but each `no_rope_layer_interval`-th. */
function rotatedLayers(
  { no_rope_layers: marks, no_rope_layer_interval: interval = 4 }: Readonly<Record<string, unknown>>,
  path: string,
  layers: number,
): (layer: number) => boolean {
  const refuse = (field: string, problem: string): never => {
    throw new InputError(`${path}: ${field}: ${problem}; take the value of the original model`);
  };
  if (marks === undefined || marks === null) {
    const every = z.int().positive().safeParse(interval);
    if (!every.success)
      return refuse("no_rope_layer_interval", `must be a whole number ≥ 1, got ${JSON.stringify(interval)}`);
    return (layer) => (layer + 1) % every.data !== 0;
  }
  const listed = z.array(z.union([z.literal(0), z.literal(1)])).safeParse(marks);
  if (!listed.success) return refuse("no_rope_layers", "must be a list of 0 (no rotary embedding) and 1");
  if (listed.data.length < layers)
    return refuse("no_rope_layers", `has ${listed.data.length} entries, num_hidden_layers is ${layers}`);
  return (layer) => listed.data[layer] === 1;
}
