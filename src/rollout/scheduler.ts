/**
 * Continuous batching: which samples run now. Samples are admitted in order (prompt by prompt) as soon as a slot and
 * pages are free; a sample holds pages for its longest possible completion from the start, so nothing that runs ever
 * has to wait, and what waits always gets its turn. Requests may be added and dropped meanwhile. Leaves out all
 * computing (passes.ts).
 */

import type { RolloutLimits, RolloutSizes } from "./buffers.ts";
import { createPagePool, pagesFor } from "./pages.ts";
import { type CachedSequence, newSequence, type ResidentPrompt, type RolloutRequest } from "./sequence.ts";

export interface Admission {
  /** Prompts that must be computed first. */
  readonly prefill: readonly ResidentPrompt[];
  /** New sequences; each needs its first token from its prompt's last row. */
  readonly sequences: readonly CachedSequence[];
}

export interface Scheduler {
  /** Sequences that hold a slot, in order of admission. */
  readonly running: readonly CachedSequence[];
  readonly waiting: number;
  /** Takes in what fits now; prompts of at most `prefillTokens` together. */
  admit(): Admission;
  /** Gives a finished sequence's slot and pages back. */
  finish(sequence: CachedSequence): void;
  /** Puts a request behind the others. */
  add(request: RolloutRequest): void;
  /** Ends a request's samples, waiting and running ones: their room is for others. */
  drop(place: number): void;
}

export function createScheduler(limits: RolloutLimits, sizes: RolloutSizes): Scheduler {
  const requests: RolloutRequest[] = [];
  const dropped = new Set<number>();
  const pool = createPagePool(sizes.pages);
  const freeSlots = Array.from({ length: limits.maxSequences }, (_, i) => limits.maxSequences - 1 - i);
  const freePromptSlots = Array.from({ length: limits.promptSlots }, (_, i) => limits.promptSlots - 1 - i);
  const completionPages = pagesFor(limits.maxCompletion);
  let running: CachedSequence[] = [];
  let place = 0; // of the request whose sample is admitted next
  let sample = 0;
  let resident: ResidentPrompt | null = null; // its prompt, once it is in the cache
  let waiting = 0;

  /** Puts a prompt into the cache, or null while there is no room for it and one completion. */
  const settle = (request: RolloutRequest): ResidentPrompt | null => {
    const needed = pagesFor(request.promptIds.length);
    if (freePromptSlots.length === 0 || pool.free < needed + completionPages) return null;
    const pages = pool.take(needed)!;
    return { request, slot: freePromptSlots.pop()!, pages, open: request.samples };
  };

  /** `samples` of a prompt's no longer need it; the last of them frees its room. */
  const close = (prompt: ResidentPrompt, samples: number): void => {
    prompt.open -= samples;
    if (prompt.open > 0) return;
    freePromptSlots.push(prompt.slot);
    pool.give(prompt.pages);
  };

  const toNextRequest = (): void => {
    place++;
    sample = 0;
    resident = null;
  };

  const finish = (sequence: CachedSequence): void => {
    running = running.filter((s) => s !== sequence);
    freeSlots.push(sequence.slot);
    pool.give(sequence.pages);
    close(sequence.prompt, 1);
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
      const sequences: CachedSequence[] = [];
      let prefillTokens = 0;
      while (place < requests.length && freeSlots.length > 0) {
        const request = requests[place]!;
        if (request.samples === 0 || dropped.has(place)) {
          toNextRequest();
          continue;
        }
        if (!resident) {
          const P = request.promptIds.length;
          if (prefillTokens + P > sizes.prefillTokens) break;
          resident = settle(request);
          if (!resident) break;
          prefill.push(resident);
          prefillTokens += P;
        }
        const pages = pool.take(completionPages);
        if (!pages) break;
        sequences.push(newSequence(resident, place, sample, freeSlots.pop()!, pages));
        waiting--;
        if (++sample === request.samples) toNextRequest();
      }
      running = [...running, ...sequences];
      return { prefill, sequences };
    },
    finish,
    add(request) {
      requests.push(request);
      waiting += request.samples;
    },
    drop(which) {
      if (dropped.has(which)) return;
      dropped.add(which);
      const { samples } = requests[which]!;
      const unadmitted = which > place ? samples : which === place ? samples - sample : 0;
      waiting -= unadmitted;
      for (const sequence of running) if (sequence.place === which) finish(sequence);
      if (which !== place) return;
      if (resident) close(resident, unadmitted);
      toNextRequest();
    },
  };
}
