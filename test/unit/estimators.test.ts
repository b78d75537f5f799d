// Advantage estimators against references written straight from the papers' formulas, as double sums instead of the code's
// recursions.
import { describe, expect, test } from "bun:test";
import { randomFrom } from "../../bench/ops/random.ts";
import { computeAdvantages } from "../../src/grpo/advantages.ts";
import {
  type AdvantageEstimator,
  ESTIMATORS,
  type EstimatorInput,
  type EstimatorSettings,
  estimateAdvantages,
  klOfTokens,
} from "../../src/grpo/estimators/estimators.ts";

const SETTINGS: EstimatorSettings = {
  advantageEstimator: "grpo",
  scaleRewards: "group",
  beta: 0.3,
  gamma: 1,
  lam: 0.95,
  whitenAdvantages: true,
  maskTruncatedCompletions: false,
};

type OneReward = Omit<EstimatorInput, "rewards"> & { readonly rewards: number[] };

/** Three groups of 4, 3 and 2 completions of 1 to 7 tokens. */
function randomInput(seed: number, change: Partial<EstimatorInput> = {}): OneReward {
  const random = randomFrom(`estimators ${seed}`).uniform;
  const groups = [5, 5, 5, 5, 2, 2, 2, 9, 9];
  const lengths = groups.map(() => 1 + Math.floor(7 * random()));
  const tokens = (scale: number) =>
    lengths.map((n) => Float64Array.from({ length: n }, () => scale * (random() - 0.3)));
  const rewards = groups.map(() => Math.round(10 * random()) / 5);
  const finished = groups.map(() => random() < 0.7);
  return { groups, lengths, finished, kl: tokens(0.2), values: tokens(2), ...change, rewards };
}

const estimate = (
  advantageEstimator: AdvantageEstimator,
  input: EstimatorInput,
  more: Partial<EstimatorSettings> = {},
) => estimateAdvantages(input, { ...SETTINGS, advantageEstimator, ...more });

const sum = (values: ArrayLike<number>): number => Array.from(values).reduce((a, b) => a + b, 0);

function expectClose(got: ArrayLike<number>, want: ArrayLike<number>, digits = 12): void {
  expect(got.length).toBe(want.length);
  for (let i = 0; i < want.length; i++) expect(got[i]!, `value ${i}`).toBeCloseTo(want[i]!, digits);
}

/** (x − mean) ÷ √(Bessel-corrected variance + 1e-8) over all tokens: `masked_whiten` of TRL's PPO. */
function whitened(tokens: number[][], counts: readonly boolean[] = tokens.map(() => true)): number[][] {
  const all = tokens.filter((_, i) => counts[i]).flat();
  const mean = sum(all) / all.length;
  const variance = sum(all.map((x) => (x - mean) ** 2)) / (all.length - 1);
  return tokens.map((values, i) => (counts[i] ? values.map((x) => (x - mean) / Math.sqrt(variance + 1e-8)) : [0]));
}

const asTokens = (advantage: number | ArrayLike<number>) =>
  typeof advantage === "number" ? [advantage] : Array.from(advantage);

describe("rloo", () => {
  // arXiv 2402.14740, eq. 8: R(y_i) − 1/(k−1) · Σ_{j≠i} R(y_j)
  test.each([1, 2, 3])("is the paper's equation 8, the KL subtracted from each reward (seed %i)", (seed) => {
    for (const kl of [null, randomInput(seed).kl]) {
      const input = randomInput(seed, { kl });
      const net = input.rewards.map((reward, i) => reward - (kl ? SETTINGS.beta * sum(kl[i]!) : 0));
      const want = net.map((reward, i) => {
        const others = net.filter((_, j) => j !== i && input.groups[j] === input.groups[i]);
        return reward - sum(others) / others.length;
      });
      expectClose(estimate("rloo", input).advantages as number[], want);
    }
  });

  test("completions without a reward are left out, and a single completion has no baseline", () => {
    const input = randomInput(4, { kl: null });
    const rewards = [3, null, 1, 2, null, 5, null, null, null];
    const { advantages, fracRewardZeroStd } = estimate("rloo", { ...input, rewards });
    expectClose(advantages as number[], [1.5, 0, -1.5, 0, 0, 0, 0, 0, 0]);
    expect(fracRewardZeroStd).toBe(0); // no group of two scores has equal ones
  });
});

describe("reinforce_plus_plus", () => {
  // arXiv 2501.03262: A_t = r − β·Σ_{i≥t} KL_i, normalized over the batch; with γ each later token's part by γ^(i−t)
  const reference = (input: ReturnType<typeof randomInput>, rewards: number[], gamma: number) =>
    rewards.map((reward, c) =>
      Array.from({ length: input.lengths[c]! }, (_, t) => {
        const end = input.lengths[c]! - 1;
        let total = gamma ** (end - t) * reward;
        for (let i = t; i <= end; i++) total -= gamma ** (i - t) * SETTINGS.beta * (input.kl?.[c]?.[i] ?? 0);
        return total;
      }),
    );

  test.each([1, 0.9])("returns-to-go over the batch's tokens, gamma %d", (gamma) => {
    for (const seed of [1, 2, 3]) {
      const input = randomInput(seed);
      const { advantages } = estimate("reinforce_plus_plus", input, { gamma });
      const want = whitened(reference(input, input.rewards, gamma));
      for (const [i, tokens] of want.entries()) expectClose(advantages[i] as Float64Array, tokens);
    }
  });

  test("baseline: the group's mean is subtracted first", () => {
    for (const kl of [null, randomInput(7).kl]) {
      const input = randomInput(7, { kl });
      const centred = input.rewards.map((reward, i) => {
        const group = input.rewards.filter((_, j) => input.groups[j] === input.groups[i]);
        return reward - sum(group) / group.length;
      });
      const { advantages } = estimate("reinforce_plus_plus_baseline", input);
      for (const [i, tokens] of whitened(reference(input, centred, 1)).entries())
        expectClose(advantages[i] as Float64Array, tokens);
    }
  });

  test("completions masked by the loss count in no statistic", () => {
    const input = randomInput(8);
    expect(input.finished).toContain(false);
    const { advantages } = estimate("reinforce_plus_plus", input, { maskTruncatedCompletions: true });
    const want = whitened(reference(input, input.rewards, 1), input.finished);
    for (const [i, tokens] of want.entries()) expectClose(asTokens(advantages[i]!), tokens);
  });

  test("equal rewards give exactly 0", () => {
    const rewards = new Array<number>(9).fill(0.1);
    for (const name of ["reinforce_plus_plus", "reinforce_plus_plus_baseline"] as const) {
      const { advantages } = estimate(name, { ...randomInput(9, { kl: null }), rewards });
      for (const tokens of advantages) for (const a of tokens as Float64Array) expect(a).toBe(0);
    }
  });
});

describe("gae", () => {
  // arXiv 1506.02438, eq. 16: A_t = Σ_l (γλ)^l·δ_{t+l}, δ_t = r_t + γ·V_{t+1} − V_t
  const reference = (input: ReturnType<typeof randomInput>, gamma: number, lam: number) =>
    input.rewards.map((reward, c) => {
      const T = input.lengths[c]!;
      const value = (t: number) => (t < T ? input.values![c]![t]! : 0);
      const r = (t: number) => (t === T - 1 ? reward : 0) - SETTINGS.beta * (input.kl?.[c]?.[t] ?? 0);
      const delta = (t: number) => r(t) + gamma * value(t + 1) - value(t);
      return Array.from({ length: T }, (_, t) =>
        sum(Array.from({ length: T - t }, (_unused, l) => (gamma * lam) ** l * delta(t + l))),
      );
    });

  test.each([
    [1, 0.95],
    [0.9, 0.5],
    [1, 1],
    [1, 0],
  ])(
    "is the paper's equation 16 at gamma %d, lambda %d; returns are advantages before whitening plus values",
    (gamma, lam) => {
      for (const kl of [null, randomInput(3).kl]) {
        const input = randomInput(3, { kl });
        const raw = reference(input, gamma, lam);
        const plain = estimate("gae", input, { gamma, lam, whitenAdvantages: false });
        const white = estimate("gae", input, { gamma, lam });
        for (const [i, tokens] of raw.entries()) {
          expectClose(plain.advantages[i] as Float64Array, tokens);
          expectClose(white.advantages[i] as Float64Array, whitened(raw)[i]!);
          const returns = tokens.map((a, t) => a + input.values![i]![t]!);
          expectClose(plain.returns![i]!, returns);
          expect(white.returns![i]!).toEqual(plain.returns![i]!);
        }
      }
    },
  );

  test("lambda 1, gamma 1: the return of every token is the reward", () => {
    const input = randomInput(5, { kl: null });
    const { returns, metrics } = estimate("gae", input, { lam: 1 });
    for (const [i, of] of returns!.entries()) expectClose(of!, new Array<number>(of!.length).fill(input.rewards[i]!));
    expect(metrics["returns/mean"]).toBeCloseTo(sum(returns!.map((of) => sum(of!))) / sum(input.lengths), 12);
  });

  test("a completion without a reward has advantage 0 and no return", () => {
    const input = randomInput(6);
    const rewards = input.rewards.map((reward, i) => (i === 4 ? null : reward));
    const { advantages, returns } = estimate("gae", { ...input, rewards });
    expect([advantages[4], returns![4]]).toEqual([0, null]);
    expect(advantages[3]).toBeInstanceOf(Float64Array);
  });

  test("explained variance: 1 if values are the returns, 0 if they are constant", () => {
    const input = randomInput(5, { kl: null });
    const perfect = input.rewards.map((reward, i) => new Float64Array(input.lengths[i]!).fill(reward));
    const constant = perfect.map((values) => values.map(() => 0.4));
    const of = (values: Float64Array[]) => estimate("gae", { ...input, values }, { lam: 1 }).metrics;
    expect(of(perfect)["value/explained_variance"]).toBeCloseTo(1, 12);
    expect(of(constant)["value/explained_variance"]).toBeCloseTo(0, 12);
  });

  test("needs values", () => {
    expect(() => estimate("gae", randomInput(1, { values: null }))).toThrow("critic");
  });
});

describe("grpo", () => {
  test.each(["group", "batch", "none"] as const)("is computeAdvantages, scale %s", (scaleRewards) => {
    const input = randomInput(2, { kl: null });
    const want = computeAdvantages({ rewards: input.rewards, groups: input.groups, scaleRewards });
    const got = estimate("grpo", input, { scaleRewards });
    expect(got.advantages as number[]).toEqual([...want.advantages]);
    expect(got).toMatchObject({ rewardMean: want.rewardMean, rewardStd: want.rewardStd, warnings: want.warnings });
  });

  test("KL in the reward: the same as rewards reduced by it, except in the reward statistics", () => {
    const input = randomInput(2);
    const rewards = input.rewards.map((reward, i) => reward - SETTINGS.beta * sum(input.kl![i]!));
    for (const scaleRewards of ["group", "batch", "none"] as const) {
      const got = estimate("grpo", input, { scaleRewards });
      const want = estimate("grpo", { ...input, rewards, kl: null }, { scaleRewards });
      expectClose(got.advantages as number[], want.advantages as number[]);
      expect(got.rewardMean).toBeCloseTo(sum(input.rewards) / 9, 12);
      expect(got.metrics.kl_penalty).toBeCloseTo((SETTINGS.beta * sum(input.kl!.map(sum))) / 9, 12);
      expect(got.metrics.kl).toBeCloseTo(sum(input.kl!.map(sum)) / sum(input.lengths), 12);
    }
  });

  // GDPO, arXiv 2601.05242: A_k = (r_k − mean) ÷ std in the group for each reward, Σ_k w_k·A_k, normalized over the batch
  test("GDPO: each function normalized in its group, the weighted sum over the batch", () => {
    const { groups, ...rest } = randomInput(3, { kl: null });
    const rewards = [randomInput(11).rewards, randomInput(12).rewards];
    const weights = [1, 0.25];
    const mean = (v: number[]) => sum(v) / v.length;
    const std = (v: number[]) => Math.sqrt(sum(v.map((x) => (x - mean(v)) ** 2)) / (v.length - 1));
    const sums = Array.from(groups as number[], (group, i) =>
      sum(
        rewards.map((values, k) => {
          const members = values.filter((_, j) => groups[j] === group);
          return (weights[k]! * (values[i]! - mean(members))) / (std(members) + 1e-4);
        }),
      ),
    );
    const want = sums.map((value) => (value - mean(sums)) / (std(sums) + 1e-4));
    const got = estimate(
      "grpo",
      { ...rest, groups, rewards, weights },
      { multiObjectiveAggregation: "normalize_then_sum" },
    );
    expectClose(got.advantages as number[], want);
    // With KL in the reward, it is one more objective with weight −1.
    const kl = randomInput(3).kl!;
    const penalties = kl.map((of) => SETTINGS.beta * sum(of));
    const more = { multiObjectiveAggregation: "normalize_then_sum" } as const;
    const charged = estimate("grpo", { ...rest, groups, rewards, weights, kl }, more);
    const asReward = { ...rest, groups, rewards: [...rewards, penalties], weights: [...weights, -1], kl: null };
    expectClose(charged.advantages as number[], estimate("grpo", asReward, more).advantages as number[]);
  });
});

test("several functions with weights are one reward to every estimator, and none mutates its input", () => {
  const input = randomInput(6);
  const other = randomInput(13).rewards;
  const total = input.rewards.map((reward, i) => 2 * reward - 0.5 * other[i]!);
  for (const name of Object.keys(ESTIMATORS) as AdvantageEstimator[]) {
    const before = JSON.stringify(input);
    const two = estimate(name, { ...input, rewards: [input.rewards, other], weights: [2, -0.5] });
    const one = estimate(name, { ...input, rewards: total });
    for (const [i, advantage] of two.advantages.entries())
      expectClose(asTokens(advantage), asTokens(one.advantages[i]!));
    expect(JSON.stringify(input)).toBe(before);
    expect(() => estimate(name, { ...input, rewards: [Number.NaN, ...other.slice(1)] })).toThrow("completion 0");
  }
});

test("the KL of tokens is the estimator's, of π_old against the reference", () => {
  const [old, reference] = [[Float64Array.of(-1, -2)], [Float64Array.of(-1.5, -1)]];
  expectClose(klOfTokens("k1", old, reference)[0]!, [0.5, -1]);
  expectClose(klOfTokens("k2", old, reference)[0]!, [0.125, 0.5]);
  expectClose(klOfTokens("k3", old, reference)[0]!, [Math.exp(-0.5) - 0.5, Math.E - 2]);
});
