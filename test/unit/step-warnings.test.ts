// Steps that cannot teach anything cause a warning: once, and again only after a while.
import { expect, test } from "bun:test";
import { createStepWarnings } from "../../src/grpo/step-warnings.ts";

const healthy = {
  ...{ reward: 0.3, "completions/clipped_ratio": 0.9 },
  ...{ "clip_ratio/region_mean": 0.1, entropy: 0.4 },
};

test("no warning for a healthy step, or for absent metrics", () => {
  const warnings = createStepWarnings();
  expect(warnings({ step: 1, ...healthy }, true)).toEqual([]);
  expect(warnings({ step: 2 }, true)).toEqual([]);
  // A step without counted tokens has no entropy, so none that collapsed.
  expect(warnings({ step: 3, ...healthy, entropy: null, "clip_ratio/region_mean": null }, true)).toEqual([]);
});

test.each([
  ["all rewards within each group are equal (mean 0.300)", { flat: 1 }],
  ["no completion was scored", { reward: null, flat: 1 }],
  ["every completion was cut at max_completion_length", { "completions/clipped_ratio": 1 }],
  ["73 % of the ratios are clipped", { "clip_ratio/region_mean": 0.73 }],
  ["100 % of the ratios are clipped", { cispo_clip_ratio: 1 }],
  ["the entropy is down to 4.0e-3 nats", { entropy: 0.004 }],
])("%s", (text, change) => {
  const { flat, ...values } = change as { flat?: number };
  const said = createStepWarnings()({ step: 7, ...healthy, ...values }, flat === undefined);
  expect(said.length).toBe(1);
  expect(said[0]).toStartWith(`step 7: ${text}`);
});

test("each appears when it first holds and then at most every N steps, independent of the others", () => {
  const warnings = createStepWarnings({ every: 10 });
  const said: number[] = [];
  for (let step = 1; step <= 35; step++) if (warnings({ step, ...healthy }, false).length > 0) said.push(step);
  expect(said).toEqual([1, 11, 21, 31]);
  expect(warnings({ step: 36, ...healthy, entropy: 0 }, false)).toEqual([expect.stringContaining("entropy")]);
});
