/**
 * `report_to wandb`: an offline run of W&B in `output_dir/wandb`. W&B's package for JavaScript cannot write one: it sends every
 * row at once and keeps nothing without a network. What describes the run comes from the variables of W&B's client.
 */
import packageJson from "../../package.json" with { type: "json" };
import { completionTable } from "../metrics/completion-table.ts";
import type { MetricsRecord } from "../metrics/metrics-file.ts";
import { missingRows, trackedValues } from "../metrics/tracked-names.ts";
import { type OfflineRun, openOfflineRun } from "../metrics/wandb/offline-run.ts";
import type { TrackedRun, Tracker } from "./tracker.ts";

/** Opened at the first event: a run that ends before its first step leaves no file. */
export function wandbSink(
  folder: string,
  { config, settings, resumeStep, earlier }: TrackedRun,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): Tracker {
  let run: OfflineRun | null = null;
  const given = (name: string): string | undefined => environment[`WANDB_${name}`] || undefined;
  const open = (): OfflineRun => {
    if (run !== null) return run;
    const opened = openOfflineRun(folder, {
      about: {
        // transformers' default: where the dashboards of its users are.
        project: given("PROJECT") ?? "huggingface",
        entity: given("ENTITY"),
        name: config.runName ?? given("NAME"),
        group: given("RUN_GROUP"),
        jobType: given("JOB_TYPE"),
        notes: given("NOTES"),
        tags: (given("TAGS") ?? "").split(",").filter((tag) => tag !== ""),
        config: settings,
      },
      producer: `${packageJson.name} ${packageJson.version}`,
      resumeStep,
    });
    run = opened;
    for (const record of missingRows(earlier, opened.held)) opened.row(record.step, valuesOf(record));
    return opened;
  };
  const row = (record: MetricsRecord): void => open().row(record.step, valuesOf(record));
  return {
    step: row,
    evaluation: row,
    table: (step, rows) => open().table(step, "completions", completionTable(step, rows)),
    close: () => run?.close(),
  };
}

const valuesOf = (record: MetricsRecord): Record<string, number> => Object.fromEntries(trackedValues(record));
