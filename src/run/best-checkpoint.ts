/**
 * The best evaluation of a run so far, by transformers' rules (`metric_for_best_model`, EarlyStoppingCallback): a
 * strictly better value is the new best; patience counts the evaluations since one that beat the previous best by more
 * than the threshold. The evaluation before the first step does not count. Only decides; run-output.ts saves and loads.
 */
import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { z } from "zod";
import { checkpointName } from "../checkpoint/state.ts";
import { InputError } from "../errors.ts";

export interface BestSettings {
  readonly metricForBestModel: string | null;
  readonly greaterIsBetter: boolean | null;
  readonly loadBestModelAtEnd: boolean;
  readonly earlyStoppingPatience: number | null;
  readonly earlyStoppingThreshold: number;
}

/** The state that a checkpoint keeps. */
export const bestState = z.object({
  metric: z.string(),
  /** null: nothing has been evaluated yet. */
  value: z.number().nullable(),
  step: z.int().min(0).nullable(),
  /** Evaluations since the last that was better by more than the threshold. */
  waited: z.int().min(0),
  /** The step of the last evaluation that counted. */
  evaluatedAt: z.int().min(0),
});
export type BestState = z.infer<typeof bestState>;

type Values = Readonly<Record<string, unknown>>;

/** The metric's name in an evaluation's record. */
export const evaluationName = (metric: string): string => (metric.startsWith("eval_") ? metric : `eval_${metric}`);

export interface BestCheckpoint {
  readonly state: BestState;
  /** Folder of the best checkpoint; null: none is saved yet. */
  readonly folder: string | null;
  /** Patience has run out. */
  readonly exhausted: boolean;
  /**
   * Checks that an evaluation has the metric. If not, the message names those that it has; after the first step this is
   * only a note, as an evaluation may happen to have no scored answer.
   * @throws InputError before the first step
   */
  require(step: number, values: Values, note: (text: string) => void): void;
  /**
   * Takes an evaluation after `step` into account; without the metric (nothing was scored) it is no better.
   * @returns whether it is the best so far, so that its checkpoint must be saved
   */
  rate(step: number, values: Values): boolean;
  /**
   * Reports at the end which evaluation was best, and why the run ends.
   * @returns folder of the model to save instead of the one after `step`, or null
   */
  conclude(step: number, steps: number, note: (text: string) => void): string | null;
}

/**
 * @param outputDir where checkpoints are saved
 * @param fallback the metric if none is named
 * @param resume the checkpoint that the run resumes from
 * @returns null if no setting needs it
 */
export function trackBest(
  settings: BestSettings,
  outputDir: string,
  fallback: string,
  resume: { readonly folder: string; readonly state: { readonly best?: BestState | undefined } } | null,
): BestCheckpoint | null {
  const { metricForBestModel: named, earlyStoppingPatience: patience, earlyStoppingThreshold: threshold } = settings;
  if (named === null && patience === null && !settings.loadBestModelAtEnd) return null;
  const metric = evaluationName(named ?? fallback);
  const greater = settings.greaterIsBetter ?? !metric.endsWith("loss");
  const before = resume?.state.best;
  let state: BestState =
    before?.metric === metric ? before : { metric, value: null, step: null, waited: 0, evaluatedAt: 0 };
  let folder = state.step === null ? null : join(dirname(resume!.folder), checkpointName(state.step));
  return {
    get state() {
      return state;
    },
    get folder() {
      return folder;
    },
    get exhausted() {
      return patience !== null && state.waited >= patience;
    },
    require(step, values, note) {
      if (typeof values[metric] === "number") return;
      const names = Object.keys(values).filter((name) => name.startsWith("eval_"));
      const text = `metric_for_best_model ${named ?? fallback}: the evaluation has no ${metric}; it has ${names.join(", ")}`;
      if (step === 0) throw new InputError(text);
      note(`step ${step}: ${text}: it counts as no better`);
    },
    rate(step, values) {
      const value = values[metric];
      const { value: best } = state;
      const isBest = typeof value === "number" && (best === null || (greater ? value > best : value < best));
      const isClear = isBest && (best === null || Math.abs(value - best) > threshold);
      state = { ...state, waited: isClear ? 0 : state.waited + 1, evaluatedAt: step };
      if (!isBest) return false;
      state = { ...state, value, step };
      folder = join(outputDir, checkpointName(step));
      return true;
    },
    conclude(step, steps, note) {
      if (this.exhausted && step < steps)
        note(`ended after step ${step}: ${state.waited} evaluations without a better one`);
      if (state.value === null || folder === null) {
        note(`no evaluation has a ${metric}`);
        return null;
      }
      note(`the best evaluation: ${metric} ${Number(state.value.toPrecision(6))} at ${basename(folder)}`);
      if (!settings.loadBestModelAtEnd || state.step === step) return null;
      if (existsSync(folder)) return folder;
      note(`${folder} is gone, so the model after step ${step} is saved and not that of the best evaluation`);
      return null;
    },
  };
}
