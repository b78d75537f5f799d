// Advantages of samples with forced tokens: equal to those of the samples without these tokens, at the remaining positions.
import { expect, test } from "bun:test";
import { randomFrom } from "../../bench/ops/random.ts";
import { type AdvantageEstimator, ESTIMATORS } from "../../src/grpo/estimators/estimators.ts";
import type { Measured } from "../../src/grpo/sample.ts";
import { type WeighSettings, weigh } from "../../src/grpo/weigh.ts";

const settings: WeighSettings = {
  ...{ advantageEstimator: "grpo", scaleRewards: "group", beta: 0.3, gamma: 0.97, lam: 0.9, whitenAdvantages: true },
  ...{ maskTruncatedCompletions: true, useKlInReward: true, klInRewardEstimator: "k1" },
};

const { integer, normal, uniform } = randomFrom("weigh");
const samples = [3, 3, 3, 7, 7, 9].map((group): Measured => {
  const R = 1 + integer(8);
  return {
    ...{ group, promptIds: Int32Array.of(1), completionIds: new Int32Array(R), finished: uniform() < 0.8 },
    ...{ oldLogprobs: normal(R), refLogprobs: normal(R), values: normal(R), samplingLogprobs: null },
    mask: uniform() < 0.7 ? Uint8Array.from({ length: R }, () => (uniform() < 0.6 ? 1 : 0)) : null,
  };
});
const rewards = [1, 0.25, null, -1, 2, 0.5];

const own = <T extends { readonly length: number }>(values: T, { mask }: Measured): T =>
  (values as unknown as Float64Array).filter((_, t) => mask?.[t] !== 0) as unknown as T;
const without = samples.map((sample) => ({
  ...{ ...sample, mask: null, completionIds: own(sample.completionIds, sample), values: own(sample.values!, sample) },
  ...{ oldLogprobs: own(sample.oldLogprobs!, sample), refLogprobs: own(sample.refLogprobs!, sample) },
}));

test.each(Object.keys(ESTIMATORS) as AdvantageEstimator[])("%s", (advantageEstimator) => {
  const weighed = weigh(samples, { rewards }, { ...settings, advantageEstimator });
  const want = weigh(without, { rewards }, { ...settings, advantageEstimator });
  expect(weighed.estimate).toEqual(want.estimate);
  for (const [i, { advantage, returns, mask, completionIds }] of weighed.samples.entries()) {
    const { advantage: plain, returns: plainReturns } = want.samples[i]!;
    expect(typeof advantage).toBe(typeof plain);
    for (const [all, part] of [
      [advantage, plain],
      [returns, plainReturns],
    ] as const) {
      if (typeof all === "number" || all === null) expect<unknown>(all).toEqual(part);
      else {
        expect(all.length).toBe(completionIds.length);
        expect([...all.filter((_, t) => mask?.[t] !== 0)]).toEqual([...(part as Float64Array)]);
        expect([...all].every((value, t) => mask?.[t] !== 0 || value === 0)).toBe(true);
      }
    }
  }
});
