/** What the rollout is asked for, what it is working on, and what it gives back. */

/** One prompt and how many completions to sample for it. */
export interface RolloutRequest {
  readonly promptIds: Int32Array; // (P), P ≥ 1
  readonly samples: number;
  /** The prompt's index within the step: part of the random numbers' key. */
  readonly prompt: number;
}

export interface SampledCompletion {
  readonly completionIds: Int32Array; // (R)
  /** Log-probability of each token at the sampling temperature, before penalty and truncation. (R) */
  readonly logprobs: Float32Array;
  /** The same of the distribution really drawn from. (R) */
  readonly samplingLogprobs: Float32Array;
  /** Ended by a stop token or a stop string; false: cut at the length limit. */
  readonly finished: boolean;
  /** The stop string that ended it; absent: none did. */
  readonly stop?: string;
}

/** A prompt whose keys and values lie in the cache, for as long as one of its samples needs them. */
export interface ResidentPrompt {
  readonly request: number;
  readonly slot: number;
  readonly pages: Int32Array;
  readonly length: number;
  /** Samples not finished yet, waiting ones included. */
  open: number;
}

/** One sample being decoded. */
export interface Sequence {
  readonly prompt: ResidentPrompt;
  readonly sample: number;
  readonly slot: number;
  readonly pages: Int32Array;
  readonly ids: number[];
  readonly logprobs: number[];
  readonly samplingLogprobs: number[];
}
