/**
 * The events that a run reports, and their receivers. A sink has a method for each event that it handles: metrics.jsonl
 * takes records, the console takes everything. To follow a run in another way, add a sink to the list in run.ts.
 */
import type { CompletionRow } from "../metrics/completion-table.ts";
import type { CompletionSample, Progress, RunConsole } from "../metrics/console.ts";
import type { MetricsRecord, MetricsWriter } from "../metrics/metrics-file.ts";

export interface RunSink {
  /** After each optimizer step; `remarks` are warnings about its numbers. */
  readonly step?: (record: MetricsRecord, remarks: readonly string[]) => void;
  /** `note` follows the numbers, e.g. the number of problems. */
  readonly evaluation?: (record: MetricsRecord, note: string) => void;
  /** Some of the completions that step `step` is the first to learn from. */
  readonly completions?: (step: number, samples: readonly CompletionSample[]) => void;
  /** All completions that step `step` is the first to learn from, as often as `completions`. */
  readonly table?: (step: number, rows: readonly CompletionRow[]) => void;
  readonly progress?: (progress: Progress) => void;
  /** Any other line, such as a remark or where something was saved. */
  readonly note?: (text: string) => void;
  readonly close?: () => void;
}

/** One sink that passes every event to all of them, in order. */
export function toAll(sinks: readonly RunSink[]): Required<RunSink> {
  return {
    step: (record, remarks) => sinks.forEach((sink) => void sink.step?.(record, remarks)),
    evaluation: (record, note) => sinks.forEach((sink) => void sink.evaluation?.(record, note)),
    completions: (step, samples) => sinks.forEach((sink) => void sink.completions?.(step, samples)),
    table: (step, rows) => sinks.forEach((sink) => void sink.table?.(step, rows)),
    progress: (progress) => sinks.forEach((sink) => void sink.progress?.(progress)),
    note: (text) => sinks.forEach((sink) => void sink.note?.(text)),
    close: () => sinks.forEach((sink) => void sink.close?.()),
  };
}

export function metricsSink(metrics: MetricsWriter): RunSink {
  return { step: metrics.write, evaluation: metrics.write, close: metrics.close };
}

/** @param shows whether the table has a line for this step */
export function consoleSink(console: RunConsole, shows: (step: number) => boolean): RunSink {
  return {
    ...console,
    step(record, remarks) {
      for (const remark of remarks) console.note(`note: ${remark}`);
      if (shows(record.step)) console.step(record);
    },
  };
}
