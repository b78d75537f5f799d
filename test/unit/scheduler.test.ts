import { describe, expect, test } from "bun:test";
import { type RolloutLimits, rolloutSizes } from "../../src/rollout/buffers.ts";
import { createPagePool, pagesFor } from "../../src/rollout/pages.ts";
import { createScheduler, type Scheduler } from "../../src/rollout/scheduler.ts";
import type { RolloutRequest } from "../../src/rollout/sequence.ts";

const requests = (lengths: readonly number[], samples: number): RolloutRequest[] =>
  lengths.map((length, prompt) => ({ promptIds: new Int32Array(length).fill(1), samples, prompt }));

function scheduled(list: readonly RolloutRequest[], limits: RolloutLimits): Scheduler {
  const scheduler = createScheduler(limits, rolloutSizes(limits));
  for (const request of list) scheduler.add(request);
  return scheduler;
}

/** Runs a schedule to its end, with sequences finishing in a scrambled order; returns what was admitted, in order. */
function run(lengths: readonly number[], samples: number, maxSequences: number, promptRoom: number) {
  const limits = { maxSequences, promptRoom, longestPrompt: 130, maxCompletion: 100, penalized: false };
  const { prefillTokens } = rolloutSizes(limits);
  const scheduler = scheduled(requests(lengths, samples), limits);
  const admitted: string[] = [];
  const prefilled: number[] = [];
  const holds = new Map<number, string>(); // page → who holds it
  let seed = 7;
  for (let round = 0; scheduler.waiting > 0 || scheduler.running.length > 0; round++) {
    if (round > 10_000) throw new Error("the schedule does not end");
    const { prefill, sequences } = scheduler.admit();
    const tokens = prefill.reduce((sum, { request }) => sum + request.promptIds.length, 0);
    expect(tokens).toBeLessThanOrEqual(prefillTokens);
    for (const { request, pages } of prefill) {
      prefilled.push(request.prompt);
      for (const page of pages) {
        expect(holds.get(page)).toBeUndefined();
        holds.set(page, `prompt ${request.prompt}`);
      }
    }
    for (const s of sequences) {
      admitted.push(`${s.place}.${s.sample}`);
      for (const page of s.pages) {
        expect(holds.get(page)).toBeUndefined();
        holds.set(page, `${s.place}.${s.sample}`);
      }
    }
    expect(scheduler.running.length).toBeLessThanOrEqual(maxSequences);
    expect(new Set(scheduler.running.map((s) => s.slot)).size).toBe(scheduler.running.length);
    expect(scheduler.running.length).toBeGreaterThan(0);
    seed = (seed * 1103515245 + 12345) % 2 ** 31;
    const done = scheduler.running[seed % scheduler.running.length]!;
    for (const page of done.pages) holds.delete(page);
    if (done.prompt.open === 1) for (const page of done.prompt.pages) holds.delete(page);
    scheduler.finish(done);
  }
  expect(holds.size).toBe(0);
  return { admitted, prefilled };
}

describe("scheduler", () => {
  for (const [slots, prompts] of [
    [1, 1],
    [3, 2],
    [7, 3],
    [64, 6],
  ] as const)
    test(`${slots} slots, ${prompts} prompts: every sample once, in order, each prompt prefilled once`, () => {
      const lengths = [5, 130, 64, 65, 1, 128];
      const { admitted, prefilled } = run(lengths, 4, slots, prompts);
      expect(admitted).toEqual(lengths.flatMap((_, p) => [0, 1, 2, 3].map((s) => `${p}.${s}`)));
      expect(prefilled).toEqual(lengths.map((_, p) => p));
    });

  test("slots are not idle while samples wait, although each group ends one long completion at a time", () => {
    const limits = { maxSequences: 64, promptRoom: 10, longestPrompt: 256, maxCompletion: 256, penalized: false };
    let state = 1;
    const random = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
    const prompts = Array.from({ length: 64 }, () => 20 + Math.floor(random() * 236));
    const scheduler = scheduled(requests(prompts, 8), limits);
    const left = new Map<unknown, number>();
    let [idle, taken] = [0, 0];
    while (scheduler.waiting + scheduler.running.length > 0) {
      for (const s of scheduler.admit().sequences)
        left.set(s, Math.min(256, 1 + Math.floor(-100 * Math.log(1 - random()))));
      taken += scheduler.running.length;
      if (scheduler.waiting > 0) idle += limits.maxSequences - scheduler.running.length;
      for (const s of [...scheduler.running]) {
        left.set(s, left.get(s)! - 1);
        if (left.get(s) === 0) scheduler.finish(s);
      }
    }
    expect(idle / (idle + taken)).toBeLessThan(0.04);
  });

  test("a request without samples is skipped", () => {
    const limits = { maxSequences: 2, promptRoom: 2, longestPrompt: 8, maxCompletion: 8, penalized: false };
    const list = requests([3, 4], 1).map((r, i) => ({ ...r, samples: i }));
    const scheduler = scheduled(list, limits);
    expect(scheduler.admit().sequences.map((s) => s.place)).toEqual([1]);
  });
});

describe("pages", () => {
  test("counts blocks of 64", () => {
    expect([1, 63, 64, 65, 128, 129].map(pagesFor)).toEqual([1, 1, 1, 2, 2, 3]);
  });

  test("takes all or nothing, and returns what was taken", () => {
    const pool = createPagePool(5);
    const first = pool.take(3)!;
    expect(pool.take(3)).toBeNull();
    expect(pool.free).toBe(2);
    pool.give(first);
    expect([...pool.take(5)!].sort()).toEqual([0, 1, 2, 3, 4]);
  });

  test("requests added and dropped midway: every place is returned, the others complete", () => {
    for (let seed = 1; seed <= 40; seed++) {
      let state = seed;
      const random = (n: number) => {
        state = (state * 1103515245 + 12345) % 2 ** 31;
        return Math.floor(state / 65536) % n;
      };
      const limits = { maxSequences: 5, promptRoom: 3, longestPrompt: 130, maxCompletion: 100, penalized: false };
      const scheduler = scheduled(requests([5, 70, 64], 4), limits);
      const samples = [4, 4, 4];
      const dropped = new Set<number>();
      const done = new Map<number, number>();
      for (let round = 0; scheduler.waiting > 0 || scheduler.running.length > 0; round++) {
        expect(round).toBeLessThan(1000);
        scheduler.admit();
        expect(new Set(scheduler.running.map((s) => s.slot)).size).toBe(scheduler.running.length);
        if (random(3) === 0 && samples.length < 9) {
          const count = 1 + random(4);
          scheduler.add(requests([1 + random(130)], count)[0]!);
          samples.push(count);
        }
        if (random(4) === 0) {
          const place = random(samples.length);
          const open = dropped.has(place) ? 0 : samples[place]! - (done.get(place) ?? 0);
          const before = scheduler.waiting + scheduler.running.length;
          scheduler.drop(place);
          expect(before - scheduler.waiting - scheduler.running.length).toBe(open);
          dropped.add(place);
          expect(scheduler.running.some((s) => s.place === place)).toBe(false);
        }
        if (scheduler.running.length === 0) continue;
        const sequence = scheduler.running[random(scheduler.running.length)]!;
        done.set(sequence.place, (done.get(sequence.place) ?? 0) + 1);
        scheduler.finish(sequence);
      }
      for (const [place, count] of samples.entries()) if (!dropped.has(place)) expect(done.get(place)).toBe(count);
      // Everything is free again: as many prompts and samples fit as at the start.
      for (let i = 0; i < 3; i++) scheduler.add(requests([130], 2)[0]!);
      expect(scheduler.admit().sequences.length).toBe(5);
    }
  });
});
