/** How much a rollout holds at once, by a run's settings and what it samples. */
import { promptSlotsFor, type RolloutLimits } from "../rollout/buffers.ts";

/** Prompts evaluated at once: each has a completion of its own, so each takes a prompt's pages. */
const EVALUATED_AT_ONCE = 32;

/** What a rollout of groups of `samples`, and an evaluation of one sample a prompt beside it, must hold. */
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
  const together = Math.max(promptSlotsFor(maxSequences, samples), evaluates ? EVALUATED_AT_ONCE : 1);
  return {
    maxSequences,
    promptSlots: Math.min(maxSequences, together),
    longestPrompt,
    maxCompletion,
    penalized: options.repetitionPenalty !== 1,
  };
}
