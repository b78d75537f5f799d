// How a generation is cut into steps, and that the steps' losses equal TRL's (test/golden/make_split_losses.py).
import { describe, expect, test } from "bun:test";
import { cutGeneration, samplesOfStep, wholeGeneration } from "../../src/grpo/generation-steps.ts";
import type { LossCompletion, LossType } from "../../src/grpo/loss/config.ts";
import { stepDenominators } from "../../src/grpo/loss/step.ts";
import type { Weighed } from "../../src/grpo/sample.ts";
import { computeLoss, LOSS_DEFAULTS, type LossConfig } from "../../src/index.ts";
import recorded from "../golden/split-losses.json" with { type: "json" };

const sorted = (values: readonly number[]) => values.toSorted((a, b) => a - b);
const upTo = (count: number) => Array.from({ length: count }, (_, i) => i);
const key = { blockSize: null, seed: 42, step: 7 };

describe("the cut", () => {
  test("every completion is in one step, and has one place there", () => {
    for (const [completions, perStep] of [
      [24, 4],
      [24, 12],
      [512, 1],
      [6, 3],
    ] as const) {
      const cut = cutGeneration({ ...key, completions, perStep });
      expect(cut.length).toBe(completions / perStep);
      expect(sorted(cut.flatMap(({ members }) => members))).toEqual(upTo(completions));
      for (const { members, places } of cut) {
        expect(members).toEqual(sorted(members));
        expect(sorted(places!)).toEqual(upTo(perStep));
      }
    }
  });

  test("is repeatable, and differs for another step or seed", () => {
    const cut = (change: object) => JSON.stringify(cutGeneration({ ...key, completions: 64, perStep: 16, ...change }));
    expect(cut({})).toBe(cut({}));
    expect(new Set([cut({}), cut({ step: 11 }), cut({ seed: 43 })]).size).toBe(3);
  });

  test("mixes the groups: a step of a quarter has completions of all 16 groups of 16, about 4 of each", () => {
    const counts = cutGeneration({ ...key, completions: 256, perStep: 64 }).flatMap(({ members }) =>
      upTo(16).map((group) => members.filter((i) => Math.floor(i / 16) === group).length),
    );
    // Without replacement: mean 4, variance 16 · ¼ · ¾ · 240/255 = 2.8
    const variance = counts.reduce((sum, n) => sum + (n - 4) ** 2, 0) / counts.length;
    expect(variance).toBeGreaterThan(1.5);
    expect(variance).toBeLessThan(5);
  });

  test("a single step keeps the order, unless it is cut into blocks", () => {
    const whole = { ...key, completions: 8, perStep: 8 };
    const plain = [{ members: upTo(8), places: null }];
    expect(cutGeneration(whole)).toEqual(plain);
    expect(cutGeneration({ ...whole, blockSize: 8 })).toEqual(plain);
    expect(cutGeneration({ ...whole, blockSize: 4 })[0]!.places).not.toEqual(upTo(8));
  });
});

/** The recorded generation, in groups of 6. */
const samples: Weighed[] = upTo(24).map((i) => ({
  group: Math.floor(i / 6),
  promptIds: Int32Array.of(1),
  completionIds: new Int32Array(recorded.logprobs[i]!.length),
  mask: null,
  finished: recorded.finished[i]!,
  advantage: recorded.advantages[i]!,
  oldLogprobs: Float64Array.from(recorded.old_logprobs[i]!),
  refLogprobs: Float64Array.from(recorded.ref_logprobs[i]!),
  ...{ samplingLogprobs: null, values: null, returns: null },
}));
const { per_device_train_batch_size: micro } = recorded;

test.each(recorded.cases)(
  "$loss_type, $gradient_accumulation_steps of $steps_per_generation micro-batches a step: losses and gradients as TRL's",
  (given) => {
    const perStep = micro * given.gradient_accumulation_steps;
    const loss: LossConfig = {
      ...{ ...LOSS_DEFAULTS, lossType: given.loss_type as LossType, beta: recorded.beta, epsilon: recorded.epsilon },
      ...{ epsilonHigh: given.epsilon_high, maxCompletionLength: recorded.max_completion_length },
      ...{ maskTruncatedCompletions: given.mask_truncated_completions, perDeviceTrainBatchSize: micro },
    };
    const generation = wholeGeneration(samples, given.steps.length, loss);
    for (const [s, want] of given.steps.entries()) {
      const members = upTo(perStep).map((k) => s * perStep + k);
      const step = samplesOfStep(samples, { members, places: null }).map((sample, index): LossCompletion => {
        const logprobs = Float64Array.from(recorded.logprobs[members[index]!]!);
        return { ...sample, index, logprobs, entropies: new Float64Array(logprobs.length) };
      });
      const result = computeLoss(step, stepDenominators(step, loss, generation), loss);
      expect(Math.abs(result.loss - want.loss), `loss of step ${s + 1}`).toBeLessThan(2e-6);
      const gradients = want.gradients.flat();
      expect(result.dlogprobs.length).toBe(gradients.length);
      for (const [t, gradient] of gradients.entries())
        expect(Math.abs(result.dlogprobs[t]! - gradient)).toBeLessThan(1e-4 * Math.abs(gradient) + 1e-7);
    }
  },
);

test("bnpo's blocks depend on the order: completions in another order have the loss of that order", () => {
  const loss: LossConfig = { ...LOSS_DEFAULTS, lossType: "bnpo", beta: 0, perDeviceTrainBatchSize: 2 };
  const completion = (index: number, length: number, advantage: number, place?: number): LossCompletion => ({
    ...{ index, place, advantage, finished: true, oldLogprobs: null, refLogprobs: null, samplingLogprobs: null },
    ...{ logprobs: new Float64Array(length).fill(-1), entropies: new Float64Array(length) },
  });
  const value = (step: LossCompletion[]) => computeLoss(step, stepDenominators(step, loss), loss).loss;
  const shuffled = [completion(0, 1, 1, 2), completion(1, 5, -1, 0), completion(2, 3, 0.5, 3), completion(3, 2, 2, 1)];
  const inOrder = [completion(0, 5, -1), completion(1, 2, 2), completion(2, 1, 1), completion(3, 3, 0.5)];
  expect(value(shuffled)).toBeCloseTo(value(inOrder), 14);
  expect(value(shuffled)).not.toBeCloseTo(value(shuffled.map(({ place: _, ...c }) => c)), 3);
});
