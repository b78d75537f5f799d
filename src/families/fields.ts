/**
 * The fields of config.json that families share, with their checks. An unsupported field that would change the
 * computation is rejected by name. Dropout is ignored: GRPO's ratios need the same function in sampling and training.
 * Each family's own file builds its layers from the fields.
 */
import { z } from "zod";
import { entryOf } from "../config/entry.ts";
import type { AttentionShape } from "../device/device.ts";
import { InputError } from "../errors.ts";
import type { ModelConfig, ModelParameters, WeightDtype } from "./config.ts";
import type { Mlp } from "./layer.ts";
import { parseRope, type RopeConfig } from "./rope-settings.ts";

type Json = Readonly<Record<string, unknown>>;

const size = z
  .int()
  .positive()
  .max(2 ** 31);
const tokenId = z.int().min(0);
const fields = z.looseObject({
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: size,
  num_attention_heads: size,
  num_key_value_heads: size.nullish(),
  head_dim: size.nullish(),
  hidden_act: z.string().nullish(),
  hidden_activation: z.string().nullish(),
  max_position_embeddings: size.optional(),
  rms_norm_eps: z.number().min(0).optional(),
  tie_word_embeddings: z.boolean().nullish(),
  attention_bias: z.boolean().nullish(),
  mlp_bias: z.boolean().nullish(),
  bos_token_id: tokenId.nullish(),
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
  // Some models write −1 for "no padding token".
  pad_token_id: z.int().nullish(),
  dtype: z.string().nullish(),
  torch_dtype: z.string().nullish(),
  layer_types: z.array(z.string()).nullish(),
  sliding_window: size.nullish(),
  use_sliding_window: z.boolean().nullish(),
  max_window_layers: z.int().min(0).nullish(),
  sliding_window_pattern: size.nullish(),
  _sliding_window_pattern: size.nullish(),
});
export type Fields = z.output<typeof fields>;

/** A family's defaults for missing fields, as in transformers 5. */
export interface Defaults {
  /** null: as many as query heads */
  readonly kvHeads: number | null;
  /** null: hidden size ÷ query heads */
  readonly headDim: number | null;
  readonly maxPositions: number;
  readonly bos: number | null;
  readonly eos: number | null;
  /** 1e-6 by default, as `theta` is 10,000 and `tied` false. */
  readonly epsilon?: number;
  readonly theta?: number;
  readonly tied?: boolean;
  /** "silu" by default. */
  readonly activation?: string;
  /** The field of the activation; hidden_act by default. */
  readonly activationField?: "hidden_activation";
  /** Layers may have experts, whose fields the family reads. */
  readonly experts?: boolean;
  /** Reads the rotary settings of a family with its own. */
  readonly rope?: (json: Json, path: string, maxPositionEmbeddings: number) => RopeConfig;
  /** Missing: all layers have full attention. */
  readonly windows?: WindowDefaults;
}

/** Which layers of a family have a sliding window. */
export interface WindowDefaults {
  /** The window of a file, if it has any. */
  readonly size: (given: Fields) => number | null;
  /** Whether a layer has one. */
  readonly slides: (layer: number, given: Fields) => boolean;
  /** False: `layer_types` decides instead, if the file has it. */
  readonly fixed: boolean;
}

/** The fields of a model with a dense MLP in each layer. */
export interface DecoderFields {
  readonly given: Fields;
  /** By layer. */
  readonly attention: (layer: number) => AttentionShape;
  /** Whether a layer has a sliding window, even one that no sequence exceeds. */
  readonly slides: (layer: number) => boolean;
  readonly rope: RopeConfig;
  readonly activation: Mlp<unknown>["activation"];
  /** The part of a `ModelConfig` that is the same for every family. */
  readonly common: Omit<ModelConfig, "family" | "head" | keyof ModelParameters>;
}

/** @throws InputError naming the file, the field and the cure: a missing, bad or unsupported field */
export function readDecoderFields(json: Json, path: string, defaults: Defaults): DecoderFields {
  refuseUnsupported(json, path, defaults);
  const given = parseFields(fields, json, path);
  const shape = attentionOf(given, path, defaults);
  const activation = activationOf(given, path, defaults);
  const maxPositionEmbeddings = given.max_position_embeddings ?? defaults.maxPositions;
  const windowOf = windowsOf(given, path, defaults.windows);
  const attention = (layer: number): AttentionShape => {
    const window = windowOf(layer);
    return window !== null && window < maxPositionEmbeddings ? { ...shape, window } : shape;
  };
  const rope = (defaults.rope ?? parseRope)(json, path, maxPositionEmbeddings, { theta: defaults.theta });
  const eos = given.eos_token_id === undefined ? defaults.eos : given.eos_token_id;
  const pad = given.pad_token_id ?? null;
  const common = {
    vocabSize: given.vocab_size,
    hiddenSize: given.hidden_size,
    rmsNormEps: given.rms_norm_eps ?? defaults.epsilon ?? 1e-6,
    numLayers: given.num_hidden_layers,
    tieWordEmbeddings: given.tie_word_embeddings ?? defaults.tied ?? false,
    maxPositionEmbeddings,
    dtype: weightDtype(given.dtype ?? given.torch_dtype ?? "float32", path),
    eosTokenIds: typeof eos === "number" ? [eos] : (eos ?? []),
    bosTokenId: given.bos_token_id === undefined ? defaults.bos : given.bos_token_id,
    padTokenId: pad !== null && pad >= 0 ? pad : null,
    raw: json,
  };
  return { given, attention, slides: (layer) => windowOf(layer) !== null, rope, activation, common };
}

/** Rejects fields that change what the layers compute, in files with a supported model_type and architecture. */
function refuseUnsupported(json: Json, path: string, { experts = false }: Defaults): void {
  const isSet = (field: string) => json[field] !== undefined && json[field] !== null && json[field] !== false;
  const refuse = (field: string, cure: string): never => {
    throw new InputError(`${path}: ${field}: not supported; ${cure}`);
  };
  for (const field of ["num_experts", "num_local_experts", "n_routed_experts"])
    if (isSet(field) && !experts)
      refuse(field, "of mixtures of experts, only those of model_type qwen3_moe are; use another model");
}

/** A config.json's fields. @throws InputError naming the file and the field */
export function parseFields<S extends z.ZodType>(schema: S, json: Json, path: string): z.output<S> {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  const field = issue.path.join(".");
  const value = json[String(issue.path[0])];
  const problem = value === undefined ? "missing" : `${issue.message}, got ${JSON.stringify(value)}`;
  throw new InputError(`${path}: ${field}: ${problem}; take the value of the original model`);
}

function attentionOf(given: Fields, path: string, defaults: Defaults): AttentionShape {
  const heads = given.num_attention_heads;
  const kvDefault = given.num_key_value_heads === null ? null : defaults.kvHeads;
  const kvHeads = given.num_key_value_heads ?? kvDefault ?? heads;
  const refuse = (field: string, problem: string): never => {
    throw new InputError(`${path}: ${field}: ${problem}`);
  };
  if (heads % kvHeads !== 0)
    refuse("num_key_value_heads", `${kvHeads} does not divide num_attention_heads ${heads}; correct the fields`);
  const headDim = given.head_dim ?? defaults.headDim ?? given.hidden_size / heads;
  if (!Number.isInteger(headDim))
    refuse("hidden_size", `${given.hidden_size} is not a multiple of num_attention_heads ${heads}; add head_dim`);
  if (headDim % 2 !== 0) refuse("head_dim", `${headDim} is odd, and rotary embedding needs pairs; use another model`);
  return { heads, kvHeads, headDim, scale: 1 / Math.sqrt(headDim) };
}

const activations: Readonly<Record<string, DecoderFields["activation"]>> = {
  silu: "silu",
  swish: "silu",
  gelu_pytorch_tanh: "gelu_tanh",
  gelu_tanh: "gelu_tanh",
};

function activationOf(given: Fields, path: string, defaults: Defaults): DecoderFields["activation"] {
  const field = defaults.activationField ?? "hidden_act";
  const name = given[field] ?? defaults.activation ?? "silu";
  const activation = entryOf(activations, name);
  if (activation !== undefined) return activation;
  throw new InputError(
    `${path}: ${field}: "${name}" is not supported (silu, gelu_pytorch_tanh are); use another model`,
  );
}

const layerKinds: readonly string[] = ["full_attention", "sliding_attention"];

/** Checks `layer_types`; null if the file has none. */
function layerTypes({ layer_types: types, num_hidden_layers: layers }: Fields, path: string): string[] | null {
  if (!types) return null;
  const unknown = types.findIndex((type) => !layerKinds.includes(type));
  if (unknown >= 0)
    throw new InputError(
      `${path}: layer_types.${unknown}: "${types[unknown]}" is not supported, only ${layerKinds.join(" and ")}; use another model`,
    );
  if (types.length !== layers)
    throw new InputError(
      `${path}: layer_types: has ${types.length} ${types.length === 1 ? "entry" : "entries"}, num_hidden_layers is ${layers}; take the values of the original model`,
    );
  return types;
}

/** The window of each layer, null for full attention. */
function windowsOf(given: Fields, path: string, defaults?: WindowDefaults): (layer: number) => number | null {
  const types = layerTypes(given, path);
  if (!defaults && given.use_sliding_window)
    throw new InputError(
      `${path}: use_sliding_window: not supported for this model_type; use a model with full attention`,
    );
  const size = defaults?.size(given) ?? null;
  const byDefault = (layer: number) => size !== null && defaults!.slides(layer, given);
  types?.forEach((type, layer) => {
    const slides = type === "sliding_attention";
    if (defaults && !defaults.fixed ? slides && size === null : slides !== byDefault(layer))
      throw new InputError(
        `${path}: layer_types.${layer}: "${type}" does not agree with ${defaults ? "sliding_window" : "this model_type"}; take the values of the original model`,
      );
  });
  const slides = (layer: number) => (types ? types[layer] === "sliding_attention" : byDefault(layer));
  return (layer) => (slides(layer) ? size : null);
}

/** Qwen's windows: from layer `max_window_layers` on, if `use_sliding_window` says so. */
export const qwenWindows: WindowDefaults = {
  size: ({ use_sliding_window: used, sliding_window: window }) => (used ? (window ?? 4096) : null),
  slides: (layer, { max_window_layers: from }) => layer >= (from ?? 28),
  fixed: false,
};

const dtypes: readonly string[] = ["float32", "float16", "bfloat16"] satisfies WeightDtype[];

function weightDtype(text: string, path: string): WeightDtype {
  const name = text.replace(/^torch\./, "");
  if (name === "auto") return "float32";
  if (dtypes.includes(name)) return name as WeightDtype;
  throw new InputError(`${path}: dtype: "${text}" is not supported (${dtypes.join(", ")} are); convert the weights`);
}
