/** The op sizes to measure: those of one model's training and sampling. */
import type { ModelConfig } from "../../src/families/config.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";

/** Letters as in src/device/device.ts. */
export interface Shapes {
  readonly D: number;
  readonly F: number;
  readonly H: number;
  readonly Hkv: number;
  readonly Dh: number;
  readonly V: number;
  /** A group as training packs it: one prompt and its completions, T = prompt + samples · completion. */
  readonly prompt: number;
  readonly completion: number;
  readonly samples: number;
  /** Rows of logits per chunk of the head. */
  readonly headRows: number;
  /** Tokens of a prompt that is prefilled alone. */
  readonly prefill: number;
  /** Sequences decoded at once. */
  readonly batches: readonly number[];
  /** A product of a larger model. */
  readonly large: { readonly M: number; readonly N: number; readonly K: number };
  /** Gradients of activations have the model's type (Device.gradientDType); else float32. */
  readonly modelGradients?: boolean;
}

/** The model's own sizes, from its first layer. */
export function modelShapes(config: ModelConfig): Pick<Shapes, "D" | "F" | "H" | "Hkv" | "Dh" | "V"> {
  const { attention, mlp } = config.layer(0);
  const { heads: H, kvHeads: Hkv, headDim: Dh } = attention.shape;
  return { D: config.hiddenSize, F: mlp.intermediateSize, H, Hkv, Dh, V: config.vocabSize };
}

/** "grad" of a model in `dtype`. */
export function gradientType({ modelGradients = false }: Shapes, dtype: ComputeDType): ComputeDType {
  return modelGradients ? dtype : "float32";
}

/** The variants that occur. */
export function gradientTypes(s: Shapes): ComputeDType[] {
  return s.modelGradients ? ["float32", "bfloat16"] : ["float32"];
}

/** For a processor: a micro-batch of 2048 tokens, decoding with about 330 tokens in the cache. */
export const processorLoad = {
  ...{ prompt: 128, completion: 240, samples: 8, headRows: 128, prefill: 1024, batches: [1, 32] },
  large: { M: 1024, N: 4096, K: 4096 },
} as const;

/** For a GPU: a micro-batch of 16,384 tokens, a group of 16 completions and a single long one; about 1,100 tokens in the cache. */
export const gpuLoad = {
  ...{ prompt: 128, completion: 1016, samples: 16, headRows: 441, prefill: 1024, batches: [1, 64] },
  large: { M: 8192, N: 8192, K: 8192 },
  modelGradients: true,
} as const;

/** For an emulated GPU, where every instruction counts: partially filled pages, a few blocks of each kernel. */
export const emulatedLoad = {
  ...{ prompt: 67, completion: 33, samples: 2, headRows: 5, prefill: 70, batches: [1, 3] },
  large: { M: 7, N: 33, K: 31 },
  modelGradients: true,
} as const;

/** SmolLM2-135M on a processor. */
export const smollm2: Shapes = { D: 576, F: 1536, H: 9, Hkv: 3, Dh: 64, V: 49152, ...processorLoad };

/** T, the tokens of the packed group. */
export function packedTokens({ prompt, completion, samples }: Shapes): number {
  return prompt + samples * completion;
}

/** Rows of per-token work: in the packed batch, and in decode steps. */
export function usesOf(s: Shapes): readonly (readonly ["training" | "decode", number])[] {
  return [["training", packedTokens(s)], ...s.batches.map((B) => ["decode", B] as const)];
}
