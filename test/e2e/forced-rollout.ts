/** Rollouts with forced tokens on a golden model, shared by the tests on the CPU and on the emulated GPU. */
import { expect } from "bun:test";
import { whileOpen } from "../../src/closing.ts";
import type { Device } from "../../src/device/device.ts";
import type { OnToken, Rollout } from "../../src/rollout/rollout.ts";
import type { RolloutRequest, RolloutSettings, SampledCompletion, Sequence } from "../../src/rollout/sequence.ts";
import { withSession } from "../../src/session/session.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { planGolden, type RolloutSession } from "./rollout-session.ts";

const samples = 3;
const longestPrompt = 28; // the longest of these has 20 tokens
export const maxCompletion = 100; // two pages

export const requests = [1, 9, 17, 20].map((length, prompt): RolloutRequest => {
  const promptIds = Int32Array.from({ length }, (_, t) => (37 * prompt + 11 * t + t * t) % 256);
  return { promptIds, samples, prompt };
});

const plain = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };
export type Sampling = typeof plain;
export const samplings: readonly [string, Sampling][] = [
  ["temperature 1", plain],
  ["truncated and penalized", { ...plain, temperature: 0.7, topK: 40, repetitionPenalty: 1.3 }],
];

export interface Setting {
  readonly open: () => Promise<Device>;
  readonly maxSequences: number;
  readonly dtype?: ComputeDType;
  readonly sampling?: Sampling;
}

/** Opens a session that samples and scores; closes it after `work`. */
export async function withRollout<T>(
  { open, maxSequences, dtype = "float32", sampling = plain }: Setting,
  work: (session: RolloutSession, settings: RolloutSettings) => Promise<T>,
): Promise<T> {
  const size = { maxSequences, longestPrompt, maxCompletion, penalized: sampling.repetitionPenalty !== 1 };
  const random = { seed: 7, stream: 0, step: 3 };
  const isStop = (id: number) => id % 23 === 5;
  const settings = { ...sampling, ...random, maxCompletionLength: maxCompletion, isStop };
  return whileOpen(await open(), (device) =>
    withSession(planGolden(device, "qwen3-qknorm", dtype, size), (session) => work(session, settings)),
  );
}

export function started(session: RolloutSession, settings: RolloutSettings, onToken?: OnToken): Rollout {
  const rollout = session.rollout.start(settings, onToken);
  for (const request of requests) rollout.add(request);
  return rollout;
}

/** A tool's answer to a completion that has stopped; null: none. */
function answerTo({ sample, ids, ending }: Sequence, given: number): number[] | null {
  if (!ending!.finished || given === sample || ids.length === maxCompletion) return null;
  return Array.from({ length: 1 + ((17 * ids.length + sample) % 80) }, (_, i) => (i * i + ids.length) % 256);
}

export interface Answer {
  readonly at: number;
  readonly ids: readonly number[];
}

/** Samples everything; a tool answers, taking `delay` steps. */
export async function sampleWithTool(rollout: Rollout, delay: (sequence: Sequence) => number) {
  const completions = requests.map((): SampledCompletion[] => []);
  const answers = new Map<Sequence, Answer[]>();
  const due: { readonly step: number; readonly feed: () => void }[] = [];
  for (let step = 0; rollout.finished < rollout.total; step++) {
    for (const sequence of await rollout.step()) {
      const given = answers.get(sequence) ?? [];
      const ids = answerTo(sequence, given.length);
      if (ids) {
        answers.set(sequence, [...given, { at: sequence.ids.length, ids }]);
        due.push({ step: step + delay(sequence), feed: () => rollout.feed(sequence, ids) });
      } else completions[sequence.place]![sequence.sample] = rollout.end(sequence);
    }
    for (const one of due) if (one.step === step) one.feed();
  }
  return { completions, answers };
}

/**
 * Repeats each completion with its tokens forced from the fifth on, as soon as the fourth is sampled. The last token is sampled
 * and must be the same with the same log-probability, as must the first four.
 */
export async function expectSameWhenForced(session: RolloutSession, settings: RolloutSettings): Promise<void> {
  const expected = await session.rollout.generate(requests, settings);
  const rollout: Rollout = started(session, settings, (sequence) => {
    const { completionIds } = expected[sequence.place]![sequence.sample]!;
    if (sequence.ids.length === 4) rollout.feed(sequence, completionIds.slice(4, -1));
  });
  let forced = 0;
  while (rollout.finished < rollout.total)
    for (const sequence of await rollout.step()) {
      const { mask, ...got } = rollout.end(sequence);
      const { mask: none, ...want } = expected[sequence.place]![sequence.sample]!;
      expect(none).toBeNull();
      const sampled = (logprobs: Float32Array) => logprobs.map((logprob, t) => (mask?.[t] === 0 ? 0 : logprob));
      const { logprobs, samplingLogprobs } = want;
      expect(got).toEqual({ ...want, logprobs: sampled(logprobs), samplingLogprobs: sampled(samplingLogprobs) });
      forced += mask?.filter((kept) => kept === 0).length ?? 0;
    }
  expect(forced).toBeGreaterThan(50);
}
