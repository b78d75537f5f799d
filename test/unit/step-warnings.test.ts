// Steps that cannot teach anything, and runs that learn something else than was meant, cause a warning: once, and again only
// after they were over for a while. On made-up streams of metrics.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createStepWarnings, rearmSteps } from "../../src/grpo/step-warnings.ts";
import { correlation, traps } from "../../src/grpo/traps.ts";

const healthy = {
  ...{ reward: 0.3, "completions/clipped_ratio": 0.8, "completions/mean_length": 100 },
  ...{ "clip_ratio/region_mean": 0.1, entropy: 0.4, kl: 0.01 },
};
type Change = Readonly<Record<string, number | null>>;

/** The steps at which a warning with this text is given; `at` changes a healthy step. */
function told(text: string, steps: number, at: (step: number) => Change & { readonly flat?: number }): number[] {
  const warnings = createStepWarnings();
  const found: number[] = [];
  for (let step = 1; step <= steps; step++) {
    const { flat, eval_accuracy, ...values } = at(step);
    const said = warnings.step({ step, ...healthy, ...values }, flat === undefined);
    for (const line of said) expect(line).toStartWith(`step ${step}: `);
    if (said.some((line) => line.includes(text))) found.push(step);
    if (eval_accuracy !== undefined) warnings.evaluated({ eval_accuracy });
  }
  return found;
}

test("no warning for healthy steps, or for absent metrics", () => {
  const warnings = createStepWarnings();
  for (let step = 1; step <= 200; step++) expect(warnings.step({ step, ...healthy }, true)).toEqual([]);
  expect(createStepWarnings().step({ step: 2 }, true)).toEqual([]);
  // A step without counted tokens has no entropy, so none that collapsed.
  expect(
    createStepWarnings().step({ step: 3, ...healthy, entropy: null, "clip_ratio/region_mean": null }, true),
  ).toEqual([]);
});

test.each([
  ["all rewards within each group are equal (mean 0.300)", { flat: 1 }],
  ["no completion was scored", { reward: null, flat: 1 }],
  ["every completion was cut at max_completion_length", { "completions/clipped_ratio": 1 }],
  ["73 % of the ratios are clipped", { "clip_ratio/region_mean": 0.73 }],
  ["100 % of the ratios are clipped", { cispo_clip_ratio: 1 }],
  ["the entropy is down to 4.0e-3 nats", { entropy: 0.004 }],
])("a single step: %s", (text, change) => {
  const { flat, ...values } = change as { flat?: number };
  const said = createStepWarnings().step({ step: 7, ...healthy, ...values }, flat === undefined);
  expect(said).toEqual([expect.stringContaining(`step 7: ${text}`)]);
});

test("almost everything truncated, for five steps", () => {
  const cut = (share: number) => () => ({ "completions/clipped_ratio": share });
  expect(told("97 % of the completions are cut at max_completion_length", 50, cut(0.97))).toEqual([5]);
  expect(told("cut at", 50, cut(0.94))).toEqual([]);
});

test("equal rewards do not matter to an estimator that does not compare within groups", () => {
  expect(createStepWarnings({ usesGroups: false }).step({ step: 1, ...healthy }, false)).toEqual([]);
});

describe("each is told once", () => {
  test("while it holds, and again after it was over for 20 steps in a row", () => {
    expect(told("are equal", 300, () => ({ flat: 1 }))).toEqual([1]);
    // Over for 19 steps: the same spell. For 20: the next one is told.
    expect(told("are equal", 300, (step): Change => (step % 20 === 1 ? { flat: 1 } : {}))).toEqual([1]);
    expect(told("are equal", 60, (step): Change => (step % 21 === 1 ? { flat: 1 } : {}))).toEqual([1, 22, 43]);
    expect(rearmSteps).toBe(20);
  });

  test("as long as it stays in the band between its beginning and its end", () => {
    // 0.6 begins, 0.4 neither begins nor ends, 0.2 ends.
    const clipped = (low: number) => (step: number) => ({ "clip_ratio/region_mean": step % 30 === 0 ? 0.6 : low });
    expect(told("are clipped", 200, clipped(0.4))).toEqual([30]);
    expect(told("are clipped", 200, clipped(0.2))).toEqual([30, 60, 90, 120, 150, 180]);
    expect(told("was cut", 200, (step) => ({ "completions/clipped_ratio": step % 30 === 0 ? 1 : 0.92 }))).toEqual([30]);
  });

  test("independent of the others", () => {
    const warnings = createStepWarnings();
    expect(warnings.step({ step: 1, ...healthy }, false)).toHaveLength(1);
    expect(warnings.step({ step: 2, ...healthy, "completions/clipped_ratio": 1 }, false)).toEqual([
      expect.stringContaining("was cut"),
    ]);
  });
});

describe("KL", () => {
  test("that climbs is told once, at the median of five steps", () => {
    const climbing = (step: number) => ({ kl: 0.02 * step });
    // The median of steps 24 to 28 is 0.52.
    expect(told("KL to the reference is up to 0.52", 100, climbing)).toEqual([28]);
  });

  test("of single steps, however enormous, is none; nor are NaN and null", () => {
    expect(told("KL", 200, (step) => ({ kl: step % 3 === 0 ? 1e6 : 0.01 }))).toEqual([]);
    expect(told("KL", 50, (step) => ({ kl: step % 2 === 0 ? Number.NaN : null }))).toEqual([]);
  });
});

describe("entropy", () => {
  test("that falls below a tenth of the run's beginning", () => {
    // 2 nats at first, halved every 10 steps: a tenth after 33, and the mean lags behind by two.
    const [step, ...more] = told("the entropy is down to", 60, (at) => ({ entropy: 2 * 0.5 ** (at / 10) }));
    expect(more).toEqual([]);
    expect(step).toBeGreaterThan(34);
    expect(step).toBeLessThan(42);
  });

  test("that falls by half, or swings from step to step, is none", () => {
    expect(told("entropy", 200, (step) => ({ entropy: step < 50 ? 0.4 : 0.2 }))).toEqual([]);
    expect(told("entropy", 200, (step) => ({ entropy: step % 5 === 0 ? 0.005 : 0.3 }))).toEqual([]);
  });

  test("comes back, and collapses again", () => {
    const spells = (step: number) => ({ entropy: step % 60 < 20 ? 0.004 : 0.4 });
    expect(told("the entropy is down to", 160, spells)).toEqual([1, 64, 124]);
  });
});

describe("length", () => {
  const noise = (step: number) => 0.01 * Math.sin(step * 12.9898);
  const longer = (step: number) => ({
    "completions/mean_length": 100 + 4 * step,
    reward: 0.2 + 0.01 * step + noise(step),
  });

  test("that the reward follows while held-out accuracy stays", () => {
    const stream = (step: number) => ({ ...longer(step), ...(step % 10 === 1 ? { eval_accuracy: 0.4 } : {}) });
    const [step, ...more] = told("accuracy does not rise (0.40 to 0.40): length may be what is rewarded", 200, stream);
    expect(more).toEqual([]);
    expect(step).toBe(30);
  });

  test("is no sign while accuracy rises, evaluated or by a verifier's reward", () => {
    const evaluated = (step: number) => ({
      ...longer(step),
      ...(step % 10 === 1 ? { eval_accuracy: 0.4 + step / 500 } : {}),
    });
    expect(told("length", 200, evaluated)).toEqual([]);
    expect(told("length", 100, (step) => ({ ...longer(step), "rewards/gsm8k/mean": 0.2 + 0.005 * step }))).toEqual([]);
  });

  test("is one while a verifier's reward stays, though the sum of rewards rises", () => {
    const stream = (step: number) => ({ ...longer(step), "rewards/math/mean": 0.3 + noise(step) });
    expect(told("length may be what is rewarded", 100, stream)).toEqual([30]);
  });

  test("is one without any accuracy only if completions double and the reward follows closely", () => {
    const gentle = (step: number) => ({ ...longer(step), "completions/mean_length": 100 + 2 * step });
    expect(told("there is no accuracy to tell", 60, gentle)).toEqual([]);
    const steep = (step: number) => ({ ...longer(step), "completions/mean_length": 100 + 8 * step });
    expect(told("there is no accuracy to tell", 60, steep)).toHaveLength(1);
  });

  test("is none if completions grow without the reward, or the reward without them", () => {
    const accuracy = (step: number): Change => (step % 10 === 1 ? { eval_accuracy: 0.4 } : {});
    expect(
      told("length may", 200, (step) => ({ ...longer(step), reward: 0.3 + noise(step), ...accuracy(step) })),
    ).toEqual([]);
    const flat = (step: number) => ({
      ...longer(step),
      "completions/mean_length": 100 + noise(step),
      ...accuracy(step),
    });
    expect(told("length may", 200, flat)).toEqual([]);
  });

  test("correlation: Anscombe's first set, exact lines, and what does not vary", () => {
    const x = [10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5];
    const y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68];
    expect(correlation(x, y)).toBeCloseTo(0.816, 3);
    expect(
      correlation(
        x,
        x.map((value) => -2 * value),
      ),
    ).toBeCloseTo(-1, 12);
    expect(correlation([1, 2, 3], [5, 5, 5])).toBe(0);
  });
});

test("docs/logging.md has every one with its thresholds", () => {
  const text = readFileSync(join(import.meta.dir, "../../docs/logging.md"), "utf8");
  for (const { name, when, until } of traps) expect(text).toContain(`| ${name} | ${when} | ${until} |`);
});
