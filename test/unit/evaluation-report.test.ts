/** The report of an evaluation: the lines, results and metrics of hand-made answers, and before against after. */
import { describe, expect, test } from "bun:test";
import { InputError } from "../../src/errors.ts";
import type { Evaluation, JudgedAnswer } from "../../src/eval/accuracy.ts";
import { requireEvaluationName } from "../../src/eval/metric-names.ts";
import { meanPassAtK } from "../../src/eval/pass-at-k.ts";
import {
  atEachK,
  chosenKs,
  compared,
  differenceText,
  evaluationLines,
  evaluationMetrics,
  evaluationResults,
  trainingEvaluation,
} from "../../src/eval/report.ts";

/** Answers as letters: r right, s right but not in a required form, a and b two wrong answers, - none found. */
function evaluationOf(...problems: string[]): Evaluation {
  const answer = (letter: string): JudgedAnswer => ({
    text: letter,
    completion: { completionIds: Int32Array.of(1, 2), logprobs: new Float32Array(2), finished: true } as never,
    correct: "rs".includes(letter),
    strict: letter === "r",
    reason: "rs".includes(letter) ? "equal" : letter === "-" ? "unparsed" : "different",
    answer: letter === "-" ? null : letter,
    strictAnswer: "s-".includes(letter) ? null : letter,
  });
  const votes = (right: string) =>
    problems.map((letters) => {
      const count = (wanted: string) => [...letters].filter((letter) => wanted.includes(letter)).length;
      return { samples: letters.length, right: count(right), wrong: [count("a"), count("b")].filter((n) => n > 0) };
    });
  const counts = (right: string) =>
    problems.map((letters) => ({
      samples: letters.length,
      correct: [...letters].filter((letter) => right.includes(letter)).length,
    }));
  return {
    problems: problems.map((letters, row) => ({
      problem: { row } as never,
      gold: "r",
      answers: [...letters].map(answer),
    })),
    votes: { lenient: votes("rs"), strict: votes("r") },
    accuracy: meanPassAtK(counts("rs"), 1),
    strict: meanPassAtK(counts("r"), 1),
    ...{ unparsed: 0.25, rewards: null, warnings: [] },
    meanLength: 2,
    clipped: 0,
    skipped: 0,
  };
}

describe("several answers", () => {
  const evaluation = evaluationOf("rsab", "aab-", "ssra");

  test("pass@k and maj@k, leniently and strictly", () => {
    const [lenient] = atEachK(evaluation, [4], "lenient");
    const [strict] = atEachK(evaluation, [4], "strict");
    expect(lenient!.pass.value).toBeCloseTo(2 / 3, 14);
    expect(lenient!.maj.value).toBeCloseTo((1 + 0 + 1) / 3, 14);
    // Strictly "rsab" has three votes that tie, "ssra" two.
    expect(strict!.maj.value).toBeCloseTo((1 / 3 + 0 + 1 / 2) / 3, 14);
  });

  test("results have every number with its interval", () => {
    const results = evaluationResults(evaluation, [1, 4]);
    expect(Object.keys(results)).toEqual([
      ...["problems", "answers_per_problem", "accuracy", "accuracy_strict"],
      ...["pass@1", "maj@1", "pass@4", "maj@4", "pass@1_strict", "maj@1_strict", "pass@4_strict", "maj@4_strict"],
      ...["unparsed", "mean_length", "clipped_ratio", "skipped_rows"],
    ]);
    expect(results["pass@1"]).toEqual(results.accuracy);
    const { value } = results["maj@1_strict"] as { value: number };
    expect(value).toBeCloseTo(evaluation.strict!.value, 14);
  });

  test("the printed lines set lenient and strict side by side", () => {
    const lines = evaluationLines(evaluation, [1, 2, 4]);
    expect(lines.map((line) => line.split(" ")[0])).toEqual("95 accuracy pass@2 pass@4 maj@2 maj@4 no mean".split(" "));
    expect(lines[1]).toMatch(/^accuracy {10}41\.7 % \(.*\) +16\.7 % \(.*\)$/);
  });

  test("metrics of training carry pass@k and maj@k beyond k = 1", () => {
    expect(Object.keys(evaluationMetrics(evaluation).values).filter((key) => key.includes("@"))).toEqual([
      ...["eval_pass@2", "eval_maj@2", "eval_pass@4", "eval_maj@4"],
    ]);
    const single = evaluationMetrics(evaluationOf("r", "a")).values;
    expect(Object.keys(single).some((key) => key.includes("@"))).toBe(false);
    expect(single.eval_accuracy).toBe(0.5);
  });
});

describe("before and after", () => {
  const before = evaluationOf("a", "a", "r", "b", "s");
  const after = evaluationOf("r", "r", "a", "r", "s");

  test("are compared problem by problem", () => {
    expect(compared(before, after)).toMatchObject({ better: 3, worse: 1, pValue: 0.625 });
    expect(compared(before, after).value).toBeCloseTo(0.4, 14);
    expect(evaluationMetrics(after, before).note).toMatch(
      /^5 problems, 95 % interval .*; \+40\.0 points since the first evaluation, 95 % interval −.* to \+.*, 3 better and 1 worse, p = 0\.625$/,
    );
    expect(evaluationMetrics(after).note).not.toContain("points");
  });

  test("losses are written with a minus", () => {
    expect(differenceText(compared(after, before))).toStartWith("−40.0 points");
  });

  test("other problems are refused", () => {
    expect(() => compared(before, evaluationOf("r"))).toThrow(RangeError);
  });
});

test("k: as requested, else powers of two", () => {
  expect(chosenKs(null, 12)).toEqual([1, 2, 4, 8]);
  expect(chosenKs([3], 12)).toEqual([3]);
  expect(() => chosenKs([13], 12)).toThrow("pass_at_k 13");
});

test("training evaluates greedily with one answer, at temperature 1 with several, or as configured", () => {
  const config = { stop: null, verifier: "auto", seed: 1, maxCompletionLength: 8, evalTemperature: null } as const;
  expect(trainingEvaluation({ ...config, evalNumGenerations: 1 })).toMatchObject({ samples: 1, temperature: 0 });
  expect(trainingEvaluation({ ...config, evalNumGenerations: 4 })).toMatchObject({ samples: 4, temperature: 1 });
  const told = trainingEvaluation({ ...config, evalNumGenerations: 4, evalTemperature: 0.6 });
  expect(told).toMatchObject({ samples: 4, temperature: 0.6 });
});

describe("metric_for_best_model", () => {
  const own = { rewards: ["math", "brevity"], logsMore: false, samples: 4 };
  const judge = (metric: string, change: Partial<typeof own> = {}) =>
    requireEvaluationName(metric, { ...own, ...change });

  test("is a metric that an evaluation can have, or that the user's own function may log", () => {
    for (const metric of ["reward", "eval_accuracy", "rewards/brevity/mean", "pass@4", "completions/mean_length"])
      judge(metric);
    judge("clarity", { logsMore: true });
  });

  test("is otherwise refused at the start, with the closest name", () => {
    expect(() => judge("eval_acuracy")).toThrow(
      "metric_for_best_model eval_acuracy: no evaluation has it; did you mean eval_accuracy?",
    );
    expect(() => judge("rewards/brevty/mean", { logsMore: true })).toThrow("did you mean eval_rewards/brevity/mean?");
    expect(() => judge("pass@8")).toThrow("did you mean eval_pass@");
    expect(() => judge("reward", { rewards: [] })).toThrow(InputError);
    expect(() => judge("clarity")).toThrow("there are eval_accuracy, ");
  });
});
