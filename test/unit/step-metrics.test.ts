// The metrics of a generation's rewards and lengths, especially when there are none.
import { expect, test } from "bun:test";
import { rewardStatistics } from "../../src/grpo/advantages.ts";
import type { Sampled } from "../../src/grpo/sample.ts";
import { completionMetrics, rewardMetrics, samplerDifference } from "../../src/grpo/step-metrics.ts";

const metrics = (perFunction: Record<string, (number | null)[]>, groups: number[]) => {
  const functions = Object.entries(perFunction).map(([name, rewards]) => ({ name, rewards, unparsed: 0, timeouts: 0 }));
  const statistics = rewardStatistics({ rewards: functions.map(({ rewards }) => rewards), groups });
  const total = statistics.rewards;
  return rewardMetrics({ perFunction: functions, total, reasons: [], warnings: [] }, statistics);
};

test("a batch that nothing scored has null for rewards and deviations, in the file too", () => {
  const values = metrics({ math: [null, null], judge: [null, null] }, [0, 0]);
  expect(JSON.parse(JSON.stringify(values))).toEqual({
    ...{ reward: null, reward_std: null, frac_reward_zero_std: 0, "rewards/unparsed": 0, "rewards/timeout": 0 },
    ...{ "rewards/math/mean": null, "rewards/math/std": null, "rewards/judge/mean": null, "rewards/judge/std": null },
  });
});

test("one score has a mean, two have a deviation", () => {
  const values = metrics({ math: [2, null, null, null], judge: [0, 1, 1, null] }, [0, 0, 1, 1]);
  expect(values).toMatchObject({
    ...{ "rewards/math/mean": 2, "rewards/math/std": null, "rewards/judge/mean": 2 / 3 },
    // (2, 1) and (1, -): the second group's one score is equal to nothing
    ...{ reward: expect.closeTo(4 / 3, 12), frac_reward_zero_std: 0 },
  });
  expect(values["rewards/judge/std"]).toBeCloseTo(Math.sqrt(1 / 3), 12);
});

test("equal rewards are counted per completion", () => {
  expect(metrics({ math: [1, 1, 0, 1, 1, 1, null] }, [0, 0, 1, 1, 2, 2, 2])).toMatchObject({
    frac_reward_zero_std: 5 / 7,
  });
});

test("lengths of finished completions are 0 if there are none, as in TRL", () => {
  const completion = { completionIds: Int32Array.of(1, 2), finished: false } as never;
  expect(completionMetrics([completion])).toEqual({
    ...{ "completions/mean_length": 2, "completions/min_length": 2, "completions/max_length": 2 },
    "completions/clipped_ratio": 1,
    ...{ "completions/mean_terminated_length": 0, "completions/min_terminated_length": 0 },
    "completions/max_terminated_length": 0,
  });
});

test("lengths and the sampler's difference are over sampled tokens only", () => {
  const sample = {
    ...{ completionIds: Int32Array.of(1, 2, 3, 4), finished: true, logprobs: Float32Array.of(-1, 0, 0, -2) },
    mask: Uint8Array.of(1, 0, 0, 1),
  } as unknown as Sampled;
  expect(completionMetrics([sample])).toMatchObject({ "completions/mean_length": 2, "completions/max_length": 2 });
  expect(samplerDifference([sample, sample], [Float32Array.of(-1.5, -9, -9, -2), undefined])).toEqual({
    "sampling/sampling_logp_difference/mean": 0.25,
    "sampling/sampling_logp_difference/max": 0.5,
  });
});
