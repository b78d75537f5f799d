/**
 * Promise 2, bit for bit: the logprob recorded when a token is sampled equals the one that the training pass computes for it,
 * for any batch, threads, dtype, instruction path and cut into micro-batches. And promise 3: the completions themselves do not
 * depend on the batch or the threads.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import { scoreGroups } from "../../src/grpo/learner/policy-update.ts";
import type { SampledCompletion } from "../../src/rollout/sequence.ts";
import { withSession } from "../../src/session/session.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { planGolden } from "./rollout-session.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const models = ["llama-tied", "qwen2-bias", "qwen3-qknorm"];
const { library } = await openCpuDevice();
const paths = library.paths.flatMap(({ name, supported }) => (supported ? name : []));

const samples = 4;
const longestPrompt = 66;
const maxCompletion = 40;

/** Eight prompts: of one token, of a whole page of the cache, of one more, and in between. */
function prompts(vocabSize: number): Int32Array[] {
  return [1, 2, 17, 40, 63, 64, 65, longestPrompt].map((length, p) =>
    Int32Array.from({ length }, (_, t) => (37 * p + 11 * t + t * t) % vocabSize),
  );
}

interface Sampling {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
}

const plain: Sampling = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };
const truncated: Sampling = { temperature: 0.7, topK: 40, topP: 0.9, minP: 0.01, repetitionPenalty: 1.3 };
const samplings: readonly [string, Sampling][] = [
  ["temperature 1", plain],
  ["temperature 0.7, truncated and penalized", truncated],
];

interface Key {
  readonly seed: number;
  readonly step: number;
  readonly stream: number;
  /** Of the first prompt; the others follow. */
  readonly prompt: number;
}

interface Setting {
  readonly path: string;
  readonly threads: number;
  readonly maxSequences: number;
  readonly dtype: ComputeDType;
  readonly sampling: Sampling;
  readonly key?: Partial<Key>;
}

/** Samples 32 completions and scores them as training does, once in one piece and once in micro-batches that split the groups. */
async function sampleAndScore(model: string, { path, threads, maxSequences, dtype, sampling, key }: Setting) {
  const { prompt: firstPrompt, ...random } = { seed: 7, stream: 0, step: 3, prompt: 0, ...key };
  const device = await openCpuDevice({ path, threads });
  const size = { maxSequences, longestPrompt, maxCompletion, penalized: sampling.repetitionPenalty !== 1 };
  return withSession(planGolden(device, model, dtype, size), async ({ scorer, rollout }) => {
    const promptIds = prompts(scorer.model.config.vocabSize);
    const sampled = await rollout.generate(
      promptIds.map((ids, i) => ({ promptIds: ids, samples, prompt: firstPrompt + i })),
      // This stop instead of the model's own, which random weights would rarely sample.
      { ...sampling, ...random, maxCompletionLength: maxCompletion, isStop: (id) => id % 23 === 5 },
    );
    const groups = sampled.map((completions, i) => ({ promptIds: promptIds[i]!, completions }));
    const { temperature } = sampling;
    const trained = [];
    for (const microBatchTokens of [4096, 100])
      trained.push(await scoreGroups(scorer.model, scorer.activations, groups, { temperature, microBatchTokens }));
    return { completions: sampled.flat(), trained };
  });
}

/** Largest |sampler − training|; NaN if either is NaN. */
function largestDifference(completions: readonly SampledCompletion[], trained: readonly { logprobs: Float32Array }[]) {
  let largest = 0;
  for (const [i, { logprobs }] of completions.entries()) {
    expect(trained[i]!.logprobs.length).toBe(logprobs.length);
    for (const [t, logprob] of logprobs.entries()) {
      const difference = Math.abs(logprob - trained[i]!.logprobs[t]!);
      if (!(difference <= largest)) largest = difference;
    }
  }
  return largest;
}

const batches = [
  { threads: 2, maxSequences: 32 },
  { threads: 2, maxSequences: 7 },
  { threads: 1, maxSequences: 1 },
];

/** The completions of every batch, which must all be equal. */
async function sampledAlike(model: string, setting: Omit<Setting, "threads" | "maxSequences">) {
  let first: readonly SampledCompletion[] | null = null;
  for (const batch of batches) {
    const { completions, trained } = await sampleAndScore(model, { ...setting, ...batch });
    for (const scores of trained) expect(largestDifference(completions, scores)).toBe(0);
    first ??= completions;
    expect(completions).toEqual([...first]);
  }
  return first!;
}

describe.each(models)("%s", (model) => {
  describe.each(paths)("%s", (path) => {
    describe.each<ComputeDType>(["float32", "bfloat16"])("%s", (dtype) => {
      test.each(samplings)("%s: sampled logprobs equal training's for any batch", async (_, sampling) => {
        const completions = await sampledAlike(model, { path, dtype, sampling });
        expect(completions.length).toBe(32);
        expect(new Set(completions.map((c) => c.completionIds.length)).size).toBeGreaterThan(5);
        expect(new Set(completions.map((c) => c.completionIds.join())).size).toBeGreaterThan(24);
      });
    });
  });

  test("temperatures 0.7 and 1.3 on their own", async () => {
    for (const temperature of [0.7, 1.3])
      await sampledAlike(model, { path: paths.at(-1)!, dtype: "float32", sampling: { ...plain, temperature } });
  });

  test("a token's random number is keyed by seed, step, prompt, sample and stream", async () => {
    const setting = { path: paths.at(-1)!, threads: 2, maxSequences: 32, dtype: "float32", sampling: plain } as const;
    const drawn = async (key: Partial<Key>) => {
      const { completions } = await sampleAndScore(model, { ...setting, key });
      return completions.map((c) => c.completionIds.join());
    };
    const first = await drawn({});
    expect(await drawn({})).toEqual(first);
    for (const key of [{ seed: 8 }, { step: 4 }, { stream: 1 }, { prompt: 100 }]) {
      const other = await drawn(key);
      expect(other.filter((ids, i) => ids === first[i]).length).toBeLessThan(8);
    }
    expect(new Set(first).size).toBeGreaterThan(24); // even for one prompt: the sample counts
  });

  test("with truncation, the sampling distribution differs, and the recorded logprob is not taken from it", async () => {
    const setting = { path: paths.at(-1)!, threads: 2, maxSequences: 32, dtype: "float32" } as const;
    const drawn = await sampleAndScore(model, { ...setting, sampling: truncated });
    for (const { logprobs, samplingLogprobs } of drawn.completions)
      expect(Math.max(...samplingLogprobs.map((x, t) => Math.abs(x - logprobs[t]!)))).toBeGreaterThan(0.01);
    const whole = await sampleAndScore(model, { ...setting, sampling: plain });
    for (const { logprobs, samplingLogprobs } of whole.completions) expect(samplingLogprobs).toEqual(logprobs);
  });
});
