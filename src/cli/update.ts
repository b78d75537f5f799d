/** `grpo update`: the policy update alone, on recorded rollouts. The work is src/grpo/recorded-update.ts. */
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { completionsFolder, runFile, runRecord } from "../checkpoint/held.ts";
import { resolveModel } from "../checkpoint/hub.ts";
import { openOutputFolder } from "../checkpoint/output-folder.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import { toCamel } from "../config/names.ts";
import { freeInReplay, toJson } from "../config/record.ts";
import { type ConfigInput, settingsOf } from "../config/schema.ts";
import { runRecordedUpdate } from "../grpo/recorded-update.ts";
import { type ReplayStart, updateState } from "../grpo/replay.ts";
import { completionsPath } from "../metrics/completions-file.ts";
import type { RunConsole } from "../metrics/console.ts";
import { readCheckpointState } from "../session/checkpointing.ts";
import { bundledModel } from "./bundled.ts";
import type { Command } from "./command.ts";
import { type Interrupt, onInterrupt } from "./interrupt.ts";
import { resumeFolder, standardConsole } from "./train.ts";

/** The settings of the checkpoint's run that an update has too: what stands in for flags that are not given. */
function settingsOfRun(run: Readonly<Record<string, unknown>>): ConfigInput<"update"> {
  const found = Object.entries(settingsOf("update")).flatMap(([key, setting]) => {
    if (run[key] === undefined || (freeInReplay.has(key) && key !== "model")) return [];
    const parsed = setting.safeParse(run[key]);
    return parsed.success ? [[toCamel(key), parsed.data]] : [];
  });
  return Object.fromEntries(found) as ConfigInput<"update">;
}

export const update: Command = {
  usage: `Usage: grpo update --model M --rollouts F.jsonl --output_dir O [--key value …]

Reads groups from the file (what train records under completions/), makes num_iterations passes over it, each one optimizer
step or the steps that its lines name, and writes the model, a checkpoint and metrics.jsonl to output_dir.
--resume_from_checkpoint C restores weights, Adam state, step, schedule, a moving reference and the run's settings, unless a
flag overrides them: the recorded generation that follows the checkpoint is run again, to the same bytes on a CPU. If
anything makes it a different step, a note says so. A run's first generation takes its settings from the run.json beside it.
A critic is not updated; the file already has its run's advantages.

${describeSettings("update")}`,
  async run(argv) {
    const console = standardConsole();
    const interrupt = onInterrupt({ stopping: "stopping after this step, nothing is saved" });
    try {
      return await runUpdate(argv, console, interrupt);
    } finally {
      interrupt.release();
      console.close();
    }
  },
};

/** Everything `grpo update` does; returns the exit status. */
export async function runUpdate(
  argv: readonly string[],
  console: RunConsole,
  interrupt?: Pick<Interrupt, "begin" | "requested">,
): Promise<number> {
  const asked = configFor("update", argv);
  const { outputDir } = asked.config;
  const output = openOutputFolder({ folder: outputDir, command: "update", note: console.note });
  try {
    const checkpoint = resumeFolder(asked.config.resumeFromCheckpoint, outputDir);
    const resume =
      checkpoint === null
        ? runBeginning(asked.config.rollouts)
        : { folder: checkpoint, state: readCheckpointState(checkpoint, updateState) };
    const defaults = resume ? settingsOfRun(resume.state.config) : {};
    const { config, warnings } = configFor("update", argv, { defaults });
    const model = config.model ?? bundledModel();
    const ofTraining = holdsTraining(outputDir);
    output.permit({
      overwrite: config.overwrite,
      resumes: !ofTraining,
      // Of a training run the model and the metrics would be replaced: only an update's own folder is gone on in.
      resume: checkpoint === null || ofTraining ? null : { folder: checkpoint, step: resume!.state.step },
      newest: config.resumeFromCheckpoint === true,
      inputs: {
        ...{ model, ref_model: config.refModel, rollouts: config.rollouts },
        "the configuration": asked.file ?? null,
      },
    });
    for (const warning of warnings) console.note(`note: ${warning}`);
    if (resume?.folder === null)
      console.note(
        `note: ${config.rollouts} is the first generation of its run: what no flag says is as in ${runFileOf(config.rollouts)}`,
      );
    const folder = await resolveModel(model);
    const records = await runRecordedUpdate({
      ...{ config, folder, resume, note: console.note, onStep: console.step },
      onBegin() {
        output.begin({ command: "update", bundled: false, settings: toJson(config) });
        interrupt?.begin();
      },
      ...(interrupt ? { shouldStop: interrupt.requested } : {}),
    });
    if (records === null) return 130;
    console.note(`saved the model in ${outputDir}`);
    return 0;
  } finally {
    output.release();
  }
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
