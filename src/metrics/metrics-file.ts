/**
 * `metrics.jsonl`: one JSON object a line, appended as the run goes, so that a killed run keeps what it logged. NaN and
 * infinities are written as null, as JSON has no word for them (pandas and jq read null as a missing number).
 */
import { closeSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { readTextFile } from "../config/json-file.ts";
import { InputError } from "../errors.ts";
import { writeFileAtomic, writeWhole } from "../files/atomic.ts";
import { isThere } from "../files/paths.ts";
import { runFile, writingForRun } from "../files/refusals.ts";

export type MetricValue = number | string | boolean | null;

/** One line; `step` counts from 1, evaluation before the first step has 0. */
export type MetricsRecord = { readonly step: number } & { readonly [name: string]: MetricValue };

export interface MetricsWriter {
  readonly path: string;
  /** @throws RunError where the disk is full or the folder gone */
  write(record: MetricsRecord): void;
  /** The last line that has a value of this name, lines from before resuming included; null: none has. */
  lastWith(name: string): MetricsRecord | null;
  close(): void;
}

/**
 * Opens `outputDir/metrics.jsonl`; the folder is made where it is missing.
 * @param options.resumeStep go on after this step: later lines, written after the checkpoint, are cut off, and a torn
 *   last line is removed. Left out: an earlier file is replaced.
 * @throws InputError where the earlier file holds something else; RunError where nothing can be written
 */
export function createMetricsWriter(outputDir: string, options: { readonly resumeStep?: number } = {}): MetricsWriter {
  const path = join(outputDir, "metrics.jsonl");
  writingForRun(outputDir, () => mkdirSync(outputDir, { recursive: true }));
  const resumed = options.resumeStep !== undefined && isThere(path);
  const last = new Map<string, MetricsRecord>();
  const remember = (record: MetricsRecord): void => {
    for (const name of Object.keys(record)) last.set(name, record);
  };
  if (resumed) {
    const before = readTextFile(path);
    const kept = linesUpTo(before, options.resumeStep, path);
    if (kept !== before) writeFileAtomic(path, kept, runFile);
    for (const line of kept.split("\n").slice(0, -1)) remember(JSON.parse(line) as MetricsRecord);
  }
  let file: number | undefined = writingForRun(path, () => openSync(path, resumed ? "a" : "w"));
  return {
    path,
    write({ step, ...rest }) {
      if (file === undefined) throw new Error(`${path} is closed`);
      const open = file;
      const line = Buffer.from(`${JSON.stringify({ step, ...rest })}\n`);
      remember({ step, ...rest });
      writingForRun(path, () => writeWhole(open, line));
    },
    lastWith: (name) => last.get(name) ?? null,
    close() {
      if (file !== undefined) closeSync(file);
      file = undefined;
    },
  };
}

/** The records of a file that a writer has opened. */
export const readMetrics = (path: string): MetricsRecord[] =>
  readTextFile(path)
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as MetricsRecord);

function linesUpTo(text: string, step: number, path: string): string {
  const lines = text.split("\n");
  const last = lines.pop();
  if (last !== undefined && last !== "" && stepOf(last) !== undefined) lines.push(last);
  const kept = lines.filter((line, i) => {
    const lineStep = stepOf(line);
    if (lineStep === undefined) {
      throw new InputError(`${path}:${i + 1}: not a line of metrics; remove it, or choose another --output_dir`);
    }
    return lineStep <= step;
  });
  return kept.map((line) => `${line}\n`).join("");
}

function stepOf(line: string): number | undefined {
  try {
    const { step } = JSON.parse(line) as { step?: unknown };
    return typeof step === "number" ? step : undefined;
  } catch {
    return undefined;
  }
}
