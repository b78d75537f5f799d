/**
 * Forced tokens (a tool's answer) within completions: the tokens sampled around them have the same logprobs as in the training
 * pass, to the bit, and depend only on the tokens before them.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import { scoreGroups } from "../../src/grpo/learner/policy-update.ts";
import type { Rollout } from "../../src/rollout/rollout.ts";
import type { SampledCompletion, Sequence } from "../../src/rollout/sequence.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import {
  type Answer,
  expectSameWhenForced,
  maxCompletion,
  requests,
  sampleWithTool,
  samplings,
  started,
  withRollout,
} from "./forced-rollout.ts";
import type { RolloutSession } from "./rollout-session.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const open = () => openCpuDevice({ threads: 2 });

/** Each sampled token's recorded logprob equals the training pass's; a forced one's is 0. */
async function expectTrainingLogprobs(
  { scorer: { model, activations } }: RolloutSession,
  sampled: SampledCompletion[][],
  temperature: number,
) {
  const groups = sampled.map((completions, i) => ({ promptIds: requests[i]!.promptIds, completions }));
  for (const microBatchTokens of [4096, 100]) {
    const scores = await scoreGroups(model, activations, groups, { temperature, microBatchTokens });
    for (const [i, { mask, logprobs }] of sampled.flat().entries())
      expect(logprobs).toEqual(scores[i]!.logprobs.map((logprob, t) => (mask?.[t] === 0 ? 0 : logprob)));
  }
}

/** The answers are where they were given, truncated at the length limit, and masked; nothing else is masked. */
function expectMasked({ completionIds, mask, samplingLogprobs }: SampledCompletion, answers: readonly Answer[]) {
  const want = new Uint8Array(completionIds.length).fill(1);
  for (const { at, ids } of answers) {
    want.fill(0, at, at + ids.length);
    expect([...completionIds.slice(at, at + ids.length)]).toEqual(ids.slice(0, maxCompletion - at));
  }
  expect(mask).toEqual(want.includes(0) ? want : null);
  for (const [t, kept] of want.entries()) if (kept === 0) expect(samplingLogprobs[t]).toBe(0);
}

const batches: readonly [threads: number, maxSequences: number, delay: (sequence: Sequence) => number][] = [
  [2, 12, () => 0],
  [1, 5, ({ place, sample }) => (5 * place + 3 * sample) % 7],
  [2, 1, () => 2],
];

describe.each<ComputeDType>(["float32", "bfloat16"])("%s", (dtype) => {
  test.each(samplings)(
    "%s: sampled logprobs equal training's for any batch and delay of the tool",
    async (_, sampling) => {
      let first: SampledCompletion[][] | null = null;
      for (const [threads, maxSequences, delay] of batches) {
        const setting = { open: () => openCpuDevice({ threads }), maxSequences, dtype, sampling };
        await withRollout(setting, async (session, settings) => {
          const { completions, answers } = await sampleWithTool(started(session, settings), delay);
          first ??= completions;
          expect(completions).toEqual(first);
          await expectTrainingLogprobs(session, completions, sampling.temperature);
          const given = new Map(
            [...answers].map(([{ place, sample }, answer]) => [completions[place]![sample]!, answer]),
          );
          for (const completion of completions.flat()) expectMasked(completion, given.get(completion) ?? []);
        });
      }
      const all = first!.flat();
      expect(all.filter(({ mask }) => mask && mask[63] === 0 && mask[64] === 0)).not.toBeEmpty(); // across a page boundary
      const full = all.filter(({ completionIds }) => completionIds.length === maxCompletion);
      expect(full.filter(({ mask, finished }) => mask?.at(-1) === 0 && !finished)).not.toBeEmpty();
      for (const { completionIds, finished } of all) if (!finished) expect(completionIds.length).toBe(maxCompletion);
    },
  );
});

test.each(samplings)("%s: forcing the tokens that would be sampled changes nothing after them", async (_, sampling) => {
  await withRollout({ open, maxSequences: 12, sampling }, expectSameWhenForced);
});

test("the token after forced ones is the first after a prompt that contains them, penalty included", async () => {
  const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1.3 };
  const answer = [7, 250, 7, 11, 12, 13, 99];
  await withRollout({ open, maxSequences: 12, sampling }, async ({ rollout }, settings) => {
    const limited = { ...settings, isStop: () => false };
    const driven: Rollout = rollout.start({ ...limited, maxCompletionLength: 4 + answer.length + 1 }, (sequence) => {
      if (sequence.ids.length === 4) driven.feed(sequence, answer);
    });
    for (const request of requests.slice(0, 3)) driven.add({ ...request, samples: 1 });
    const fed: { readonly promptIds: Int32Array; readonly completion: SampledCompletion }[] = [];
    while (driven.finished < driven.total)
      for (const sequence of await driven.step()) {
        const promptIds = Int32Array.of(...requests[sequence.place]!.promptIds, ...sequence.ids.slice(0, -1));
        fed.push({ promptIds, completion: driven.end(sequence) });
      }
    const whole = fed.map(({ promptIds }, prompt) => ({ promptIds, samples: 1, prompt }));
    const firsts = await rollout.generate(whole, { ...limited, maxCompletionLength: 1 });
    for (const [i, { completion }] of fed.entries()) {
      const [first] = firsts[i]!;
      expect(completion.completionIds.at(-1)).toBe(first!.completionIds[0]!);
      // Not to the bit: attention sums the keys of prompt and completion in separate blocks.
      expect(completion.logprobs.at(-1)!).toBeCloseTo(first!.logprobs[0]!, 5);
      expect(completion.samplingLogprobs.at(-1)!).toBeCloseTo(first!.samplingLogprobs[0]!, 5);
    }
    await expect(driven.step()).rejects.toThrow("another rollout");
  });
});

test("dropping a completion while it is fed frees its room and leaves the others unchanged", async () => {
  await withRollout({ open, maxSequences: 6 }, async (session, settings) => {
    const expected = await session.rollout.generate(requests, settings);
    const fed = new Set<Sequence>();
    const rollout = started(session, settings, (sequence) => {
      if (sequence.place > 1 || sequence.ids.length > 1) return;
      rollout.feed(sequence, new Int32Array(maxCompletion));
      fed.add(sequence);
    });
    for (let i = 0; i < 10; i++) expect(await rollout.step()).toEqual([]);
    rollout.drop(0);
    rollout.drop(1);
    expect([fed.size, rollout.finished, rollout.total]).toEqual([6, 0, 6]);
    for (const sequence of fed) {
      expect(sequence.ids.length).toBe(10);
      expect(() => rollout.feed(sequence, [1])).toThrow("has ended");
      expect(() => rollout.end(sequence)).toThrow("has ended");
    }
    while (rollout.finished < rollout.total)
      for (const sequence of await rollout.step())
        expect(rollout.end(sequence)).toEqual(expected[sequence.place]![sequence.sample]!);
    expect(rollout.finished).toBe(6);
  });
});

test("a full completion accepts no tokens, a running one does not end, and a stopped one keeps its room", async () => {
  await withRollout({ open, maxSequences: 12 }, async (session, settings) => {
    const rollout = started(session, { ...settings, maxCompletionLength: 4, isStop: () => false }, (sequence) => {
      if (sequence.ids.length === 1) expect(() => rollout.end(sequence)).toThrow("still runs");
    });
    const stopped: Sequence[] = [];
    for (let i = 0; i < 5; i++) stopped.push(...(await rollout.step()));
    expect([stopped.length, rollout.finished, rollout.total]).toEqual([11, 0, 12]); // pages for three prompts and 12 completions: one short for the fourth
    for (const sequence of stopped) {
      expect(() => rollout.feed(sequence, [])).toThrow("length limit");
      expect(rollout.end(sequence).finished).toBe(false);
    }
    while (rollout.finished < rollout.total) for (const sequence of await rollout.step()) rollout.end(sequence);
    expect(rollout.finished).toBe(12);
  });
});

test("a stop string is searched for in the tokens sampled since the last forced one", async () => {
  await withRollout({ open, maxSequences: 12 }, async (session, settings) => {
    // Ends a completion at the third token it sees.
    const watch = () => {
      const watched: number[] = [];
      return { push: (id: number) => (watched.push(id) === 3 ? watched.join() : null) };
    };
    const rollout = started(session, { ...settings, isStop: () => false, stopStrings: watch });
    const answer = [5, 6, 7, 8];
    while (rollout.finished < rollout.total)
      for (const sequence of await rollout.step())
        if (sequence.ids.length === 3) rollout.feed(sequence, answer);
        else {
          const { completionIds, finished, stop } = rollout.end(sequence);
          expect([completionIds.length, finished]).toEqual([10, true]);
          expect([...completionIds.slice(3, 7)]).toEqual(answer);
          expect(stop).toBe(completionIds.slice(7).join());
        }
  });
});
