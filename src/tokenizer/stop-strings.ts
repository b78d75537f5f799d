/**
 * Stop strings: a completion ends with the token that makes its text contain one, wherever the token boundaries are.
 * The rule is that of transformers' `stop_strings`: the string may begin and end within tokens, and the token that
 * completes it is kept, with anything after the string in it. Only the completion's text counts, with special tokens as
 * they are spelled, so a stop string cannot begin in the prompt.
 *
 * Text is decoded as tokens come, and only the part in which a stop string can still begin is kept, so a token costs the
 * same however long the completion is.
 */
import type { IncrementalDecoder } from "./decoder.ts";

/** Watches one completion. */
export interface StopMatcher {
  /** @returns the stop string that this token completes (of several the first in the list), or null */
  push(id: number): string | null;
}

/**
 * @param strings at least one, none empty
 * @param decoder makes a decoder for one completion, which shows special tokens
 * @returns makes the matcher of one completion
 */
export function stopMatchers(strings: readonly string[], decoder: () => IncrementalDecoder): () => StopMatcher {
  if (strings.length === 0 || strings.includes("")) throw new RangeError("stop strings: at least one, and none empty");
  const reach = Math.max(...strings.map((text) => text.length)) - 1;
  return () => {
    const incremental = decoder();
    let tail = ""; // the end of the final text, in which a stop string may have begun
    return {
      push(id) {
        const settled = tail + incremental.push(id);
        const text = settled + incremental.pending();
        tail = reach === 0 ? "" : settled.slice(-reach);
        return strings.find((stop) => text.includes(stop)) ?? null;
      },
    };
  };
}
