// Advantages of hand-computed groups. loss.test.ts compares those of the golden rollouts with TRL's.
import { describe, expect, test } from "bun:test";
import { InputError } from "../../src/errors.ts";
import { type AdvantageInput, computeAdvantages, type RewardInput } from "../../src/grpo/advantages.ts";
import { type EstimatorSettings, estimateAdvantages } from "../../src/grpo/estimators/estimators.ts";

const close = (actual: Float64Array, expected: number[]) => {
  expect(actual.length).toBe(expected.length);
  for (const [i, value] of expected.entries()) expect(actual[i], `advantage ${i}`).toBeCloseTo(value, 12);
};

describe("one reward", () => {
  const rewards = [1, 0, 0, 0, 2, 4];
  const groups = [7, 7, 7, 7, 3, 3];

  test("group: Bessel-corrected, groups of different sizes, adjacent or not", () => {
    const { advantages, groupMean, groupStd } = computeAdvantages({ rewards, groups, scaleRewards: "group" });
    const large = Math.SQRT2;
    close(advantages, [0.75 / 0.5001, ...Array(3).fill(-0.25 / 0.5001), -1 / (large + 1e-4), 1 / (large + 1e-4)]);
    expect(groupMean).toEqual([0.25, 3]);
    expect(groupStd[0]).toBeCloseTo(0.5, 14);
    expect(groupStd[1]).toBeCloseTo(large, 14);
    const mixed = computeAdvantages({ rewards: [2, 1, 0, 4, 0, 0], groups: [3, 7, 7, 3, 7, 7], scaleRewards: "group" });
    expect([1, 2, 4, 5, 0, 3].map((i) => mixed.advantages[i])).toEqual([...advantages]);
  });

  test("batch: the mean of the group, the standard deviation of the batch", () => {
    const result = computeAdvantages({ rewards, groups, scaleRewards: "batch" });
    const mean = 7 / 6;
    const std = Math.sqrt(rewards.reduce((sum, reward) => sum + (reward - mean) ** 2, 0) / 5);
    close(
      result.advantages,
      [0.75, -0.25, -0.25, -0.25, -1, 1].map((deviation) => deviation / (std + 1e-4)),
    );
    expect(result.rewardStd).toBeCloseTo(std, 14);
    expect(result.rewardMean).toBeCloseTo(mean, 14);
  });

  test("none: the plain difference from the mean", () => {
    close(computeAdvantages({ rewards, groups, scaleRewards: "none" }).advantages, [0.75, -0.25, -0.25, -0.25, -1, 1]);
  });

  test("equal rewards give exactly 0, even if their sum rounds", () => {
    const result = computeAdvantages({ rewards: Array(7).fill(0.1), groups: Array(7).fill(0), scaleRewards: "group" });
    expect([...result.advantages]).toEqual(Array(7).fill(0));
    expect(result.groupStd).toEqual([0]);
    expect(result.fracRewardZeroStd).toBe(1);
  });
});

describe("null rewards", () => {
  test("are left out of mean and std, and have advantage 0", () => {
    const result = computeAdvantages({ rewards: [1, null, 3, null], groups: [0, 0, 0, 0], scaleRewards: "group" });
    close(result.advantages, [-1 / (Math.SQRT2 + 1e-4), 0, 1 / (Math.SQRT2 + 1e-4), 0]);
    expect(result.groupMean).toEqual([2]);
    expect(result.rewards).toEqual([1, null, 3, null]);
  });

  test("a group with one score or none teaches nothing", () => {
    for (const scaleRewards of ["group", "batch", "none"] as const) {
      const result = computeAdvantages({
        rewards: [5, null, null, null, 0, 1],
        groups: [0, 0, 1, 1, 2, 2],
        scaleRewards,
      });
      expect([...result.advantages.subarray(0, 4)]).toEqual([0, 0, 0, 0]);
      expect(result.groupMean).toEqual([5, null, 0.5]);
      // Without a standard deviation there is none that could be 0, in TRL as here.
      expect(result.fracRewardZeroStd).toBe(0);
    }
  });

  test("nothing scored at all", () => {
    const result = computeAdvantages({ rewards: [null, null], groups: [0, 0], scaleRewards: "batch" });
    expect([...result.advantages]).toEqual([0, 0]);
    expect(result).toMatchObject({ rewardMean: null, rewardStd: null, fracRewardZeroStd: 0 });
  });

  test("rewards whose squares overflow are refused with a cure", () => {
    const of = (rewards: number[] | number[][], weights?: number[]) => () =>
      computeAdvantages({ rewards, groups: [0, 0], scaleRewards: "group", weights });
    expect(of([1e308, -1e308])).toThrow(
      "reward function 0 gave 1e+308 for completion 0; a reward must be within ±3.40e+38 (a 32-bit float): scale it down",
    );
    expect(of([[2 ** 100, 0]], [2 ** 100])).toThrow("the weighted sum of its rewards is 1.6069380442589903e+60");
    const { advantages, rewardStd } = of([3e38, -3e38])();
    expect(rewardStd).toBeCloseTo(3e38 * Math.SQRT2, -25);
    expect([...advantages]).toEqual([expect.closeTo(Math.SQRT1_2, 12), expect.closeTo(-Math.SQRT1_2, 12)]);
  });

  test("one score has a mean and no deviation", () => {
    const result = computeAdvantages({ rewards: [null, 3], groups: [0, 0], scaleRewards: "group" });
    expect(result).toMatchObject({ rewardMean: 3, rewardStd: null });
  });
});

describe("several reward functions", () => {
  const rewards = [
    [1, 0, 1, 0],
    [10, null, 30, null],
  ];
  const groups = [0, 0, 1, 1];

  test("sum_then_normalize: the weighted sum of the scores", () => {
    const result = computeAdvantages({ rewards, weights: [1, 0.5], groups, scaleRewards: "none" });
    expect(result.rewards).toEqual([6, 0, 16, 0]);
    close(result.advantages, [3, -3, 8, -8]);
  });

  test("normalize_then_sum: each in its group, then over the batch", () => {
    const result = computeAdvantages({
      rewards: [
        [1, 0, 1, 0],
        [10, 20, 30, 60],
      ],
      weights: [1, 0.5],
      groups,
      scaleRewards: "group",
      multiObjectiveAggregation: "normalize_then_sum",
    });
    const first = 0.5 / (Math.SQRT1_2 + 1e-4);
    const sums = [
      first - 0.5 * (5 / (50 ** 0.5 + 1e-4)),
      -first + 0.5 * (5 / (50 ** 0.5 + 1e-4)),
      first - 0.5 * (15 / (450 ** 0.5 + 1e-4)),
      -first + 0.5 * (15 / (450 ** 0.5 + 1e-4)),
    ];
    const std = Math.sqrt(sums.reduce((total, sum) => total + sum * sum, 0) / 3);
    close(
      result.advantages,
      sums.map((sum) => sum / (std + 1e-4)),
    );
  });

  test("normalize_then_sum without any score of one completion", () => {
    const result = computeAdvantages({
      rewards: [
        [1, null, 1, 0],
        [2, null, 1, 3],
      ],
      groups,
      scaleRewards: "group",
      multiObjectiveAggregation: "normalize_then_sum",
    });
    expect(result.advantages[1]).toBe(0);
    expect(result.advantages.every(Number.isFinite)).toBe(true);
  });
});

test("warns of groups of one, remarks on small ones", () => {
  const warnings = (groups: number[]) =>
    computeAdvantages({ rewards: groups.map((_, i) => i), groups, scaleRewards: "group" }).warnings;
  expect(warnings([0, 1, 1])).toEqual([
    expect.stringContaining("1 of 2 groups have a single completion"),
    expect.stringContaining("the smallest group has 2 completions"),
  ]);
  expect(warnings(Array(8).fill(0))).toEqual([]);
  expect(warnings(Array(7).fill(0))).toEqual([expect.stringContaining("has 7 completions")]);
});

describe("bad input", () => {
  const of = (rewards: (number | null)[][], weights?: number[]) => () =>
    computeAdvantages({ rewards, groups: [0, 0], scaleRewards: "group", ...(weights && { weights }) });

  test("names the function and the completion", () => {
    expect(of([[1, Number.NaN]])).toThrow(InputError);
    expect(of([[1, Number.NaN]])).toThrow("reward function 0 gave NaN for completion 1");
    expect(
      of([
        [1, 0],
        [Infinity, 0],
      ]),
    ).toThrow("reward function 1 gave Infinity for completion 0");
    expect(of([[1, 0, 1]])).toThrow("gave 3 rewards for 2 completions");
    expect(of([[1, 0]], [1, 2])).toThrow("2 weights for 1 reward functions");
  });
});

test("spread: some group has differing scores; missing scores, other functions and zero weights do not count", () => {
  const groups = [0, 0, 1, 1];
  const spread = (rewards: RewardInput["rewards"], more: Partial<AdvantageInput> = {}) =>
    computeAdvantages({ rewards, groups, scaleRewards: "group", ...more }).hasSpread;
  expect(spread([1, 1, 2, 3])).toBe(true);
  expect(spread([1, 1, 2, 2])).toBe(false);
  // Half of the groups count as equal: the others have no score.
  expect(spread([1, 1, null, null])).toBe(false);
  expect(spread([1, null, 2, null])).toBe(false);
  const evenOut = [
    [1, 2, 0, 0],
    [2, 1, 0, 0],
  ];
  expect(spread(evenOut)).toBe(false);
  expect(spread(evenOut, { multiObjectiveAggregation: "normalize_then_sum" })).toBe(true);
  // As the trainer calls it.
  const input = { rewards: evenOut, groups, lengths: [1, 1, 1, 1], finished: [true, true, true, true] };
  const settings: EstimatorSettings = {
    ...{ advantageEstimator: "grpo", scaleRewards: "group", multiObjectiveAggregation: "normalize_then_sum" },
    ...{ beta: 0, gamma: 1, lam: 1, whitenAdvantages: true, maskTruncatedCompletions: false },
  };
  expect(estimateAdvantages({ ...input, kl: null, values: null }, settings).hasSpread).toBe(true);
  expect(
    spread([evenOut[0]!, [0, 0, 0, 0]], { multiObjectiveAggregation: "normalize_then_sum", weights: [0, 1] }),
  ).toBe(false);
});
