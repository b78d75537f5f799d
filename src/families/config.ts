/**
 * `ModelConfig`: what a model is, whatever its family. A family's file makes it from config.json (`families.ts` chooses the
 * family); all else reads sizes, layers and parameter names from here.
 */
import type { Layer, ParameterSpec } from "./layer.ts";

/** What stands on the last hidden state: a logit per token, or one number (a value, a reward). */
export type ModelHead = "lm" | "score";
/** transformers' names of the types that weights are stored in. */
export type WeightDtype = "float32" | "float16" | "bfloat16";

/** A model's parameters by role, under the names of its family. */
export interface ModelParameters {
  readonly embedding: ParameterSpec; // (V, D)
  /** A layer by its index. No list, as config.json can claim more layers than memory could hold. */
  readonly layer: (index: number) => Layer<ParameterSpec>;
  /** The names of a layer's parameters begin with this, a dot and its index. */
  readonly layerPath: string;
  readonly finalNorm: ParameterSpec; // (D)
  readonly lmHead: ParameterSpec; // (V, D)
}

export interface ModelConfig extends ModelParameters {
  /** What transformers' class names begin with: "Llama" of LlamaForCausalLM. */
  readonly family: string;
  readonly head: ModelHead;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly rmsNormEps: number;
  /** The LM head is the embedding; `lmHead` is not read then. */
  readonly tieWordEmbeddings: boolean;
  readonly maxPositionEmbeddings: number;
  /** What the file says; "float32" where it says nothing. */
  readonly dtype: WeightDtype;
  /** Empty where the model has none. */
  readonly eosTokenIds: readonly number[];
  readonly bosTokenId: number | null;
  readonly padTokenId: number | null;
  /** The object as read, for writing back. */
  readonly raw: Readonly<Record<string, unknown>>;
}

/** One kind of model: a file of this folder each, listed in `families.ts`. */
export interface Family {
  /** What transformers' class names begin with. */
  readonly name: string;
  /**
   * config.json → the model, its defaults being transformers' own.
   *
   * @param path of config.json, for messages
   * @throws InputError naming the file, the field and the cure: a missing or bad field, one that is not supported
   */
  readonly read: (json: Readonly<Record<string, unknown>>, path: string) => Omit<ModelConfig, "family" | "head">;
}

const heads: Record<ModelHead, string> = { lm: "ForCausalLM", score: "ForSequenceClassification" };

/** The class name that transformers and vLLM know a model by. */
export function architectureOf(family: string, head: ModelHead = "lm"): string {
  return family + heads[head];
}

/** The same model with a head of one number in place of the LM head, as transformers' sequence classification spells it. */
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
