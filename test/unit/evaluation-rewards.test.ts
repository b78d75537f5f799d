/** Means of rewards with intervals over problems, and the logged and printed results of an evaluation by reward functions. */
import { expect, test } from "bun:test";
import {
  clusteredMean,
  rewardLines,
  rewardResults,
  rewardValues,
  studentT95,
  summarizeRewards,
} from "../../src/eval/rewards.ts";
import type { RewardResult } from "../../src/rewards/pool/pool.ts";

// scipy.stats.t.ppf(0.975, degrees)
test.each([
  [1, 12.7062047],
  [2, 4.3026527],
  [3, 3.1824463],
  [4, 2.7764451],
  [9, 2.2621572],
  [29, 2.0452296],
  [999, 1.9623415],
])("Student's t with %i degrees of freedom", (degrees, quantile) => {
  expect(Math.abs(studentT95(degrees) - quantile)).toBeLessThan(0.004);
});

test("one answer a problem: the usual interval of a mean", () => {
  const { value, low, high } = clusteredMean([1, 2, 4, 9], [1, 1, 1, 1])!;
  const variance = (9 + 4 + 0 + 25) / 3;
  const half = studentT95(3) * Math.sqrt(variance / 4);
  expect(value).toBe(4);
  expect([low!, high!].map((end) => end - value)).toEqual([expect.closeTo(-half, 12), expect.closeTo(half, 12)]);
});

test("agreeing answers to one problem count as one; unscored answers are left out; one problem has no interval", () => {
  const single = clusteredMean([1, 2, 4], [1, 1, 1])!;
  const tripled = clusteredMean([1, 1, 1, 2, 2, 2, 4, 4, 4], [3, 3, 3])!;
  for (const end of ["value", "low", "high"] as const) expect(tripled[end]!).toBeCloseTo(single[end]!, 12);
  const holes = clusteredMean([1, null, null, 2, null, 4, null, null], [2, 2, 3, 1])!;
  for (const end of ["value", "low", "high"] as const) expect(holes[end]!).toBeCloseTo(single[end]!, 12);
  expect(clusteredMean([3, 5], [2])).toEqual({ value: 4, low: null, high: null });
  expect(clusteredMean([null, null], [1, 1])).toBeNull();
});

test("metrics have TRL's names, results have intervals, and unscored is not 0", () => {
  const result: RewardResult = {
    perFunction: [
      { name: "a", rewards: [1, 0, null, 1], unparsed: 0, timeouts: 0, logs: { metrics: { own: [1, 2] }, extra: {} } },
      { name: "b", rewards: [null, null, null, null], unparsed: 0, timeouts: 0 },
    ],
    total: [2, 0, null, 2],
    reasons: [null, null, null, null],
    warnings: [],
  };
  const summary = summarizeRewards(result, [2, 2]);
  const lines = rewardLines(summary);
  expect(rewardValues(summary)).toEqual({
    reward: 4 / 3,
    reward_std: expect.closeTo(Math.sqrt(4 / 3), 12),
    "rewards/a/mean": 2 / 3,
    "rewards/a/std": expect.closeTo(Math.sqrt(1 / 3), 12),
  });
  expect(rewardValues(null)).toEqual({});
  expect(rewardResults(summary)).toMatchObject({
    own: 1.5,
    reward: { value: 4 / 3, low: expect.any(Number), high: expect.any(Number) },
    unscored: 0.25,
    "rewards/b/mean": null,
    "rewards/b/unscored": 1,
  });
  expect(lines[0]).toMatch(/^reward {12}1\.333 \(.* to .*\), std 1\.155, 25\.0 % not scored$/);
  expect(lines.slice(2)).toEqual(["  b               not scored", "  own             1.5"]);
});
