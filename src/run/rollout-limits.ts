/** How much a rollout holds at once, from a run's settings. */
import { promptRoomFor, type RolloutLimits } from "../rollout/buffers.ts";

/** Prompts evaluated at once, each with a single completion, so each needs pages for its prompt. */
const EVALUATED_AT_ONCE = 32;

/** Limits for rollouts of groups of `samples`, and for evaluations with one sample per prompt. */
export function rolloutLimits(options: {
  readonly maxConcurrentSequences: number;
  /** Completions of the largest rollout. */
  readonly completions: number;
  readonly samples: number;
  readonly evaluates: boolean;
  readonly longestPrompt: number;
  readonly maxCompletion: number;
  readonly repetitionPenalty: number;
}): RolloutLimits {
  const { maxConcurrentSequences, completions, samples, evaluates, longestPrompt, maxCompletion } = options;
  const wanted = Math.max(completions, evaluates ? EVALUATED_AT_ONCE : 1);
  const maxSequences = Math.min(maxConcurrentSequences, wanted);
  const together = Math.max(promptRoomFor(maxSequences, samples), evaluates ? EVALUATED_AT_ONCE : 1);
  return {
    maxSequences,
    promptRoom: Math.min(maxSequences, together),
    longestPrompt,
    maxCompletion,
    penalized: options.repetitionPenalty !== 1,
  };
}
