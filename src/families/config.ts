/**
 * A model's config.json (Llama, Qwen2, Qwen3; with an LM head or a scalar one) → `ModelConfig`, with transformers' defaults where a field is absent.
 * Whatever would change the computation and is not supported is refused by name. Dropout in the file is ignored: GRPO's
 * ratios need the same function in sampling and training. Weights are read elsewhere (`checkpoint/`).
 */

import { z } from "zod";
import { entryOf } from "../config/entry.ts";
import { isObject } from "../config/json-file.ts";
import { InputError } from "../errors.ts";
import { parseRope, type RopeConfig } from "./rope-settings.ts";

export type ModelType = "llama" | "qwen2" | "qwen3";
/** What stands on the last hidden state: a logit per token, or one number (a value, a reward). */
export type ModelHead = "lm" | "score";
/** transformers' names of the types that weights are stored in. */
export type WeightDtype = "float32" | "float16" | "bfloat16";

export interface ModelConfig {
  readonly modelType: ModelType;
  readonly head: ModelHead;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  /** Not always hiddenSize ÷ numHeads. Even. */
  readonly headDim: number;
  readonly rmsNormEps: number;
  readonly activation: "silu" | "gelu_tanh";
  readonly tieWordEmbeddings: boolean;
  /** Bias on the q, k and v projections. */
  readonly attentionInputBias: boolean;
  /** Bias on the o projection. */
  readonly attentionOutputBias: boolean;
  readonly mlpBias: boolean;
  /** RMSNorm over each head of q and k, before rotation. */
  readonly qkNorm: boolean;
  readonly maxPositionEmbeddings: number;
  readonly rope: RopeConfig;
  /** What the file says; "float32" where it says nothing. */
  readonly dtype: WeightDtype;
  /** Empty where the model has none. */
  readonly eosTokenIds: readonly number[];
  readonly bosTokenId: number | null;
  readonly padTokenId: number | null;
  /** The object as read, for writing back. */
  readonly raw: Readonly<Record<string, unknown>>;
}

const families: Record<ModelType, string> = { llama: "Llama", qwen2: "Qwen2", qwen3: "Qwen3" };
const heads: Record<ModelHead, string> = { lm: "ForCausalLM", score: "ForSequenceClassification" };
const activations: Readonly<Record<string, ModelConfig["activation"]>> = {
  silu: "silu",
  swish: "silu",
  gelu_pytorch_tanh: "gelu_tanh",
  gelu_tanh: "gelu_tanh",
};
const dtypes: readonly string[] = ["float32", "float16", "bfloat16"] satisfies WeightDtype[];

/** transformers 5's defaults that differ by model type. */
const defaults = {
  llama: { kvHeads: null, headDim: null, maxPositions: 2048, bos: 1, eos: 2 },
  qwen2: { kvHeads: 32, headDim: null, maxPositions: 32768, bos: null, eos: null },
  qwen3: { kvHeads: 32, headDim: 128, maxPositions: 32768, bos: null, eos: null },
} as const;

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
  rms_norm_eps: z.number().min(0).default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.boolean().nullish(),
  mlp_bias: z.boolean().nullish(),
  bos_token_id: tokenId.nullish(),
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
  // −1 is how some models spell "no padding token".
  pad_token_id: z.int().nullish(),
  dtype: z.string().nullish(),
  torch_dtype: z.string().nullish(),
  layer_types: z.array(z.string()).nullish(),
});

/** The class name that transformers and vLLM know this model by. */
export function architectureOf(modelType: ModelType, head: ModelHead = "lm"): string {
  return families[modelType] + heads[head];
}

/** The same model with a head of one number in place of the LM head, as transformers' sequence classification spells it. */
export function withScalarHead(config: ModelConfig): ModelConfig {
  if (config.head === "score") return config;
  const raw = {
    ...config.raw,
    architectures: [architectureOf(config.modelType, "score")],
    id2label: { "0": "LABEL_0" },
    label2id: { LABEL_0: 0 },
  };
  return { ...config, head: "score", raw };
}

/**
 * @param json config.json, parsed
 * @param path its path, for messages
 * @param wanted the head that the caller needs; "either" takes both
 * @throws InputError naming the file, the field and the cure: a missing or bad field, an unsupported model, another head
 */
export function parseModelConfig(json: unknown, path: string, wanted: ModelHead | "either" = "lm"): ModelConfig {
  if (!isObject(json)) throw new InputError(`${path}: holds no JSON object ({…}); download or copy the file again`);
  const { modelType, head } = supportedType(json, path);
  requireHead(json, path, head, wanted);
  refuseUnsupported(json, path);
  const parsed = fields.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    const field = issue.path.join(".");
    const value = json[String(issue.path[0])];
    const problem = value === undefined ? "missing" : `${issue.message}, got ${JSON.stringify(value)}`;
    throw new InputError(`${path}: ${field}: ${problem}; take the value of the original model`);
  }
  const given = parsed.data;
  const byType = defaults[modelType];
  const refuse = (field: string, problem: string): never => {
    throw new InputError(`${path}: ${field}: ${problem}`);
  };

  const numHeads = given.num_attention_heads;
  const kvDefault = given.num_key_value_heads === null ? null : byType.kvHeads;
  const numKvHeads = given.num_key_value_heads ?? kvDefault ?? numHeads;
  if (numHeads % numKvHeads !== 0)
    refuse("num_key_value_heads", `${numKvHeads} does not divide num_attention_heads ${numHeads}; correct the fields`);
  const headDim = given.head_dim ?? byType.headDim ?? given.hidden_size / numHeads;
  if (!Number.isInteger(headDim))
    refuse("hidden_size", `${given.hidden_size} is no multiple of num_attention_heads ${numHeads}; add head_dim`);
  if (headDim % 2 !== 0) refuse("head_dim", `${headDim} is odd, and rotary embedding needs pairs; use another model`);

  const activation = entryOf(activations, given.hidden_act);
  if (activation === undefined)
    refuse("hidden_act", `"${given.hidden_act}" is not supported (silu, gelu_pytorch_tanh are); use another model`);
  given.layer_types?.forEach((type, i) => {
    if (type !== "full_attention")
      refuse(`layer_types.${i}`, `"${type}" is not supported, only full_attention; use another model`);
  });

  const types = given.layer_types?.length;
  if (types !== undefined && types !== given.num_hidden_layers)
    refuse(
      "layer_types",
      `has ${types} ${types === 1 ? "entry" : "entries"}, num_hidden_layers is ${given.num_hidden_layers}; take the values of the original model`,
    );

  const maxPositionEmbeddings = given.max_position_embeddings ?? byType.maxPositions;
  const attentionBias = given.attention_bias ?? false;
  const eos = given.eos_token_id === undefined ? byType.eos : given.eos_token_id;
  const pad = given.pad_token_id ?? null;
  return {
    modelType,
    head,
    vocabSize: given.vocab_size,
    hiddenSize: given.hidden_size,
    intermediateSize: given.intermediate_size,
    numLayers: given.num_hidden_layers,
    numHeads,
    numKvHeads,
    headDim,
    rmsNormEps: given.rms_norm_eps,
    activation: activation!,
    tieWordEmbeddings: given.tie_word_embeddings,
    attentionInputBias: modelType === "qwen2" || attentionBias,
    attentionOutputBias: modelType !== "qwen2" && attentionBias,
    mlpBias: modelType === "llama" && (given.mlp_bias ?? false),
    qkNorm: modelType === "qwen3",
    maxPositionEmbeddings,
    rope: parseRope(json, path, maxPositionEmbeddings),
    dtype: weightDtype(given.dtype ?? given.torch_dtype ?? "float32", path),
    eosTokenIds: typeof eos === "number" ? [eos] : (eos ?? []),
    bosTokenId: given.bos_token_id === undefined ? byType.bos : given.bos_token_id,
    padTokenId: pad !== null && pad >= 0 ? pad : null,
    raw: json,
  };
}

function supportedType(json: Record<string, unknown>, path: string): { modelType: ModelType; head: ModelHead } {
  const type = json.model_type;
  if (type === undefined) throw new InputError(`${path}: model_type: missing; is this a model's config.json?`);
  if (typeof type !== "string" || !Object.hasOwn(families, type))
    throw new InputError(
      `${path}: model_type: ${JSON.stringify(type)} is not supported (llama, qwen2, qwen3 are); use another model`,
    );
  const modelType = type as ModelType;
  const named = json.architectures ?? [architectureOf(modelType)];
  for (const head of ["lm", "score"] as const)
    if (Array.isArray(named) && named.length > 0 && named.every((name) => name === architectureOf(modelType, head)))
      return { modelType, head };
  throw new InputError(
    `${path}: architectures: ${JSON.stringify(named)} is not supported for model_type "${type}", only ` +
      `["${architectureOf(modelType)}"] and, as reward model and critic, ["${architectureOf(modelType, "score")}"]; use another model`,
  );
}

/** A model with an LM head cannot score, one with a scalar head cannot write. */
function requireHead(json: Record<string, unknown>, path: string, head: ModelHead, wanted: ModelHead | "either"): void {
  if (wanted === "lm" && head === "score")
    throw new InputError(
      `${path}: architectures: ${JSON.stringify(json.architectures)} scores text and writes none; give a causal language model here, and this one in reward_funcs or critic_model`,
    );
  if (wanted === "score" && head === "lm")
    throw new InputError(
      `${path}: architectures: ${JSON.stringify(json.architectures ?? "missing")} is a language model without a head that scores; give a sequence classification model with one label`,
    );
  if (head === "lm") return;
  // transformers counts the labels, takes num_labels without them, and 2 without either
  const labels = isObject(json.id2label) ? Object.keys(json.id2label).length : (json.num_labels ?? 2);
  if (labels !== 1)
    throw new InputError(
      `${path}: num_labels: ${JSON.stringify(labels)} is not supported, a reward model or critic has 1; use a model trained to score`,
    );
}

/** Fields that change what the layers compute, in files whose model_type and architecture look familiar. */
function refuseUnsupported(json: Record<string, unknown>, path: string): void {
  const isSet = (field: string) => json[field] !== undefined && json[field] !== null && json[field] !== false;
  const refuse = (field: string, cure: string): never => {
    throw new InputError(`${path}: ${field}: not supported; ${cure}`);
  };
  if (isSet("quantization_config")) refuse("quantization_config", "use the model's unquantized weights");
  if (isSet("use_sliding_window")) refuse("use_sliding_window", "use a model with full attention");
  for (const field of ["num_experts", "num_local_experts", "n_routed_experts"])
    if (isSet(field)) refuse(field, "mixture-of-experts layers are not there; use a dense model");
}

function weightDtype(text: string, path: string): WeightDtype {
  const name = text.replace(/^torch\./, "");
  if (name === "auto") return "float32";
  if (dtypes.includes(name)) return name as WeightDtype;
  throw new InputError(`${path}: dtype: "${text}" is not supported (${dtypes.join(", ")} are); convert the weights`);
}
