// A run's events reach every sink that handles them, in the order of the list; the console shows a step's remarks above its
// line.
import { expect, test } from "bun:test";
import type { RunConsole } from "../../src/metrics/console.ts";
import { consoleSink, metricsSink, type RunSink, toAll } from "../../src/run/sinks.ts";

test("each sink gets the events that it has methods for, one sink after the other", () => {
  const told: string[] = [];
  const page: RunSink = {
    step: ({ step, loss }, remarks) => told.push(`page: step ${step}, loss ${loss}, ${remarks.length} remarks`),
    progress: ({ phase }) => told.push(`page: ${phase}`),
  };
  const metrics = metricsSink({
    path: "metrics.jsonl",
    write: (record) => void told.push(`jsonl: ${JSON.stringify(record)}`),
    lastWith: () => null,
    close: () => void told.push("jsonl: closed"),
  });
  const tell = toAll([metrics, page]);
  tell.progress({ step: 1, steps: 2, phase: "rollout" });
  tell.step({ step: 1, loss: 0.5 }, ["flat"]);
  tell.evaluation({ step: 1, eval_reward: 1 }, "2 problems");
  tell.note("saved");
  tell.completions(1, []);
  tell.close();
  expect(told).toEqual([
    "page: rollout",
    'jsonl: {"step":1,"loss":0.5}',
    "page: step 1, loss 0.5, 1 remarks",
    'jsonl: {"step":1,"eval_reward":1}',
    "jsonl: closed",
  ]);
});

test("the console has a line for the steps that it shows, and every remark above the place of its line", () => {
  const lines: string[] = [];
  const nothing = () => {};
  const console: RunConsole = {
    ...{ progress: nothing, completions: nothing, evaluation: nothing, close: nothing },
    step: ({ step }) => void lines.push(`line ${step}`),
    note: (text) => void lines.push(text),
  };
  const { step } = consoleSink(console, (number) => number % 2 === 0);
  for (const number of [1, 2]) step!({ step: number }, [`remark ${number}`]);
  expect(lines).toEqual(["note: remark 1", "note: remark 2", "line 2"]);
});
