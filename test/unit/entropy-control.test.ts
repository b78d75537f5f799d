// The adaptive entropy bonus (Skywork-OR1, arXiv 2505.22312): TRL's own numbers, and the state that a run keeps.
import { describe, expect, test } from "bun:test";
import {
  appliedEntropyCoef,
  type EntropySettings,
  nextEntropyControl,
  startEntropyControl,
} from "../../src/grpo/learner/entropy-control.ts";
import { stepDenominators } from "../../src/grpo/loss/step.ts";
import { computeLoss, LOSS_DEFAULTS, type LossConfig } from "../../src/index.ts";
import recorded from "../golden/entropy-control.json" with { type: "json" };

const settings: EntropySettings = {
  entropyCoef: 0.01,
  useAdaptiveEntropy: true,
  entropyCoefMin: 0,
  entropyCoefMax: 0.02,
  entropyCoefDelta: 0.005,
  entropyTarget: 0.2,
};

/** A step's loss and mean entropy, given only entropies: all advantages are 0. */
function step(entropies: readonly (readonly number[])[], entropyCoef: number) {
  const config: LossConfig = { ...LOSS_DEFAULTS, beta: 0, entropyCoef };
  const completions = entropies.map((values, index) => {
    const logprobs = new Float64Array(values.length).fill(-1);
    const others = { oldLogprobs: null, refLogprobs: null, samplingLogprobs: null };
    return { index, logprobs, entropies: Float64Array.from(values), ...others, advantage: 0, finished: true };
  });
  const denominators = stepDenominators(completions, config);
  const { loss, entropySum } = computeLoss(completions, denominators, config);
  return { loss, meanEntropy: entropySum / denominators.entropyTokens };
}

describe("TRL's numbers over five steps", () => {
  test.each(Object.entries(recorded.cases))("%s", (_, { settings: s, steps }) => {
    const given: EntropySettings = {
      ...{ entropyCoef: s.entropy_coef, useAdaptiveEntropy: s.use_adaptive_entropy, entropyTarget: s.entropy_target },
      ...{ entropyCoefMin: s.entropy_coef_min, entropyCoefMax: s.entropy_coef_max },
      entropyCoefDelta: s.entropy_coef_delta,
    };
    let control = startEntropyControl(given);
    expect(steps.length).toBe(5);
    for (const [i, { applied, logged, entropies }] of steps.entries()) {
      const coef = appliedEntropyCoef(control, given);
      expect(coef, `applied in step ${i + 1}`).toBeCloseTo(applied, 6);
      const { loss, meanEntropy } = step(entropies.flat(), coef);
      expect(loss).toBeCloseTo(-coef * meanEntropy, 12);
      control = nextEntropyControl(control, meanEntropy, given);
      expect(control.coef, `after step ${i + 1}`).toBeCloseTo(logged, 12);
    }
  });
});

test("its state is JSON: a resumed run continues with the same numbers", () => {
  let [control, resumed] = [startEntropyControl(settings), startEntropyControl(settings)];
  for (const entropy of [0.1, 0.3, 0.15]) {
    control = nextEntropyControl(control, entropy, settings);
    resumed = nextEntropyControl(JSON.parse(JSON.stringify(resumed)), entropy, settings);
  }
  expect(resumed).toEqual(control);
});

test("a step without counted tokens measures nothing", () => {
  const control = nextEntropyControl(startEntropyControl(settings), 0.1, settings);
  expect(nextEntropyControl(control, null, settings)).toEqual(control);
});

test("off: the coefficient stays", () => {
  const off = { ...settings, useAdaptiveEntropy: false };
  const start = startEntropyControl(off);
  expect(nextEntropyControl(start, 0.1, off)).toEqual(start);
  expect(appliedEntropyCoef(nextEntropyControl(start, 9, off), off)).toBe(0.01);
});
