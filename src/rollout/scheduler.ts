/**
 * Continuous batching: decides which samples run. Samples are admitted in order, prompt by prompt, as soon as a slot
 * and pages are free; how many prompts are in the cache is limited by pages alone, because groups end one long completion
 * at a time. A sample reserves pages for its longest possible completion, so a running sample never has to
 * wait, and a waiting one always gets its turn. Requests may be added and dropped at any time. passes.ts does the
 * computing.
 */

import type { RolloutLimits, RolloutSizes } from "./buffers.ts";
import { createPagePool, pagesFor } from "./pages.ts";
import { type CachedSequence, newSequence, type ResidentPrompt, type RolloutRequest } from "./sequence.ts";

export interface Admission {
  /** Prompts to prefill first. */
  readonly prefill: readonly ResidentPrompt[];
  /** New sequences; each needs its first token from its prompt's last row. */
  readonly sequences: readonly CachedSequence[];
}

export interface Scheduler {
  /** Sequences that hold a slot, in order of admission. */
  readonly running: readonly CachedSequence[];
  readonly waiting: number;
  /** Admits what fits now; new prompts have at most `prefillTokens` tokens together. */
  admit(): Admission;
  /** Frees a finished sequence's slot and pages. */
  finish(sequence: CachedSequence): void;
  /** Queues a request after the others. */
  add(request: RolloutRequest): void;
  /** Ends a request's waiting and running samples and frees their slots and pages. */
  drop(place: number): void;
}

export function createScheduler(limits: RolloutLimits, sizes: RolloutSizes): Scheduler {
  const requests: RolloutRequest[] = [];
  const dropped = new Set<number>();
  const pool = createPagePool(sizes.pages);
  const freeSlots = Array.from({ length: limits.maxSequences }, (_, i) => limits.maxSequences - 1 - i);
  const freePromptSlots = [...freeSlots]; // enough: every prompt in the cache has a running sample or is the next one's
  const completionPages = pagesFor(limits.maxCompletion);
  let running: CachedSequence[] = [];
  let place = 0; // of the request whose sample is admitted next
  let sample = 0;
  let resident: ResidentPrompt | null = null; // that request's prompt, once it is in the cache
  let waiting = 0;

  /** Reserves room in the cache for a prompt; null while there is no room for it and one completion. */
  const settle = (request: RolloutRequest): ResidentPrompt | null => {
    const needed = pagesFor(request.promptIds.length);
    if (pool.free < needed + completionPages) return null;
    const pages = pool.take(needed)!;
    return { request, slot: freePromptSlots.pop()!, pages, open: request.samples, routes: null };
  };

  /** Releases a prompt for `samples` of its samples; the last one frees its room. */
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
