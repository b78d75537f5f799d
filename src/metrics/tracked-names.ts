/** The names under which trackers know metrics: those of transformers' callbacks, so that dashboards made for TRL fit. */
import type { MetricsRecord } from "./metrics-file.ts";

/** `reward` → `train/reward`, `eval_reward` → `eval/reward`. */
export const trackedName = (name: string): string =>
  name.startsWith("eval_") ? `eval/${name.slice("eval_".length)}` : `train/${name}`;

/** The numbers of a record under those names, without its step; what is null or no number has no point in a chart. */
export function trackedValues({ step: _, ...record }: MetricsRecord): [name: string, value: number][] {
  return Object.entries(record).flatMap(([name, value]) =>
    typeof value === "number" ? [[trackedName(name), value] as [string, number]] : [],
  );
}
