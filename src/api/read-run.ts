/** A run as it lies in its folder, finished or under way: its settings, its metrics, its rollouts. Opens nothing else. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { completionsFolder, metricsFile, runRecord } from "../checkpoint/held.ts";
import { readTextFile } from "../config/json-file.ts";
import { InputError } from "../errors.ts";
import { type RolloutGroup, readRollouts } from "../grpo/rollout-file.ts";
import type { MetricsRecord } from "../metrics/metrics-file.ts";

export interface RecordedRun {
  /** The command that wrote it; null if there is no run.json. */
  readonly command: string | null;
  /** By their names in files (`learning_rate`). */
  readonly settings: Readonly<Record<string, unknown>>;
  /** The lines of metrics.jsonl of optimizer steps, in order. */
  readonly steps: readonly MetricsRecord[];
  /** Those of evaluations; that before the first step has step 0. */
  readonly evaluations: readonly MetricsRecord[];
  /** The first step of each generation whose rollouts are recorded, ascending. */
  readonly generations: readonly number[];
  /** The groups of a generation, with tokens, logprobs and rewards. */
  rollouts(step: number): Promise<RolloutGroup[]>;
}

const completions = /^step-(\d+)\.jsonl$/;

/** @throws InputError if `outputDir` holds no metrics */
export function readRun(outputDir: string): RecordedRun {
  const path = join(outputDir, metricsFile);
  if (!existsSync(path))
    throw new InputError(`${outputDir}: there is no ${metricsFile} in it; give a run's output_dir`);
  const text = readTextFile(path);
  // A line without its end is still being written.
  const lines = text
    .slice(0, text.lastIndexOf("\n") + 1)
    .split("\n")
    .filter((line) => line !== "");
  const records = lines.map((line, i) => parsed(line, `${path}:${i + 1}`));
  const isEvaluation = (record: MetricsRecord) => Object.keys(record).some((name) => name.startsWith("eval_"));
  const folder = join(outputDir, completionsFolder);
  const files = existsSync(folder) ? readdirSync(folder) : [];
  const generations = files.flatMap((name) => {
    const step = completions.exec(name)?.[1];
    return step === undefined ? [] : [{ step: Number(step), name }];
  });
  const record = runRecord(outputDir);
  return {
    command: record?.command ?? null,
    settings: record?.settings ?? {},
    steps: records.filter((each) => !isEvaluation(each)),
    evaluations: records.filter(isEvaluation),
    generations: generations.map(({ step }) => step).sort((a, b) => a - b),
    async rollouts(step) {
      const found = generations.find((each) => each.step === step);
      if (found === undefined) throw new InputError(`${folder}: has no rollouts of step ${step}`);
      return readRollouts(join(folder, found.name), { vocabSize: Infinity, requireReward: false });
    },
  };
}

function parsed(line: string, place: string): MetricsRecord {
  try {
    return JSON.parse(line) as MetricsRecord;
  } catch {
    throw new InputError(`${place}: not JSON; the file is damaged`);
  }
}
