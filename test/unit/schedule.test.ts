// Learning rates compared with transformers' (test/golden/make_schedules.py), and how settings define a schedule.
import { describe, expect, test } from "bun:test";
import { type ScheduleName, scheduleNames } from "../../src/config/schedules.ts";
import { learningRate, type ScheduleSettings, scheduleOf } from "../../src/optim/schedule.ts";
import recorded from "../golden/schedules.json" with { type: "json" };

const settings: ScheduleSettings = {
  ...{ learningRate: 8, lrSchedulerType: "linear", lrSchedulerKwargs: null, warmupSteps: 0, warmupRatio: 0 },
};
const rates = (given: Partial<ScheduleSettings>, totalSteps: number, steps = totalSteps) => {
  const schedule = scheduleOf({ ...settings, ...given }, totalSteps);
  return Array.from({ length: steps }, (_, step) => learningRate(schedule, step));
};

describe("transformers' numbers", () => {
  test.each(recorded.cases)(
    "$type $kwargs, $warmup of $steps steps warm up",
    ({ type, kwargs, warmup, steps, rates: want }) => {
      const given = { lrSchedulerType: type as ScheduleName, lrSchedulerKwargs: kwargs, warmupSteps: warmup };
      const got = rates({ ...given, learningRate: recorded.base }, steps);
      for (const [step, rate] of want.entries())
        expect(Math.abs(got[step]! - rate), `step ${step}: ${got[step]} for ${rate}`).toBeLessThan(1e-15);
    },
  );

  test("there is a case of every schedule", () => {
    expect(new Set(recorded.cases.map(({ type }) => type))).toEqual(new Set<string>(scheduleNames));
  });

  test.each(recorded.warmup)("warmup_steps %p of %p steps: %p", (given, steps, want) => {
    expect(scheduleOf({ ...settings, warmupSteps: given! }, steps!).warmupSteps).toBe(want!);
    // The meaning of warmup_ratio before warmup_steps accepted shares.
    if (given! < 1) expect(scheduleOf({ ...settings, warmupRatio: given! }, steps!).warmupSteps).toBe(want!);
  });
});

test("after the last step a decay keeps its final value", () => {
  expect(rates({}, 4, 6)).toEqual([8, 6, 4, 2, 0, 0]);
  expect(rates({ lrSchedulerType: "cosine" }, 2, 5).slice(2)).toEqual([0, 0, 0]);
});

test("a run of only warm-up", () => {
  for (const lrSchedulerType of ["constant_with_warmup", "linear", "cosine", "polynomial"] as const)
    expect(rates({ lrSchedulerType, warmupSteps: 4 }, 4)).toEqual([0, 2, 4, 6]);
  expect(rates({ warmupSteps: 4 }, 2, 4)).toEqual([0, 2, 4, 6]);
});

test("another peak has the same shape; an absolute floor stays the same", () => {
  const given = { ...settings, lrSchedulerType: "cosine_with_min_lr", lrSchedulerKwargs: { min_lr: 1 } } as const;
  const schedule = scheduleOf(given, 10, 4);
  expect(learningRate(schedule, 0)).toBe(4);
  expect(learningRate(schedule, 10)).toBeCloseTo(1, 12);
});

test.each([
  ["constant", { min_lr: 1 }, 'lr_scheduler_kwargs {"min_lr":1}: lr_scheduler_type constant takes none'],
  ["cosine", { cycles: 2 }, "takes num_cycles"],
  ["cosine_with_min_lr", {}, "needs one of min_lr and min_lr_rate"],
  ["cosine_with_min_lr", { min_lr: 1, min_lr_rate: 0.1 }, "needs only one of min_lr and min_lr_rate"],
  ["warmup_stable_decay", {}, "needs num_decay_steps"],
  ["cosine_with_min_lr", { min_lr_rate: "0.1" }, 'lr_scheduler_kwargs min_lr_rate "0.1": '],
  ["polynomial", { lr_end: 9 }, "lr_end 9: it must be less than the learning rate 8"],
] as const)("%s %j is refused", (lrSchedulerType, lrSchedulerKwargs, message) => {
  expect(() => scheduleOf({ ...settings, lrSchedulerType, lrSchedulerKwargs }, 10)).toThrow(message);
});
