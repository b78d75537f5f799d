/**
 * `ModelConfig`: a model's sizes, layers and parameter names, independent of its family. A family's file builds it from
 * config.json (`families.ts` chooses the family); all other code reads only this.
 */
import type { Layer, ParameterSpec } from "./layer.ts";

/** The output computed from the last hidden state: a logit per token, or one number (a value, a reward). */
export type ModelHead = "lm" | "score";
/** transformers' names for the types that weights are stored in. */
export type WeightDtype = "float32" | "float16" | "bfloat16";

/** A model's parameters by role, under the names of its family. */
export interface ModelParameters {
  readonly embedding: ParameterSpec; // (V, D)
  /** A layer by its index. Not a list, since config.json can claim more layers than fit in memory. */
  readonly layer: (index: number) => Layer<ParameterSpec>;
  /** Names of a layer's parameters begin with this, a dot and its index. */
  readonly layerPath: string;
  readonly finalNorm: ParameterSpec; // (D)
  readonly lmHead: ParameterSpec; // (V, D)
}

/** The adapters of a model, with PEFT's meanings (adapters.ts). */
export interface AdapterSettings {
  readonly rank: number;
  readonly alpha: number;
  /** The scale is alpha ÷ √rank (Kalajdzievski 2023, arXiv 2312.03732), not alpha ÷ rank. */
  readonly rslora: boolean;
  /** Names of projections, or the ends of their paths; a text is a pattern of whole paths, or `all-linear`. */
  readonly targets: readonly string[] | string;
  /** Ends of the paths of other modules, of which copies are trained. */
  readonly saved: readonly string[];
}

export interface ModelConfig extends ModelParameters {
  /** Prefix of transformers' class names: "Llama" in LlamaForCausalLM. */
  readonly family: string;
  readonly head: ModelHead;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly rmsNormEps: number;
  /** Multiplies the embedding's rows; 1 by default. */
  readonly embeddingScale?: number;
  /** Logits are cap · tanh(logits / cap); as they are by default. */
  readonly logitCap?: number;
  /** Of a model with experts: the weight in training of the loss of an unbalanced load. */
  readonly routerAuxLossCoef?: number;
  /** The LM head is the embedding, and `lmHead` is unused. */
  readonly tieWordEmbeddings: boolean;
  readonly maxPositionEmbeddings: number;
  /** As in the file; "float32" by default. */
  readonly dtype: WeightDtype;
  /** Empty if the model has none. */
  readonly eosTokenIds: readonly number[];
  readonly bosTokenId: number | null;
  readonly padTokenId: number | null;
  /** Low-rank matrices beside the weights, which are then frozen. */
  readonly adapters?: AdapterSettings;
  /** The object as read, for writing back. */
  readonly raw: Readonly<Record<string, unknown>>;
}

/** One kind of model. Each has a file in this folder and is listed in `families.ts`. */
export interface Family {
  /** Prefix of transformers' class names. */
  readonly name: string;
  /**
   * config.json → the model, with transformers' defaults.
   *
   * @param path of config.json, for messages
   * @throws InputError naming the file, the field and the cure: a missing, bad or unsupported field
   */
  readonly read: (json: Readonly<Record<string, unknown>>, path: string) => Omit<ModelConfig, "family" | "head">;
}

const heads: Record<ModelHead, string> = { lm: "ForCausalLM", score: "ForSequenceClassification" };

/** Families whose sequence classification has another prefix than their language model. */
const scorers: Readonly<Record<string, string>> = { Gemma3: "Gemma3Text" };

/** The class name that transformers and vLLM use for a model. */
export function architectureOf(family: string, head: ModelHead = "lm"): string {
  const prefix = head === "score" ? scorers[family] : undefined;
  return (prefix ?? family) + heads[head];
}

/** The same model with a scalar head in place of the LM head, as a transformers sequence classification config. */
export function withScalarHead(config: ModelConfig): ModelConfig {
  if (config.head === "score") return config;
  const raw = {
    ...config.raw,
    architectures: [architectureOf(config.family, "score")],
    id2label: { "0": "LABEL_0" },
    label2id: { LABEL_0: 0 },
  };
  return { ...config, head: "score", raw };
}
