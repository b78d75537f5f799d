/**
 * What a training run leaves in its folder besides metrics and completions, GRPO's and supervised fine-tuning's alike:
 * checkpoints, the lines of its evaluations, the best of them, and the model at the end. A checkpoint knows of its step's
 * evaluation, whichever of the two came first. When any of it is due is run.ts's business.
 */
import { join, resolve } from "node:path";
import { isEarlierWaiting } from "../checkpoint/earlier.ts";
import { checkpointName, keepNewestCheckpoints, writeTrainerState } from "../checkpoint/state.ts";
import type { MetricsRecord, MetricsWriter } from "../metrics/metrics-file.ts";
import { loadModel, saveCheckpoint, saveModel, type TrainedModels } from "../session/checkpointing.ts";
import { type BestSettings, type BestState, trackBest } from "./best-checkpoint.ts";
import type { RunSink } from "./sinks.ts";

export interface RunOutputOptions {
  readonly models: TrainedModels;
  readonly config: BestSettings & { readonly outputDir: string; readonly saveTotalLimit: number | null };
  readonly metrics: Pick<MetricsWriter, "lastWith">;
  readonly tell: Required<Pick<RunSink, "evaluation" | "note">>;
  /** The number by which evaluations are compared where no setting names one. */
  readonly byDefault: "eval_reward" | "eval_accuracy";
  /** An evaluation as a metrics record without its step; null: there is nothing to evaluate on. */
  readonly evaluate: (() => Promise<{ readonly values: Record<string, number>; readonly note: string }>) | null;
  readonly stopRequested: () => boolean;
  /** Where the run stands now, as a checkpoint keeps it. */
  readonly state: (best: BestState | null) => { readonly step: number };
  readonly resume: { readonly folder: string; readonly state: { readonly best?: BestState | undefined } } | null;
}

export interface RunOutput {
  /** `early_stopping_patience` has run out. */
  readonly exhausted: boolean;
  /** Saves a checkpoint of where the run stands, and drops those that `save_total_limit` has no room for. */
  save(): Promise<void>;
  /**
   * The same where the run is stopped, unless there is one of this step; before its first step a run has nothing to put in
   * an earlier one's place.
   */
  stop(): Promise<void>;
  /** Evaluates and logs it, unless this step's is logged; saves the checkpoint where it is the best so far. */
  evaluate(): Promise<void>;
  /** Saves the model: the last one, or the best one's where that is asked for. */
  finish(steps: number): Promise<void>;
}

interface Figure {
  readonly step: number;
  readonly name: "eval_accuracy" | "eval_reward";
  readonly value: number;
}

/** One line on how the first evaluation and that of the saved model, after `step`, compare. */
function beforeAndAfter(figures: readonly Figure[], step: number): string[] {
  const [first, last] = [figures[0], figures.findLast((figure) => figure.step === step)];
  if (!first || !last || first === last || first.name !== last.name) return [];
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  const [what, show] = first.name === "eval_accuracy" ? ["accuracy", percent] : ["reward", (x: number) => x.toFixed(4)];
  return [`held-out ${what}: ${show(first.value)} before, ${show(last.value)} after`];
}

/** @throws InputError where the evaluation before the first step lacks the number that says which is the best */
export function openRunOutput(options: RunOutputOptions): RunOutput {
  const { models, config, metrics, tell, stopRequested, resume } = options;
  const { outputDir } = config;
  const best = trackBest(config, outputDir, options.byDefault, resume);
  const figures: Figure[] = [];
  const state = () => options.state(best?.state ?? null);
  const folderOf = (step: number) => join(outputDir, checkpointName(step));
  // The step of a checkpoint in this folder that is of the weights as they are.
  const start = state().step;
  let savedAt = resume && resolve(resume.folder) === resolve(folderOf(start)) ? start : -1;

  const save = async (): Promise<void> => {
    const reached = state();
    tell.note(`saved ${await saveCheckpoint(models, outputDir, reached.step, reached)}`);
    savedAt = reached.step;
    keepNewestCheckpoints(outputDir, config.saveTotalLimit, best?.state.step);
  };
  /** Saves the checkpoint that an evaluation makes the best; one that is saved already is told of the evaluation. */
  const rate = async (values: MetricsRecord): Promise<void> => {
    const { step } = values;
    if (!best || best.state.evaluatedAt >= step) return;
    const isBest = best.rate(step, values);
    if (savedAt === step) writeTrainerState(folderOf(step), state());
    else if (isBest) await save();
  };
  return {
    get exhausted() {
      return best?.exhausted ?? false;
    },
    save,
    async stop() {
      const { step } = state();
      if (savedAt !== step && (step > 0 || !isEarlierWaiting(outputDir))) await save();
    },
    async evaluate() {
      if (!options.evaluate || stopRequested()) return;
      const { step } = state();
      const done = metrics.lastWith("eval_completions/mean_length");
      // Resumed, its line may be there and the checkpoint not know of it.
      if (done?.step === step) return rate(done);
      const { values, note } = await options.evaluate();
      if (stopRequested()) return;
      best?.require(step, values, tell.note);
      tell.evaluation({ step, ...values }, note);
      const name = values.eval_accuracy === undefined ? "eval_reward" : "eval_accuracy";
      if (values[name] !== undefined) figures.push({ step, name, value: values[name] });
      await rate({ step, ...values });
    },
    async finish(steps) {
      const { step } = state();
      const from = best?.conclude(step, steps, tell.note) ?? null;
      if (from !== null) await loadModel(models, from);
      await saveModel(models, outputDir);
      for (const line of beforeAndAfter(figures, from === null ? step : best!.state.step!)) tell.note(line);
      tell.note(`saved the model in ${outputDir}${from === null ? "" : `: that of ${from}`}`);
    },
  };
}
