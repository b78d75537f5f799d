/** `report_to tensorboard`: event files in `output_dir/tensorboard`. */
import { completionTable, spread } from "../metrics/completion-table.ts";
import type { MetricsRecord } from "../metrics/metrics-file.ts";
import { type EventFiles, openEventFiles } from "../metrics/tensorboard/event-files.ts";
import { missingRows, trackedValues } from "../metrics/tracked-names.ts";
import type { TrackedRun, Tracker } from "./tracker.ts";

/** More would make the page slow; all of them are in completions/. */
const shownCompletions = 16;

/** Opened at the first event: a run that ends before its first step leaves no file. */
export function tensorBoardSink(folder: string, { settings, resumeStep, earlier }: TrackedRun): Tracker {
  let files: EventFiles | null = null;
  const open = (): EventFiles => {
    if (files !== null) return files;
    const opened = openEventFiles(folder, { resumeStep });
    files = opened;
    if (opened.held.size === 0) opened.text(0, "args", [[verbatim(JSON.stringify(settings, null, 2))]]);
    for (const record of missingRows(earlier, opened.held)) opened.scalars(record.step, trackedValues(record));
    return opened;
  };
  const scalars = (record: MetricsRecord): void => open().scalars(record.step, trackedValues(record));
  return {
    step: scalars,
    evaluation: scalars,
    table(step, rows) {
      const { columns, data } = completionTable(step, spread(rows, shownCompletions));
      open().text(step, "completions", [columns.map((name) => `**${name}**`), ...data.map((row) => row.map(shown))]);
    },
    close: () => files?.close(),
  };
}

const shown = (value: unknown): string =>
  typeof value === "string"
    ? verbatim(value)
    : value === null
      ? ""
      : typeof value === "number"
        ? String(value)
        : verbatim(JSON.stringify(value));

/** A block of code in Markdown: nothing in the text is markup. */
const verbatim = (text: string): string => text.replace(/^/gm, "    ");
