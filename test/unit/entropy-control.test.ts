// The adaptive entropy bonus (Skywork-OR1, arXiv 2505.22312): rises at or under the target, falls above it, acts under it.
import { expect, test } from "bun:test";
import {
  appliedEntropyCoef,
  type EntropySettings,
  nextEntropyControl,
  startEntropyControl,
} from "../../src/grpo/loss/entropy-control.ts";

const settings: EntropySettings = {
  entropyCoef: 0.01,
  useAdaptiveEntropy: true,
  entropyCoefMin: 0,
  entropyCoefMax: 0.02,
  entropyCoefDelta: 0.005,
  entropyTarget: 0.2,
};

test("coefficients over a run, applied and kept", () => {
  let control = startEntropyControl(settings);
  const run = [];
  for (const entropy of [0.5, 0.1, 0.2, 0.1, 0.1, 0.3, 0.3, 0.3, 0.3, 0.3, 0.1]) {
    run.push(appliedEntropyCoef(control, settings));
    control = nextEntropyControl(control, entropy, settings);
  }
  // The first step applies the start; after 0.5 > target nothing acts; then it grows by 0.005 up to its maximum.
  const want = [0.01, 0, 0.01, 0.015, 0.02, 0.02, 0, 0, 0, 0, 0];
  for (const [i, coef] of want.entries()) expect(run[i]!, `step ${i}`).toBeCloseTo(coef, 12);
  expect(control.coef).toBeCloseTo(0.005, 12); // down to its minimum 0, then up once
  expect(appliedEntropyCoef(control, settings)).toBeCloseTo(0.005, 12);
});

test("its state is JSON: a resumed run goes on with the same numbers", () => {
  let [control, resumed] = [startEntropyControl(settings), startEntropyControl(settings)];
  for (const entropy of [0.1, 0.3, 0.15]) {
    control = nextEntropyControl(control, entropy, settings);
    resumed = nextEntropyControl(JSON.parse(JSON.stringify(resumed)), entropy, settings);
  }
  expect(resumed).toEqual(control);
});

test("off: the coefficient stays", () => {
  const off = { ...settings, useAdaptiveEntropy: false };
  const start = startEntropyControl(off);
  expect(nextEntropyControl(start, 0.1, off)).toEqual(start);
  expect(appliedEntropyCoef(nextEntropyControl(start, 9, off), off)).toBe(0.01);
});
