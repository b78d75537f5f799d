/** A policy update on recorded rollouts, wired together from its settings. The work is src/grpo/recorded-update.ts. */
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { completionsFolder, runFile, runRecord } from "../checkpoint/held.ts";
import { resolveModel } from "../checkpoint/hub.ts";
import { openOutputFolder } from "../checkpoint/output-folder.ts";
import type { Load } from "../config/load.ts";
import { toCamel } from "../config/names.ts";
import { type ConfigRecord, freeInReplay } from "../config/record.ts";
import { type ConfigInput, settingsOf } from "../config/schema.ts";
import { InputError } from "../errors.ts";
import { isFunctionRecord, noFunctions, type OwnFunctions, recordOf } from "../grpo/own-functions.ts";
import { runRecordedUpdate } from "../grpo/recorded-update.ts";
import { type ReplayStart, updateState } from "../grpo/replay.ts";
import { completionsPath } from "../metrics/completions-file.ts";
import type { MetricsRecord } from "../metrics/metrics-file.ts";
import { readCheckpointState } from "../session/checkpointing.ts";
import { bundledModel } from "./bundled.ts";
import type { Control } from "./control.ts";
import { resumeFolder } from "./earlier-run.ts";

export interface UpdateResult {
  /** Where the model, a checkpoint and metrics.jsonl are. */
  readonly outputDir: string;
  /** A record for each optimizer step, as in metrics.jsonl. */
  readonly steps: readonly MetricsRecord[];
}

export interface UpdateControl extends Control {
  readonly functions?: OwnFunctions | undefined;
}

/** Everything that `grpo update` does; null: it was stopped, and nothing is saved. @throws InputError, RunError */
export async function updateWith(load: Load<"update">, control: UpdateControl): Promise<UpdateResult | null> {
  const { console, stopRequested, onBegin, functions = noFunctions } = control;
  const asked = load();
  const { outputDir } = asked.config;
  const output = openOutputFolder({ folder: outputDir, command: "update", note: console.note });
  try {
    const checkpoint = resumeFolder(asked.config.resumeFromCheckpoint, outputDir);
    const resume =
      checkpoint === null
        ? runBeginning(asked.config.rollouts)
        : { folder: checkpoint, state: readCheckpointState(checkpoint, updateState) };
    if (resume) requireFunctions(resume.state.config, asked.given, functions);
    const { config, warnings } = load({ defaults: resume ? settingsOfRun(resume.state.config) : {} });
    const model = config.model ?? bundledModel();
    const ofTraining = holdsTraining(outputDir);
    output.permit({
      overwrite: config.overwrite,
      resumes: !ofTraining,
      // In a training run's folder, model and metrics would be replaced: only an update's own can be resumed in.
      resume: checkpoint === null || ofTraining ? null : { folder: checkpoint, step: resume!.state.step },
      newest: config.resumeFromCheckpoint === true,
      inputs: {
        model,
        ref_model: config.refModel,
        rollouts: config.rollouts,
        "the configuration": asked.file ?? null,
      },
    });
    for (const warning of warnings) console.note(`note: ${warning}`);
    if (resume?.folder === null)
      console.note(
        `note: ${config.rollouts} is the first generation of its run: ` +
          `settings that are not given are those of ${runFileOf(config.rollouts)}`,
      );
    const steps = await runRecordedUpdate({
      config,
      folder: await resolveModel(model, { revision: config.modelRevision, note: console.note }),
      resume,
      note: console.note,
      onStep: console.step,
      onBegin() {
        output.begin({ command: "update", bundled: false, settings: recordOf(config, functions) });
        onBegin?.();
      },
      shouldStop: stopRequested,
      functions,
    });
    if (steps === null) return null;
    console.note(`saved the model in ${outputDir}`);
    return { outputDir, steps };
  } finally {
    output.release();
  }
}

/** @throws InputError where the run had a function in place of a name, and neither is given now */
function requireFunctions(run: ConfigRecord, given: ReadonlySet<string>, functions: OwnFunctions): void {
  const needed = { loss_type: functions.loss, advantage_estimator: functions.estimator };
  for (const [key, own] of Object.entries(needed))
    if (isFunctionRecord(run[key]) && own === null && !given.has(key))
      throw new InputError(
        `${key}: the run's was ${run[key]}, of a TypeScript program; give that function to update() as ${toCamel(key)}, or name another`,
      );
}

/** The settings of the checkpoint's run that an update has too: what stands in for settings that are not given. */
function settingsOfRun(run: Readonly<Record<string, unknown>>): ConfigInput<"update"> {
  const found = Object.entries(settingsOf("update")).flatMap(([key, setting]) => {
    if (run[key] === undefined || (freeInReplay.has(key) && key !== "model")) return [];
    const parsed = setting.safeParse(run[key]);
    return parsed.success ? [[toCamel(key), parsed.data]] : [];
  });
  return Object.fromEntries(found) as ConfigInput<"update">;
}

const runFolderOf = (rollouts: string): string => dirname(dirname(resolve(rollouts)));
const runFileOf = (rollouts: string): string => join(dirname(dirname(rollouts)), runFile);

/**
 * Where the run stood before its first generation, which no checkpoint holds: `run.json` has its settings.
 * @returns null where the file of rollouts is not a run's first, or its folder says too little
 */
function runBeginning(rollouts: string): ReplayStart | null {
  const run = runFolderOf(rollouts);
  if (resolve(rollouts) !== completionsPath(run, 1)) return null;
  const record = runRecord(run);
  if (record?.command !== "train") return null;
  const state = updateState.safeParse({ step: 0, totalSteps: record.totalSteps, config: record.settings });
  return state.success ? { folder: null, state: state.data } : null;
}

function holdsTraining(folder: string): boolean {
  const record = runRecord(folder);
  return record === null ? existsSync(join(folder, completionsFolder)) : record.command !== "update";
}
