/**
 * What a training run (GRPO or supervised fine-tuning) writes besides metrics and completions: checkpoints,
 * evaluations, the best of them, and the final model. A checkpoint includes its step's evaluation, whichever of the two
 * came first. run.ts decides when each is due.
 */
import { join, resolve } from "node:path";
import { isEarlierWaiting } from "../checkpoint/earlier.ts";
import { checkpointName, keepNewestCheckpoints, writeTrainerState } from "../checkpoint/state.ts";
import type { MetricsRecord, MetricsWriter } from "../metrics/metrics-file.ts";
import type { Ranks } from "../ranks/ranks.ts";
import {
  lendToCheckpoint,
  loadModel,
  saveCheckpoint,
  saveModel,
  type TrainedModels,
} from "../session/checkpointing.ts";
import { type BestSettings, type BestState, trackBest } from "./best-checkpoint.ts";
import type { RunSink } from "./sinks.ts";

export interface RunOutputOptions {
  readonly models: TrainedModels;
  readonly config: BestSettings & { readonly outputDir: string; readonly saveTotalLimit: number | null };
  readonly metrics: Pick<MetricsWriter, "lastWith">;
  readonly tell: Required<Pick<RunSink, "evaluation" | "note">>;
  /** The metric that evaluations are compared by if no setting names one. */
  readonly byDefault: "eval_reward" | "eval_accuracy";
  /** Runs an evaluation, returning a metrics record without its step; null if there is nothing to evaluate on. */
  readonly evaluate: (() => Promise<{ readonly values: Record<string, number>; readonly note: string }>) | null;
  readonly ranks: Ranks;
  /** Called after a checkpoint was saved, before older ones are deleted. */
  readonly onSaved?: ((folder: string, step: number) => Promise<void>) | undefined;
  /** The run's current state, as kept in checkpoints. */
  readonly state: (best: BestState | null) => { readonly step: number };
  readonly resume: { readonly folder: string; readonly state: { readonly best?: BestState | undefined } } | null;
}

export interface RunOutput {
  /** `early_stopping_patience` has run out. */
  readonly exhausted: boolean;
  /** Saves a checkpoint, and deletes those beyond `save_total_limit`. */
  save(): Promise<void>;
  /**
   * The same when the run is stopped, unless this step has a checkpoint. A run stopped before its first step does not
   * replace an earlier run's output.
   */
  stop(): Promise<void>;
  /** Evaluates and logs, unless this step's evaluation is logged; saves a checkpoint if it is the best so far. */
  evaluate(): Promise<void>;
  /** Saves the model: the last one, or the best one if `load_best_model_at_end` is set. */
  finish(steps: number): Promise<void>;
}

interface Figure {
  readonly step: number;
  readonly name: "eval_accuracy" | "eval_reward";
  readonly value: number;
}

/** One line comparing the first evaluation with that of the saved model, after `step`. */
function beforeAndAfter(figures: readonly Figure[], step: number): string[] {
  const [first, last] = [figures[0], figures.findLast((figure) => figure.step === step)];
  if (!first || !last || first === last || first.name !== last.name) return [];
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  const [what, show] = first.name === "eval_accuracy" ? ["accuracy", percent] : ["reward", (x: number) => x.toFixed(4)];
  return [`held-out ${what}: ${show(first.value)} before, ${show(last.value)} after`];
}

/** @throws InputError if the evaluation before the first step lacks the metric that selects the best */
export function openRunOutput(options: RunOutputOptions): RunOutput {
  const { models, config, metrics, tell, ranks, resume } = options;
  const { outputDir } = config;
  const best = trackBest(config, outputDir, options.byDefault, resume);
  const figures: Figure[] = [];
  const state = () => options.state(best?.state ?? null);
  const folderOf = (step: number) => join(outputDir, checkpointName(step));
  // The step of the checkpoint in this folder that has the current weights, or -1.
  const start = state().step;
  let savedAt = resume && resolve(resume.folder) === resolve(folderOf(start)) ? start : -1;

  const save = async (): Promise<void> => {
    const reached = state();
    if (ranks.rank > 0) await lendToCheckpoint(models);
    await ranks.first("a checkpoint", async () => {
      tell.note(`saved ${await saveCheckpoint(models, outputDir, reached.step, reached)}`);
      await options.onSaved?.(folderOf(reached.step), reached.step);
      keepNewestCheckpoints(outputDir, config.saveTotalLimit, best?.state.step);
    });
    savedAt = reached.step;
  };
  /** Saves a checkpoint if an evaluation is the best so far; if the step's is saved already, updates its state. */
  const rate = async (values: MetricsRecord): Promise<void> => {
    const { step } = values;
    if (!best || best.state.evaluatedAt >= step) return;
    const isBest = best.rate(step, values);
    if (savedAt === step) await ranks.first("its state", () => writeTrainerState(folderOf(step), state()));
    else if (isBest) await save();
  };
  return {
    get exhausted() {
      return best?.exhausted ?? false;
    },
    save,
    async stop() {
      const { step } = state();
      const replaces = await ranks.first("an earlier run", () => isEarlierWaiting(outputDir));
      if (savedAt !== step && (step > 0 || !replaces)) await save();
    },
    async evaluate() {
      if (!options.evaluate || ranks.stopAgreed()) return;
      const { step } = state();
      const done = await ranks.first("an evaluation", () => metrics.lastWith("eval_completions/mean_length"));
      // After a resume the evaluation may be logged while the checkpoint's state lacks it.
      if (done?.step === step) return rate(done);
      const { values, note } = await options.evaluate();
      if (ranks.stopAgreed()) return;
      best?.require(step, values, tell.note);
      tell.evaluation({ step, ...values }, note);
      const name = values.eval_accuracy === undefined ? "eval_reward" : "eval_accuracy";
      if (values[name] !== undefined) figures.push({ step, name, value: values[name] });
      await rate({ step, ...values });
    },
    async finish(steps) {
      const { step } = state();
      const from = await ranks.first("the best model", () => best?.conclude(step, steps, tell.note) ?? null);
      if (from !== null) await loadModel(models, from);
      await ranks.first("the model", () => saveModel(models, outputDir));
      for (const line of beforeAndAfter(figures, from === null ? step : best!.state.step!)) tell.note(line);
      tell.note(`saved the model in ${outputDir}${from === null ? "" : `: that of ${from}`}`);
    },
  };
}
