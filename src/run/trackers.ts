/**
 * The trackers that `report_to` names, as sinks of the run. Each has a folder of its own in the output folder and keeps it
 * through resuming. One that can no longer write does not tear a step apart: it falls silent, and the run ends after the step
 * with a checkpoint and that failure.
 */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { trackerMark } from "../checkpoint/held.ts";
import { InputError } from "../errors.ts";
import { trackerWriteFailure } from "../files/refusals.ts";
import { readMetrics } from "../metrics/metrics-file.ts";
import { type RunSink, toAll } from "./sinks.ts";
import { tensorBoardSink } from "./tensorboard-sink.ts";
import type { TrackedRun, Tracker } from "./tracker.ts";
import { wandbSink } from "./wandb-sink.ts";

export interface Trackers extends RunSink {
  /** The first refusal; null: everything is written. */
  failure(): InputError | null;
}

const trackers: Readonly<Record<string, (folder: string, run: TrackedRun) => Tracker>> = {
  tensorboard: tensorBoardSink,
  wandb: (folder, run) => wandbSink(folder, run),
};

/**
 * @param metrics the path of metrics.jsonl, cut to the step after which the run goes on
 * @throws InputError if a folder cannot be used: nothing has been trained then
 */
export function openTrackers(about: Omit<TrackedRun, "earlier">, metrics: string): Trackers {
  const { reportTo, outputDir } = about.config;
  let first: InputError | null = null;
  const names = reportTo.filter((name) => Object.hasOwn(trackers, name));
  const run = { ...about, earlier: names.length > 0 && about.resumeStep !== null ? readMetrics(metrics) : [] };
  const sinks = names.map((name) => {
    const folder = join(outputDir, name);
    takeFolder(folder, name);
    return guarded(trackers[name]!(folder, run), (error) => {
      first ??= trackerWriteFailure(error, folder, name);
    });
  });
  return { ...toAll(sinks), failure: () => first };
}

/** Marks the folder as this program's: a run that replaces this one may remove it. */
function takeFolder(folder: string, name: string): void {
  try {
    mkdirSync(folder, { recursive: true });
    if (existsSync(join(folder, trackerMark))) return;
    if (readdirSync(folder).length > 0)
      throw new InputError(`${folder}: holds files of another program; name another --output_dir, or move them away`);
    writeFileSync(join(folder, trackerMark), "");
  } catch (error) {
    throw error instanceof InputError ? error : trackerWriteFailure(error, folder, name);
  }
}

/** The tracker until its first failure, which is told once. */
function guarded(tracker: Tracker, fail: (error: unknown) => void): Tracker {
  let failed = false;
  const guard =
    <A extends readonly unknown[]>(handle: ((...event: A) => void) | undefined) =>
    (...event: A): void => {
      if (failed) return;
      try {
        handle?.(...event);
      } catch (error) {
        failed = true;
        fail(error);
      }
    };
  return {
    step: guard(tracker.step),
    evaluation: guard(tracker.evaluation),
    table: guard(tracker.table),
    close: guard(tracker.close),
  };
}
