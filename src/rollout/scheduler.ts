/**
 * Continuous batching: which samples run now. Samples are admitted in order (prompt by prompt) as soon as a slot and
 * pages are free; a sample holds pages for its longest possible completion from the start, so nothing that runs ever
 * has to wait, and what waits always gets its turn. Requests may be added and dropped meanwhile. Leaves out all
 * computing (engine.ts).
 */

import type { RolloutLimits, RolloutSizes } from "./buffers.ts";
import { createPagePool, pagesFor } from "./pages.ts";
import type { ResidentPrompt, RolloutRequest, Sequence } from "./sequence.ts";

export interface Admission {
  /** Prompts that must be computed first. */
  readonly prefill: readonly ResidentPrompt[];
  /** New sequences; each needs its first token from its prompt's last row. */
  readonly sequences: readonly Sequence[];
}

export interface Scheduler {
  /** Sequences that run, in order of their slots' admission. */
  readonly running: readonly Sequence[];
  readonly waiting: number;
  /** Takes in what fits now; prompts of at most `prefillTokens` together. */
  admit(): Admission;
  /** Gives a finished sequence's slot and pages back. */
  finish(sequence: Sequence): void;
  /** Puts a request behind the others. */
  add(request: RolloutRequest): void;
  /** Ends a request's samples, waiting and running ones: the place is for others. Says how many it ended. */
  drop(request: number): number;
}

export function createScheduler(
  initial: readonly RolloutRequest[],
  limits: RolloutLimits,
  sizes: RolloutSizes,
): Scheduler {
  const requests = [...initial];
  const dropped = new Set<number>();
  const pool = createPagePool(sizes.pages);
  const freeSlots = Array.from({ length: limits.maxSequences }, (_, i) => limits.maxSequences - 1 - i);
  const freePromptSlots = Array.from({ length: limits.promptSlots }, (_, i) => limits.promptSlots - 1 - i);
  const completionPages = pagesFor(limits.maxCompletion);
  let running: Sequence[] = [];
  let request = 0; // the next sample to admit
  let sample = 0;
  let resident: ResidentPrompt | null = null; // of `request`, once it is in the cache
  let waiting = requests.reduce((sum, r) => sum + r.samples, 0);

  /** Puts a prompt into the cache, or null while there is no room for it and one completion. */
  const place = (index: number): ResidentPrompt | null => {
    const { promptIds, samples } = requests[index]!;
    const needed = pagesFor(promptIds.length);
    if (freePromptSlots.length === 0 || pool.free < needed + completionPages) return null;
    const pages = pool.take(needed)!;
    return { request: index, slot: freePromptSlots.pop()!, pages, length: promptIds.length, open: samples };
  };

  /** `samples` of a prompt's need its place no more; the last of them frees it. */
  const close = (prompt: ResidentPrompt, samples: number): void => {
    prompt.open -= samples;
    if (prompt.open > 0) return;
    freePromptSlots.push(prompt.slot);
    pool.give(prompt.pages);
  };

  return {
    get running() {
      return running;
    },
    get waiting() {
      return waiting;
    },
    admit() {
      const prefill: ResidentPrompt[] = [];
      const sequences: Sequence[] = [];
      let prefillTokens = 0;
      while (request < requests.length && freeSlots.length > 0) {
        const { promptIds, samples } = requests[request]!;
        if (samples === 0 || dropped.has(request)) {
          request++;
          continue;
        }
        if (!resident) {
          if (prefillTokens + promptIds.length > sizes.prefillTokens) break;
          resident = place(request);
          if (!resident) break;
          prefill.push(resident);
          prefillTokens += promptIds.length;
        }
        const pages = pool.take(completionPages);
        if (!pages) break;
        sequences.push({
          prompt: resident,
          sample,
          slot: freeSlots.pop()!,
          pages,
          ids: [],
          logprobs: [],
          samplingLogprobs: [],
        });
        waiting--;
        if (++sample === samples) {
          sample = 0;
          request++;
          resident = null;
        }
      }
      running = [...running, ...sequences];
      return { prefill, sequences };
    },
    finish(sequence) {
      running = running.filter((s) => s !== sequence);
      freeSlots.push(sequence.slot);
      pool.give(sequence.pages);
      close(sequence.prompt, 1);
    },
    add(added) {
      requests.push(added);
      waiting += added.samples;
    },
    drop(index) {
      if (dropped.has(index)) return 0;
      dropped.add(index);
      const { samples } = requests[index]!;
      const unadmitted = index > request ? samples : index === request ? samples - sample : 0;
      waiting -= unadmitted;
      const own = running.filter((s) => s.prompt.request === index);
      for (const sequence of own) this.finish(sequence);
      if (index === request) {
        if (resident) close(resident, unadmitted);
        request++;
        sample = 0;
        resident = null;
      }
      return unadmitted + own.length;
    },
  };
}
