/** A rollout's requests, its sequences in progress, and its results. */
import type { SamplingSettings } from "../device/device.ts";
import type { TokenRoutes } from "../model/routes.ts";
import type { StopMatcher } from "../tokenizer/tokenizer.ts";

export interface RolloutSettings extends SamplingSettings {
  /** Training step: part of the random numbers' key. */
  readonly step: number;
  readonly maxCompletionLength: number;
  readonly isStop: (id: number) => boolean;
  /** Creates a completion's matcher for stop strings; null or absent: there are none. */
  readonly stopStrings?: (() => StopMatcher) | null;
  /** Record the experts that tokens go to; false by default. */
  readonly recordsRoutes?: boolean;
}

/** One prompt and how many completions to sample for it. */
export interface RolloutRequest {
  readonly promptIds: Int32Array; // (P), P ≥ 1
  readonly samples: number;
  /** The prompt's index within the step: part of the random numbers' key. */
  readonly prompt: number;
}

/** How a sequence ended. */
export interface Ending {
  /** By a stop token or a stop string; false: cut at the length limit. */
  readonly finished: boolean;
  /** The stop string that ended it, if any. */
  readonly stop?: string;
}

export interface SampledCompletion extends Ending {
  readonly completionIds: Int32Array; // (R)
  /**
   * Log-probability of each token at the sampling temperature, before penalty and truncation; 0 for forced ones. (R)
   */
  readonly logprobs: Float32Array;
  /** The same under the distribution actually sampled from. (R) */
  readonly samplingLogprobs: Float32Array;
  /** 1: the token was sampled, 0: it was forced; null: none was forced. (R) */
  readonly mask: Uint8Array | null;
  /** The experts that its tokens went to; null: not recorded, or the model has none. */
  readonly routes: TokenRoutes | null;
}

/** One sample being decoded, as the caller sees it. */
export interface Sequence {
  /** Index of its request, in the order of `add`. */
  readonly place: number;
  readonly sample: number;
  readonly ids: readonly number[];
  /** Of each of `ids`, as in `SampledCompletion`. */
  readonly logprobs: readonly number[];
  /** Null while it runs. */
  readonly ending: Ending | null;
}

/** A prompt whose keys and values are in the cache for as long as one of its samples needs them. */
export interface ResidentPrompt {
  readonly request: RolloutRequest;
  readonly slot: number;
  readonly pages: Int32Array;
  /** Samples that have not finished, including waiting ones. */
  open: number;
  /** The experts that its tokens went to (P, layers, perToken); null: not recorded. */
  routes: Uint16Array | null;
}

/** A sequence with its slot and pages. */
export interface CachedSequence extends Sequence {
  readonly prompt: ResidentPrompt;
  readonly slot: number;
  readonly pages: Int32Array;
  readonly ids: number[];
  readonly logprobs: number[];
  readonly samplingLogprobs: number[];
  /** As in `SampledCompletion`. */
  mask: number[] | null;
  /** The experts of each token that another one follows, (layers, perToken); empty: not recorded. */
  readonly routes: Uint16Array[];
  /** Tokens that will replace the next sampled ones. */
  readonly forced: number[];
  /** Its row in the last queued step, whose token is not known yet; -1: every token is known. */
  row: number;
  /** Its slot's marks for the repetition penalty are of other tokens: of a former sequence, or sampled and not wanted. */
  mismarked: boolean;
  /** Created when the first token is checked. */
  matcher: StopMatcher | null;
  ending: Ending | null;
}

export function newSequence(
  prompt: ResidentPrompt,
  place: number,
  sample: number,
  slot: number,
  pages: Int32Array,
): CachedSequence {
  const tokens = { ids: [], logprobs: [], samplingLogprobs: [], mask: null, routes: [], forced: [] };
  return { prompt, place, sample, slot, pages, ...tokens, row: -1, mismarked: true, matcher: null, ending: null };
}
