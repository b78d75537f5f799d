/**
 * Gemma 3's text models (arXiv 2503.19786): norms around attention and MLP and over each head of q and k, which multiply by
 * 1 + weight; most layers see a window and have a rotary embedding of their own; the embedding is scaled by √D.
 */
import { isObject } from "../config/json-file.ts";
import { InputError } from "../errors.ts";
import type { Family } from "./config.ts";
import { type Defaults, type Fields, readDecoderFields } from "./fields.ts";
import { llamaParameters } from "./llama.ts";
import { parseRope, type RopeConfig } from "./rope-settings.ts";

type Json = Readonly<Record<string, unknown>>;
type LayerType = "full_attention" | "sliding_attention";

const defaults: Defaults = {
  ...{ kvHeads: 4, headDim: 256, maxPositions: 131072, bos: 2, eos: 1, tied: true },
  ...{ activation: "gelu_pytorch_tanh", activationField: "hidden_activation" },
  windows: {
    size: ({ sliding_window: window }) => (window === undefined ? 4096 : window),
    slides: (layer, given) => (layer + 1) % patternOf(given) !== 0,
    fixed: false,
  },
  rope: (json, path, positions) => ropeOf(json, path, positions, "full_attention"),
};

/** Every n-th layer has full attention. */
function patternOf({ sliding_window_pattern: pattern, _sliding_window_pattern: saved }: Fields): number {
  return pattern ?? saved ?? 6;
}

/** Of one type of layers: `rope_parameters` by type, or transformers 4's `rope_theta` and `rope_local_base_freq`. */
function ropeOf(json: Json, path: string, positions: number, layers: LayerType): RopeConfig {
  const parameters = json.rope_parameters;
  if (isObject(parameters)) {
    const own = parameters[layers];
    if (!isObject(own))
      throw new InputError(
        `${path}: rope_parameters.${layers}: missing, this model_type has settings by type of layer; take the value of the original model`,
      );
    return parseRope({ rope_parameters: own }, path, positions, { theta: thetas[layers], layers });
  }
  const { rope_theta, rope_local_base_freq, rope_scaling } = json;
  if (layers === "full_attention")
    return parseRope({ rope_theta, rope_scaling }, path, positions, { theta: thetas[layers] });
  return parseRope({ rope_theta: rope_local_base_freq }, path, positions, { theta: thetas[layers] });
}

const thetas: Readonly<Record<LayerType, number>> = { full_attention: 1e6, sliding_attention: 1e4 };

export const gemma3: Family = {
  name: "Gemma3",
  read(json, path) {
    for (const [field, cure] of [
      ["attn_logit_softcapping", "attention's scores have no cap here or in transformers: set it to null"],
      ["use_bidirectional_attention", "only causal attention generates: use another model"],
    ] as const)
      if (json[field] !== undefined && json[field] !== null && json[field] !== false)
        throw new InputError(`${path}: ${field}: ${JSON.stringify(json[field])} is not supported; ${cure}`);
    const fields = readDecoderFields(json, path, defaults);
    const { common, rope } = fields;
    const scale = positive(json, path, "query_pre_attn_scalar", 256)! ** -0.5;
    const attention = (layer: number) => ({ ...fields.attention(layer), scale });
    const local = ropeOf(json, path, common.maxPositionEmbeddings, "sliding_attention");
    const biased = fields.given.attention_bias ?? false;
    const parameters = llamaParameters(
      { ...fields, attention },
      {
        ...{ inputBias: biased, outputBias: biased, headNorms: "each head", norms: "around", normOffset: 1 },
        rope: (layer) => (fields.slides(layer) ? local : rope),
      },
    );
    const cap = positive(json, path, "final_logit_softcapping", null);
    const scaled = { ...common, ...parameters, embeddingScale: Math.sqrt(common.hiddenSize) };
    return cap === null ? scaled : { ...scaled, logitCap: cap };
  },
};

function positive(json: Json, path: string, field: string, missing: number | null): number | null {
  const value = json[field] ?? missing;
  if (value === null || (typeof value === "number" && value > 0 && Number.isFinite(value))) return value;
  throw new InputError(
    `${path}: ${field}: ${JSON.stringify(value)} must be a number above 0; take the value of the original model`,
  );
}
