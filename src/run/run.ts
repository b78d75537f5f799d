/**
 * The bookkeeping of a training run, for both GRPO and supervised fine-tuning. A run takes turns until its last step,
 * until the user stops it, or until patience runs out; a turn's reports go to the sinks, and checkpoints and
 * evaluations are made when due. A turn is a trainer's work between two points where a run can be stopped and resumed:
 * a generation, or a step.
 */
import { isEarlierWaiting } from "../checkpoint/earlier.ts";
import { everySteps } from "../config/often.ts";
import { RunError } from "../errors.ts";
import { removeCompletionsAfter } from "../metrics/completions-file.ts";
import type { RunConsole } from "../metrics/console.ts";
import { createMetricsWriter, type MetricsRecord, type MetricsWriter } from "../metrics/metrics-file.ts";
import { createStopwatch } from "../metrics/stopwatch.ts";
import type { Ranks } from "../ranks/ranks.ts";
import { restoreOptimizer, saveCheckpoint, saveModel, type TrainedModels } from "../session/checkpointing.ts";
import { openRunOutput, type RunOutputOptions } from "./run-output.ts";
import { consoleSink, metricsSink, type RunSink, toAll } from "./sinks.ts";
import type { TrackerConfig } from "./tracker.ts";
import { openTrackers } from "./trackers.ts";

export interface RunOptions extends Omit<RunOutputOptions, "metrics" | "tell" | "config"> {
  readonly config: RunOutputOptions["config"] & Parameters<typeof everySteps>[0] & TrackerConfig;
  /** The settings as trackers show them. */
  readonly settings: Readonly<Record<string, unknown>>;
  readonly console: RunConsole;
  /** Others that follow the run. */
  readonly sinks?: readonly RunSink[] | undefined;
  /** Optimizer steps of the whole run, and of one turn; the last may be cut short. */
  readonly steps: number;
  readonly stepsPerTurn: number;
}

export interface RunOutcome {
  readonly steps: number;
  /** Ended by the user, with a checkpoint of the last step. */
  readonly stopped: boolean;
}

/** What a turn can use of its run. */
export interface Turn extends Required<Pick<RunSink, "step" | "completions" | "table" | "note">> {
  /** The first optimizer step that the turn makes, from 1. */
  readonly firstStep: number;
  /** Begins a phase, which is timed for `times`. */
  phase(name: string): void;
  progress(phase: string, done?: number, total?: number): void;
  /**
   * Seconds by phase, and of the whole turn, so far; with several ranks also `time/wait`, the part of them in which this
   * one waited for others.
   */
  times(): Record<string, number>;
  /**
   * Ends a run that learns nothing. Saves a checkpoint unless the run has learned nothing at all and would replace an
   * earlier run's output.
   *
   * @throws RunError
   */
  giveUp(reason: string, hasLearned: boolean): Promise<never>;
}

/**
 * Runs to the end, or until the user stops it.
 *
 * @param turn makes the steps of one turn; false if it was stopped before the first of them and left nothing
 * @throws InputError, RunError; progress up to then is in the last checkpoint. A tracker that can no longer write ends the
 *   run with an InputError, after a checkpoint.
 */
export async function keepRun(options: RunOptions, turn: (turn: Turn) => Promise<boolean>): Promise<RunOutcome> {
  const { models, config, console, steps, stepsPerTurn, state, resume, ranks } = options;
  const { outputDir } = config;
  const reached = () => state(null).step;
  if (resume) restoreOptimizer(models, resume.folder);
  const metrics = ranks.rank === 0 ? openMetrics(outputDir, resume ? reached() : null) : noMetrics;
  const often = everySteps(config, steps);
  const shows = (step: number) => step % often.logging === 0 || step === steps;
  const trackers = openTrackers(
    { config, settings: options.settings, resumeStep: resume ? reached() : null },
    metrics.path,
  );
  const tell = toAll([metricsSink(metrics), trackers, consoleSink(console, shows), ...(options.sinks ?? [])]);
  const output = openRunOutput({ ...options, metrics, tell });
  const stopwatch = createStopwatch();
  let stopped = false;

  const ends = () => {
    if (trackers.failure() !== null) ranks.askToStop();
    return ranks.stopAgreed();
  };
  const passed = (every: number, since: number) => Math.floor(reached() / every) > Math.floor(since / every);
  const evaluationDue = (since: number) => often.eval !== null && passed(often.eval, since) && reached() < steps;
  try {
    // A resumed run may have ended before its checkpoint's step was evaluated.
    if (reached() === 0 || evaluationDue(reached() - stepsPerTurn)) await output.evaluate();
    while (reached() < steps && !ends() && !output.exhausted) {
      stopwatch.lap();
      const since = reached();
      const made = await turn({
        ...tell,
        firstStep: since + 1,
        phase: stopwatch.start,
        progress: (phase, done, total) =>
          tell.progress({
            ...{ step: since + 1, steps, phase },
            ...(done === undefined ? {} : { done, total: total ?? done }),
          }),
        times: () => timesOf(stopwatch.lap(), ranks),
        async giveUp(reason, hasLearned) {
          const replaces = await ranks.first("an earlier run", () => isEarlierWaiting(outputDir));
          if (!hasLearned && replaces) throw new RunError(`${reason}; fix it and start again`);
          await output.save();
          throw new RunError(`${reason}; fix it and continue with --resume_from_checkpoint true`);
        },
      });
      if (!made) break; // the unfinished turn is dropped: the checkpoint is from before it
      if (often.save > 0 && passed(often.save, since)) await output.save();
      if (evaluationDue(since)) await output.evaluate();
    }
    if (!ends()) await output.evaluate();
    stopped = ends();
    if (stopped) await output.stop();
    else await output.finish(steps);
  } finally {
    tell.close();
  }
  const failure = trackers.failure();
  if (failure !== null) throw failure;
  return { steps: reached(), stopped };
}

function timesOf({ step_time, ...phases }: Record<string, number>, ranks: Ranks): Record<string, number> {
  const waited = ranks.takeWait();
  return { ...phases, ...(waited !== null && { "time/wait": waited }), step_time: step_time! };
}

/** metrics.jsonl, and the recorded completions, up to the step after which the run goes on; null: from the start. */
function openMetrics(outputDir: string, resumeStep: number | null): MetricsWriter {
  const metrics = createMetricsWriter(outputDir, resumeStep === null ? {} : { resumeStep });
  removeCompletionsAfter(outputDir, resumeStep ?? 0);
  return metrics;
}

/** Those of a rank that writes nothing. */
const noMetrics: MetricsWriter = { path: "", write() {}, lastWith: () => null, close() {} };

/**
 * Writes a whole run at its end: all records, the model, a checkpoint. Such a run leaves nothing if it does not finish.
 *
 * @param resumeStep the step after which the records continue the folder's metrics; null: they replace them
 */
export async function keepOutcome(
  models: TrainedModels,
  outputDir: string,
  records: readonly MetricsRecord[],
  state: { readonly step: number },
  resumeStep: number | null,
): Promise<void> {
  const metrics = createMetricsWriter(outputDir, resumeStep === null ? {} : { resumeStep });
  for (const record of records) metrics.write(record);
  metrics.close();
  await saveModel(models, outputDir);
  await saveCheckpoint(models, outputDir, state.step, state);
}
