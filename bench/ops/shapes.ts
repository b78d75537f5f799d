/** The sizes that ops are measured at: what one model's training and sampling ask of them. */

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
  /** Rows of logits in one chunk of the head. */
  readonly headRows: number;
  /** Tokens of a prompt that is prefilled alone. */
  readonly prefill: number;
  /** Sequences decoded at once. */
  readonly batches: readonly number[];
  /** A product of a larger model. */
  readonly large: { readonly M: number; readonly N: number; readonly K: number };
}

/** SmolLM2-135M: a micro-batch of 2048 tokens, decoding with about 330 tokens in the cache. */
export const smollm2: Shapes = {
  D: 576,
  F: 1536,
  H: 9,
  Hkv: 3,
  Dh: 64,
  V: 49152,
  prompt: 128,
  completion: 240,
  samples: 8,
  headRows: 128,
  prefill: 1024,
  batches: [1, 32],
  large: { M: 1024, N: 4096, K: 4096 },
};

/** T, the tokens of the packed group. */
export function packedTokens({ prompt, completion, samples }: Shapes): number {
  return prompt + samples * completion;
}
