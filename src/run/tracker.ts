/** What a tracker is given, and what it is. */
import type { TrainConfig } from "../config/schema.ts";
import type { MetricsRecord } from "../metrics/metrics-file.ts";
import type { RunSink } from "./sinks.ts";

export type TrackerConfig = Pick<TrainConfig, "reportTo" | "runName" | "outputDir">;

export interface TrackedRun {
  readonly config: TrackerConfig;
  /** The run's settings, as trackers show them. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** The step after which the run goes on; null: it begins. */
  readonly resumeStep: number | null;
  /** The lines of metrics.jsonl up to there. */
  readonly earlier: readonly MetricsRecord[];
}

/** A tracker's own events; they throw what the system refuses. */
export type Tracker = Pick<RunSink, "step" | "evaluation" | "table" | "close">;
