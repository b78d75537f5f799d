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
  hidden_act: z.string().default("silu"),
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
});
type Fields = z.output<typeof fields>;

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
}

/** The fields of a model with full attention and a dense MLP in each layer. */
export interface DecoderFields {
  readonly given: Fields;
  readonly attention: AttentionShape;
  readonly rope: RopeConfig;
  readonly activation: Mlp<unknown>["activation"];
  /** The part of a `ModelConfig` that is the same for every family. */
  readonly common: Omit<ModelConfig, "family" | "head" | keyof ModelParameters>;
}

/** @throws InputError naming the file, the field and the cure: a missing, bad or unsupported field */
export function readDecoderFields(json: Json, path: string, defaults: Defaults): DecoderFields {
  refuseUnsupported(json, path);
  const given = parseFields(json, path);
  const attention = attentionOf(given, path, defaults);
  const activation = activationOf(given, path);
  requireFullAttention(given, path);
  const maxPositionEmbeddings = given.max_position_embeddings ?? defaults.maxPositions;
  const rope = parseRope(json, path, maxPositionEmbeddings, defaults.theta);
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
  return { given, attention, rope, activation, common };
}

/** Rejects fields that change what the layers compute, in files with a supported model_type and architecture. */
function refuseUnsupported(json: Json, path: string): void {
  const isSet = (field: string) => json[field] !== undefined && json[field] !== null && json[field] !== false;
  const refuse = (field: string, cure: string): never => {
    throw new InputError(`${path}: ${field}: not supported; ${cure}`);
  };
  if (isSet("quantization_config")) refuse("quantization_config", "use the model's unquantized weights");
  if (isSet("use_sliding_window")) refuse("use_sliding_window", "use a model with full attention");
  for (const field of ["num_experts", "num_local_experts", "n_routed_experts"])
    if (isSet(field)) refuse(field, "mixture-of-experts layers are not supported; use a dense model");
}

function parseFields(json: Json, path: string): Fields {
  const parsed = fields.safeParse(json);
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

function activationOf({ hidden_act }: Fields, path: string): DecoderFields["activation"] {
  const activation = entryOf(activations, hidden_act);
  if (activation !== undefined) return activation;
  throw new InputError(
    `${path}: hidden_act: "${hidden_act}" is not supported (silu, gelu_pytorch_tanh are); use another model`,
  );
}

function requireFullAttention({ layer_types: types, num_hidden_layers: layers }: Fields, path: string): void {
  types?.forEach((type, i) => {
    if (type !== "full_attention")
      throw new InputError(
        `${path}: layer_types.${i}: "${type}" is not supported, only full_attention; use another model`,
      );
  });
  if (types && types.length !== layers)
    throw new InputError(
      `${path}: layer_types: has ${types.length} ${types.length === 1 ? "entry" : "entries"}, num_hidden_layers is ${layers}; take the values of the original model`,
    );
}

const dtypes: readonly string[] = ["float32", "float16", "bfloat16"] satisfies WeightDtype[];

function weightDtype(text: string, path: string): WeightDtype {
  const name = text.replace(/^torch\./, "");
  if (name === "auto") return "float32";
  if (dtypes.includes(name)) return name as WeightDtype;
  throw new InputError(`${path}: dtype: "${text}" is not supported (${dtypes.join(", ")} are); convert the weights`);
}
