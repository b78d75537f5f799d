/** The names under which trackers know metrics: those of transformers' callbacks, so that dashboards made for TRL fit. */
import type { MetricsRecord } from "./metrics-file.ts";

/** `reward` → `train/reward`, `eval_reward` → `eval/reward`. */
export const trackedName = (name: string): string =>
  name.startsWith("eval_") ? `eval/${name.slice("eval_".length)}` : `train/${name}`;

/** What tells a row of a tracker from all others: a step has one row, and its evaluation another. @param name any in it */
export const rowKey = (step: number, name: string): string => `${step} ${/^(eval|train)\//.exec(name)?.[1] ?? name}`;

/** The numbers of a record under those names, without its step; what is null or no number has no point in a chart. */
export function trackedValues({ step: _, ...record }: MetricsRecord): [name: string, value: number][] {
  return Object.entries(record).flatMap(([name, value]) =>
    typeof value === "number" ? [[trackedName(name), value] as [string, number]] : [],
  );
}

/** The records that a tracker lacks, as it was not there, or could not write, when they were logged. */
export const missingRows = (records: readonly MetricsRecord[], held: ReadonlySet<string>): MetricsRecord[] =>
  records.filter((record) => {
    const [first] = trackedValues(record);
    return first !== undefined && !held.has(rowKey(record.step, first[0]));
  });
