/** `grpo update`: the policy update alone, on recorded rollouts. The work is src/grpo/recorded-update.ts. */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import { toCamel } from "../config/names.ts";
import { freeInReplay } from "../config/record.ts";
import { type ConfigInput, settingsOf } from "../config/schema.ts";
import { readCheckpointState } from "../engine/checkpointing.ts";
import { modelFolder } from "../engine/inputs.ts";
import { InputError } from "../errors.ts";
import { runRecordedUpdate, updateState } from "../grpo/recorded-update.ts";
import type { RunConsole } from "../metrics/console.ts";
import { writing } from "../metrics/write-error.ts";
import { bundledModel } from "./bundled.ts";
import type { Command } from "./command.ts";
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
  name: "update",
  summary: "the policy update alone, on recorded rollouts",
  usage: `Usage: grpo update --model M --rollouts F.jsonl --output_dir O [--key value …]

Takes its groups from the file (what train records under completions/), makes num_iterations passes over it, each of one
optimizer step or of the steps that its lines name, and writes the model, a checkpoint and metrics.jsonl to output_dir.
--resume_from_checkpoint C brings weights, Adam state, step, schedule, a moving reference and the run's settings, where no
flag says otherwise: the recorded generation that follows the checkpoint is run again, to the same bytes on a CPU. Where
something makes it another step, a note says so. A critic is not updated; the file has its run's advantages.

${describeSettings("update")}`,
  run: (argv) => runUpdate(argv, standardConsole()),
};

/** Everything `grpo update` does; returns the exit status. */
export async function runUpdate(argv: readonly string[], console: RunConsole): Promise<number> {
  const asked = configFor("update", argv);
  const checkpoint = resumeFolder(asked.config.resumeFromCheckpoint, asked.config.outputDir);
  const resume =
    checkpoint === null ? null : { folder: checkpoint, state: readCheckpointState(checkpoint, updateState) };
  const defaults = resume ? settingsOfRun(resume.state.config) : {};
  const { config, warnings } = configFor("update", argv, { defaults });
  if (existsSync(join(config.outputDir, "completions")) && !config.overwrite)
    throw new InputError(
      `output_dir ${config.outputDir} holds a training run, whose model and metrics the update would replace; name another --output_dir, or replace them with --overwrite`,
    );
  for (const warning of warnings) console.note(`note: ${warning}`);
  writing(config.outputDir, () => mkdirSync(config.outputDir, { recursive: true }));
  const folder = await modelFolder(config.model ?? bundledModel());
  await runRecordedUpdate({ config, folder, resume, note: console.note, onStep: console.step });
  console.note(`saved the model in ${config.outputDir}`);
  console.close();
  return 0;
}
