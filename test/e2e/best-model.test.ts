/**
 * A run judged by its own reward function on problems without golds: what the function receives and logs, stop strings, the
 * best checkpoint and early stopping; and all of it resumes after a stop as if uninterrupted.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { completionsPath } from "../../src/metrics/completions-file.ts";
import { type Flags, fingerprint, metricsOf, outcome, reward, train, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const questions = work.at("questions.jsonl");
const question = (count: number) => ({
  prompt: `Ada has ${count} cups and finds 3 more. How many?`,
  note: `q${count}`,
});
writeFileSync(questions, [2, 3, 4, 5, 6, 7].map((count) => `${JSON.stringify(question(count))}\n`).join(""));

const flags: Flags = {
  dataset: questions,
  reward_funcs: reward("told"),
  stop: "3",
  eval_dataset: questions,
  eval_split: "train",
  eval_steps: 1,
  // Answers get longer, so that the first stays the best and patience runs out before the last step.
  metric_for_best_model: "completions/mean_length",
  greater_is_better: false,
  early_stopping_patience: 2,
  load_best_model_at_end: true,
  save_total_limit: 1,
  save_steps: 2,
  max_steps: 9,
};

type Line = Readonly<Record<string, unknown>>;
const linesOf = (path: string) =>
  readFileSync(path, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);

const stateOf = (folder: string, step: number) =>
  JSON.parse(readFileSync(join(folder, `checkpoint-${step}/trainer_state.json`), "utf8")) as { best: object };

test("ends when patience runs out, with the best checkpoint's model, which stays", async () => {
  const folder = work.at("straight");
  const { code, notes } = await train(folder, flags);
  expect(code).toBe(0);
  const metrics = metricsOf(folder);
  const lengths = metrics.flatMap((line) => line["eval_completions/mean_length"] ?? []) as number[];
  const [before, first, ...worse] = lengths as [number, number, ...number[]];
  expect(worse.length).toBe(2);
  expect(Math.min(...worse)).toBeGreaterThan(first);
  expect(notes).toContain("ended after step 3: 2 evaluations without a better one");
  expect(notes).toContain(`saved the model in ${folder}: that of ${join(folder, "checkpoint-1")}`);
  expect(fingerprint(folder, "model.safetensors")).toBe(fingerprint(folder, "checkpoint-1/model.safetensors"));
  expect(fingerprint(folder, "model.safetensors")).not.toBe(fingerprint(folder, "checkpoint-2/model.safetensors"));
  // The evaluation came after its checkpoint, which was then updated.
  const best = { metric: "eval_completions/mean_length", value: first, step: 1 };
  expect(stateOf(folder, 2).best).toEqual({ ...best, waited: 1, evaluatedAt: 2 });
  expect(before).toBeGreaterThan(0);

  // Without golds there is no accuracy; the function receives the training progress, and the fact that it is an evaluation.
  const [zero, one, , two] = metrics as unknown as [Line, Line, Line, Line];
  expect(Object.keys(zero).filter((name) => /accuracy|unparsed|pass@/.test(name))).toEqual([]);
  expect(zero.eval_reward).toBe(zero["eval_rewards/told/mean"]!);
  expect([zero["eval_told/step"], one["told/step"], two["told/step"]]).toEqual([0, 0, 1]);
  expect([zero["eval_told/all"], one["told/all"]]).toEqual([9001, 9000]);
  expect(two["told/all"]).toBeCloseTo(9000 + 100 / 9, 9);

  const lines = linesOf(completionsPath(folder, 1));
  const stopped = lines.filter(({ stop }) => stop !== undefined);
  expect(stopped.length).toBeGreaterThan(0);
  for (const { stop, completion, finished } of stopped) {
    expect({ stop, finished }).toEqual({ stop: "3", finished: true });
    expect((completion as string).indexOf("3")).toBe((completion as string).length - 1);
  }
  for (const { completion, extra } of lines)
    expect(extra).toEqual({ told: { letters: (completion as string).length, note: expect.stringMatching(/^q\d$/) } });
});

test("stopped and resumed, also if the evaluation's line was written but its checkpoint not updated", async () => {
  const straight = outcome(work.at("straight"));
  const folder = work.at("stopped");
  expect((await train(folder, flags, { stopAfter: 2 })).code).toBe(130);
  expect((await train(folder, { ...flags, resume_from_checkpoint: true })).code).toBe(0);
  expect(outcome(folder)).toEqual(straight);

  const state = stateOf(folder, 2);
  const before = { ...state, best: { ...state.best, waited: 0, evaluatedAt: 1 } };
  writeFileSync(join(folder, "checkpoint-2/trainer_state.json"), JSON.stringify(before));
  await train(folder, { ...flags, resume_from_checkpoint: true });
  expect(outcome(folder)).toEqual(straight);
});
