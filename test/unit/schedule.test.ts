import { expect, test } from "bun:test";
import { type LearningRateSchedule, learningRate } from "../../src/optim/schedule.ts";

const rates = (type: LearningRateSchedule, warmupSteps: number, totalSteps: number, steps: number) =>
  Array.from({ length: steps }, (_, step) => learningRate({ type, base: 8, warmupSteps, totalSteps }, step));

test("constant: s/w during warm-up, then the base, also past the end", () => {
  expect(rates("constant", 4, 6, 8)).toEqual([0, 2, 4, 6, 8, 8, 8, 8]);
  expect(rates("constant", 0, 2, 3)).toEqual([8, 8, 8]);
});

test("linear: (S − s)/(S − w), 0 from S on", () => {
  expect(rates("linear", 0, 4, 6)).toEqual([8, 6, 4, 2, 0, 0]);
  expect(rates("linear", 2, 6, 8)).toEqual([0, 4, 8, 6, 4, 2, 0, 0]);
});

test("cosine: half a period from base to 0, which it doesn't leave", () => {
  const values = rates("cosine", 2, 6, 9);
  const expected = [0, 4, 8, 4 * (1 + Math.SQRT1_2), 4, 4 * (1 - Math.SQRT1_2), 0, 0, 0];
  for (const [step, value] of expected.entries()) expect(values[step], `step ${step}`).toBeCloseTo(value, 12);
});

test("a run that is all warm-up", () => {
  for (const type of ["constant", "linear", "cosine"] as const) expect(rates(type, 4, 4, 4)).toEqual([0, 2, 4, 6]);
  expect(rates("linear", 4, 2, 4)).toEqual([0, 2, 4, 6]);
});
