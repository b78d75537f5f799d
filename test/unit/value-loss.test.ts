// PPO's losses against a float64 reference written here from the formulas: the clipped value loss, and the policy's with
// per-token advantages; gradients against finite differences; any cut gives the same bits.
import { describe, expect, test } from "bun:test";
import { randomFrom } from "../../bench/ops/random.ts";
import { RunError } from "../../src/errors.ts";
import { LOSS_DEFAULTS, type LossCompletion, type LossConfig } from "../../src/grpo/loss/config.ts";
import { computeLoss } from "../../src/grpo/loss/loss.ts";
import { foldMetrics } from "../../src/grpo/loss/metrics.ts";
import { stepDenominators } from "../../src/grpo/loss/step.ts";
import {
  computeValueLoss,
  type ValueCompletion,
  type ValueLossConfig,
  valueTokens,
} from "../../src/grpo/loss/value.ts";

const CONFIG: ValueLossConfig = { cliprangeValue: 0.2, vfCoef: 0.1, maskTruncatedCompletions: false };

function randomStep(seed: string): ValueCompletion[] {
  const { normal, integer, uniform } = randomFrom(seed);
  return Array.from({ length: 9 }, (_, index) => {
    const T = 1 + integer(8);
    const oldValues = normal(T);
    const moved = normal(T, 0.2);
    const returns = index === 4 ? null : normal(T);
    return { index, oldValues, values: oldValues.map((v, t) => v + moved[t]!), returns, finished: uniform() < 0.7 };
  });
}

const whole = (step: readonly ValueCompletion[], config: ValueLossConfig) =>
  computeValueLoss(step, valueTokens(step, config), config);

/** vf_coef · ½ · mean of max((V − R)², (clip(V, V_old ± ε) − R)²): TRL's PPOTrainer and OpenAI's baselines. */
function reference(
  step: readonly ValueCompletion[],
  { cliprangeValue, vfCoef, maskTruncatedCompletions }: ValueLossConfig,
) {
  const terms = step.flatMap(({ values, oldValues, returns, finished }) =>
    returns === null || (maskTruncatedCompletions && !finished)
      ? []
      : Array.from(values, (v, t) => {
          const clipped = Math.max(Math.min(v, oldValues[t]! + cliprangeValue), oldValues[t]! - cliprangeValue);
          return { free: (v - returns[t]!) ** 2, clipped: (clipped - returns[t]!) ** 2 };
        }),
  );
  const mean = (of: (term: { free: number; clipped: number }) => number) =>
    terms.reduce((total, term) => total + of(term), 0) / terms.length;
  return {
    loss: vfCoef * 0.5 * mean(({ free, clipped }) => Math.max(free, clipped)),
    clipRatio: mean(({ free, clipped }) => (clipped > free ? 1 : 0)),
  };
}

describe("value loss", () => {
  const configs: ValueLossConfig[] = [
    CONFIG,
    { ...CONFIG, cliprangeValue: 0.05, vfCoef: 0.5 },
    { ...CONFIG, maskTruncatedCompletions: true },
  ];

  test.each(configs)("equals the formula, and its gradient the finite difference: %j", (config) => {
    const step = randomStep("value loss");
    const { loss, dvalues, metrics } = whole(step, config);
    const want = reference(step, config);
    expect(loss).toBeCloseTo(want.loss, 13);
    const folded = foldMetrics([metrics]);
    expect(folded["value/loss"]).toBeCloseTo(want.loss / config.vfCoef, 12);
    expect(folded["value/clip_ratio"]).toBeCloseTo(want.clipRatio, 12);
    expect(want.clipRatio).toBeGreaterThan(0);
    const h = 1e-6;
    let entry = 0;
    for (const [c, { values }] of step.entries())
      for (let t = 0; t < values.length; t++, entry++) {
        const shifted = (by: number) =>
          reference(
            step.map((other, i) => (i === c ? { ...other, values: other.values.with(t, values[t]! + by) } : other)),
            config,
          ).loss;
        expect(Math.abs(dvalues[entry]! - (shifted(h) - shifted(-h)) / (2 * h))).toBeLessThan(1e-8);
      }
    expect(dvalues.some((d) => d !== 0)).toBe(true);
  });

  test("any cut of a step gives the same gradients to the bit, and the same loss and metrics", () => {
    const random = randomFrom("cuts of the value loss");
    for (let round = 0; round < 50; round++) {
      const config = configs[round % configs.length]!;
      const step = randomStep(`round ${round}`);
      const tokens = valueTokens(step, config);
      const uncut = whole(step, config);
      const cut = random.integer(step.length);
      const parts = [step.slice(0, cut), step.slice(cut)].map((part) => computeValueLoss(part, tokens, config));
      expect(parts.flatMap(({ dvalues }) => [...dvalues])).toEqual([...uncut.dvalues]);
      expect(parts[0]!.loss + parts[1]!.loss).toBeCloseTo(uncut.loss, 13);
      const [metrics, want] = [foldMetrics(parts.map((part) => part.metrics)), foldMetrics([uncut.metrics])];
      for (const [name, value] of Object.entries(want)) expect(metrics[name], name).toBeCloseTo(value!, 12);
    }
  });

  test("beyond the clip range and moving away from the return, a value has no gradient", () => {
    const one = (value: number, returns: number) =>
      whole(
        [
          {
            ...{ index: 0, finished: true, oldValues: Float64Array.of(0) },
            ...{ values: Float64Array.of(value), returns: Float64Array.of(returns) },
          },
        ],
        { ...CONFIG, vfCoef: 1 },
      ).dvalues[0]!;
    expect(one(0.1, 1)).toBeCloseTo(-0.9, 12); // within the range: V − R
    expect(one(0.5, 1)).toBe(0); // already further than the range allows
    expect(one(1.5, 0)).toBeCloseTo(1.5, 12); // it overshot: the unclipped error is the larger
  });

  test("nothing to learn from gives loss 0; non-finite inputs are named", () => {
    const step = randomStep("empty").map((completion) => ({ ...completion, returns: null }));
    const { loss, dvalues } = whole(step, CONFIG);
    expect([loss, ...dvalues].every((x) => x === 0)).toBe(true);
    const broken = randomStep("broken").map((c) =>
      c.index === 3 ? { ...c, values: c.values.with(0, Number.NaN) } : c,
    );
    expect(() => whole(broken, CONFIG)).toThrow(RunError);
    expect(() => whole(broken, CONFIG)).toThrow("completion 3, token 0 is NaN");
  });
});

describe("PPO's policy loss", () => {
  // arXiv 1707.06347, eq. 7, minimized: the mean over tokens of max(−A·ρ, −A·clip(ρ, 1 − ε, 1 + ε)), A per token
  test("with per-token advantages it is the paper's equation 7, averaged over the batch's tokens", () => {
    const { normal, integer } = randomFrom("ppo policy loss");
    const batch = Array.from({ length: 6 }, (_, index): LossCompletion => {
      const T = 1 + integer(8);
      const oldLogprobs = normal(T);
      const moved = normal(T, 0.25);
      const logprobs = oldLogprobs.map((l, t) => l + moved[t]!);
      const shared = { index, logprobs, oldLogprobs, entropies: new Float64Array(T).fill(1), finished: true };
      return { ...shared, refLogprobs: null, samplingLogprobs: null, advantage: normal(T) };
    });
    const config: LossConfig = { ...LOSS_DEFAULTS, lossType: "dapo", beta: 0 };
    const loss = (of: readonly LossCompletion[]) => {
      const terms = of.flatMap(({ logprobs, oldLogprobs, advantage }) =>
        Array.from(logprobs, (l, t) => {
          const ratio = Math.exp(l - oldLogprobs![t]!);
          const a = (advantage as Float64Array)[t]!;
          return Math.max(-a * ratio, -a * Math.min(Math.max(ratio, 0.8), 1.2));
        }),
      );
      return terms.reduce((x, y) => x + y, 0) / terms.length;
    };
    const result = computeLoss(batch, stepDenominators(batch, config), config);
    expect(result.loss).toBeCloseTo(loss(batch), 13);
    const h = 1e-6;
    let entry = 0;
    for (const [c, { logprobs }] of batch.entries())
      for (let t = 0; t < logprobs.length; t++, entry++) {
        const shifted = (by: number) =>
          loss(batch.map((o, i) => (i === c ? { ...o, logprobs: o.logprobs.with(t, logprobs[t]! + by) } : o)));
        expect(Math.abs(result.dlogprobs[entry]! - (shifted(h) - shifted(-h)) / (2 * h))).toBeLessThan(1e-8);
      }
  });
});
