/** The best evaluation, patience, and which checkpoints are kept: transformers' rules. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { keepNewestCheckpoints } from "../../src/checkpoint/state.ts";
import { configFor } from "../../src/config/load.ts";
import { InputError } from "../../src/errors.ts";
import { type BestSettings, trackBest } from "../../src/run/best-checkpoint.ts";

const folder = mkdtempSync(join(tmpdir(), "grpo-best-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const settings = (given: Partial<BestSettings> = {}): BestSettings => ({
  metricForBestModel: null,
  greaterIsBetter: null,
  loadBestModelAtEnd: false,
  earlyStoppingPatience: null,
  earlyStoppingThreshold: 0,
  ...given,
});

/** The verdict on each evaluation, one per step: whether it is the best, the steps waited, whether to stop. */
function course(given: Partial<BestSettings>, values: readonly (number | null)[]) {
  const best = trackBest(settings(given), "/out", "eval_reward", null)!;
  const name = best.state.metric;
  return values.map((value, i) => {
    const isBest = best.rate(i + 1, value === null ? {} : { [name]: value });
    return [isBest, best.state.waited, best.exhausted];
  });
}

test("nothing is tracked unless a setting asks for it", () => {
  expect(trackBest(settings(), "/out", "eval_reward", null)).toBeNull();
});

test("greater is better unless the name ends in loss or a setting says otherwise; equal or unscored is not better", () => {
  const better = (given: Partial<BestSettings>) => course(given, [2, 3, 1, 1, 3, null]).map(([isBest]) => isBest);
  expect(better({ metricForBestModel: "accuracy" })).toEqual([true, true, false, false, false, false]);
  expect(better({ metricForBestModel: "my_loss" })).toEqual([true, false, true, false, false, false]);
  expect(better({ metricForBestModel: "eval_completions/mean_length", greaterIsBetter: false })).toEqual(
    better({ metricForBestModel: "my_loss" }),
  );
});

// As EarlyStoppingCallback of transformers 5 counts: it compares with the best before this evaluation.
test("patience counts evaluations that are not better by more than the threshold; the best moves with any that is better", () => {
  expect(
    course({ loadBestModelAtEnd: true, earlyStoppingPatience: 2, earlyStoppingThreshold: 0.1 }, [
      ...[0.5, 0.55, 0.7, 0.7, 0.75],
    ]),
  ).toEqual([
    [true, 0, false],
    [true, 1, false],
    [true, 0, false],
    [false, 1, false],
    [true, 2, true],
  ]);
});

test("resumes from a checkpoint's state in that checkpoint's folder, unless another metric is selected", () => {
  const state = { metric: "eval_reward", value: 0.5, step: 4, waited: 1, evaluatedAt: 6 };
  const resume = { folder: "/old/checkpoint-6", state: { best: state } };
  const best = trackBest(settings({ earlyStoppingPatience: 2 }), "/out", "eval_reward", resume)!;
  expect([best.state, best.folder]).toEqual([state, "/old/checkpoint-4"]);
  expect(best.rate(8, { eval_reward: 0.4 })).toBe(false);
  expect([best.exhausted, best.folder]).toEqual([true, "/old/checkpoint-4"]);
  expect(best.rate(10, { eval_reward: 0.6 })).toBe(true);
  expect(best.folder).toBe("/out/checkpoint-10");
  const other = trackBest(settings({ metricForBestModel: "accuracy" }), "/out", "eval_reward", resume)!;
  expect([other.state.value, other.folder]).toEqual([null, null]);
});

test("at the end: the best checkpoint's model if requested, different and present", () => {
  const output = mkdtempSync(join(folder, "end-"));
  mkdirSync(join(output, "checkpoint-2"));
  const concluded = (given: Partial<BestSettings>, courseOf: readonly number[], at: number) => {
    const best = trackBest(settings({ metricForBestModel: "m", ...given }), output, "eval_reward", null)!;
    for (const [i, value] of courseOf.entries()) best.rate(i + 1, { eval_m: value });
    const notes: string[] = [];
    return [best.conclude(at, 9, (text) => notes.push(text)), notes];
  };
  const says = (step: number) => `the best evaluation: eval_m 0.7 at checkpoint-${step}`;
  expect(concluded({}, [0.1, 0.7, 0.2], 9)).toEqual([null, [says(2)]]);
  expect(concluded({ loadBestModelAtEnd: true }, [0.1, 0.7, 0.2], 9)).toEqual([
    join(output, "checkpoint-2"),
    [says(2)],
  ]);
  expect(concluded({ loadBestModelAtEnd: true }, [0.1, 0.7], 2)).toEqual([null, [says(2)]]);
  expect(concluded({ loadBestModelAtEnd: true, earlyStoppingPatience: 2 }, [0.7, 0.2, 0.3], 3)).toEqual([
    null,
    [
      "ended after step 3: 2 evaluations without a better one",
      says(1),
      `${join(output, "checkpoint-1")} is gone, so the model after step 3 is saved and not that of the best evaluation`,
    ],
  ]);
});

test("a metric that evaluations lack is refused before the first step; later it causes a warning, and nothing is lost", () => {
  const best = trackBest(settings({ metricForBestModel: "acuracy" }), "/out", "eval_reward", null)!;
  const notes: string[] = [];
  const values = { eval_reward: 1, eval_accuracy: 0.5 };
  const text = "metric_for_best_model acuracy: the evaluation has no eval_acuracy; it has eval_reward, eval_accuracy";
  expect(() => best.require(0, values, (note) => void notes.push(note))).toThrow(InputError);
  expect(() => best.require(0, values, (note) => void notes.push(note))).toThrow(text);
  best.require(9, values, (note) => void notes.push(note));
  expect(notes).toEqual([`step 9: ${text}: it counts as no better`]);
});

test.each([
  [3, 4, [4, 8, 10]],
  [3, 10, [6, 8, 10]],
  [2, 4, [4, 10]],
  [1, 4, [4, 10]],
  [1, 10, [10]],
  [1, null, [10]],
  [null, 4, [2, 4, 6, 8, 10]],
])("save_total_limit %j with the best at %j leaves %j", (limit, best, left) => {
  const output = mkdtempSync(join(folder, "run-"));
  for (const step of [2, 4, 6, 8, 10]) mkdirSync(join(output, `checkpoint-${step}`));
  keepNewestCheckpoints(output, limit, best);
  const steps = readdirSync(output).map((name) => Number(name.slice("checkpoint-".length)));
  expect(steps.sort((a, b) => a - b)).toEqual(left);
});

describe("settings", () => {
  const asked = (...argv: string[]) => configFor("train", ["--model", "m", "--dataset", "d", ...argv]);
  test.each([
    [["--load_best_model_at_end"], "load_best_model_at_end needs evaluations: set eval_dataset and eval_steps"],
    [
      ["--early_stopping_patience", "2", "--eval_dataset", "e"],
      "early_stopping_patience needs evaluations during the run: set eval_steps",
    ],
    [
      ["--metric_for_best_model", "eval_loss", "--eval_dataset", "e", "--eval_steps", "5"],
      "metric_for_best_model eval_loss: an evaluation samples answers and has no loss; use eval_reward or eval_accuracy",
    ],
  ])("%j is refused", (argv, message) => {
    expect(() => asked(...argv)).toThrow(message);
  });

  test("unused settings are remarked on; the bundled run evaluates by default; sft has them too", () => {
    expect(asked("--greater_is_better", "true").warnings).toEqual([
      "greater_is_better is not used: there is no metric_for_best_model",
    ]);
    expect(asked("--early_stopping_threshold", "0.1").warnings).toEqual([
      "early_stopping_threshold is not used: there is no early_stopping_patience",
    ]);
    expect(configFor("train", ["--load_best_model_at_end"]).config.loadBestModelAtEnd).toBe(true);
    const sft = ["--eval_dataset", "e", "--eval_steps", "2", "--early_stopping_patience", "3"];
    expect(configFor("sft", sft).config.earlyStoppingPatience).toBe(3);
  });
});
