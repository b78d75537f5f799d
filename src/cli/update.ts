/** `grpo update`: the policy update alone, on recorded rollouts. The work is src/grpo/recorded-update.ts. */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import type { ConfigInput } from "../config/schema.ts";
import { optimizerSettings } from "../config/settings/optimizer.ts";
import { readCheckpointState } from "../engine/checkpointing.ts";
import { modelFolder } from "../engine/inputs.ts";
import { InputError } from "../errors.ts";
import { runRecordedUpdate, updateState } from "../grpo/recorded-update.ts";
import { writing } from "../metrics/write-error.ts";
import { bundledModel } from "./bundled.ts";
import type { Command } from "./command.ts";
import { resumeFolder, standardConsole } from "./train.ts";

const { learning_rate, lr_scheduler_type, warmup_steps, warmup_ratio } = optimizerSettings;
const schedule = z.object({ learning_rate, lr_scheduler_type, warmup_steps, warmup_ratio });

/** The learning rate's schedule as the checkpoint's run had it: what stands in for flags that are not given. */
function scheduleOf(config: Readonly<Record<string, unknown>>): ConfigInput<"update"> {
  const found = schedule.safeParse(config).data;
  if (!found) return {};
  return {
    learningRate: found.learning_rate,
    lrSchedulerType: found.lr_scheduler_type,
    warmupSteps: found.warmup_steps,
    warmupRatio: found.warmup_ratio,
  };
}

export const update: Command = {
  name: "update",
  summary: "the policy update alone, on recorded rollouts",
  usage: `Usage: grpo update --model M --rollouts F.jsonl --output_dir O [--key value …]

Takes its groups from the file (what train records under completions/), makes num_iterations optimizer steps over all
lines as one batch, and writes the model, a checkpoint and metrics.jsonl to output_dir. --resume_from_checkpoint C
brings weights, Adam state, step and schedule, so that any recorded step can be run again.

${describeSettings("update")}`,
  async run(argv) {
    const asked = configFor("update", argv);
    const checkpoint = resumeFolder(asked.config.resumeFromCheckpoint, asked.config.outputDir);
    const resume =
      checkpoint === null ? null : { folder: checkpoint, state: readCheckpointState(checkpoint, updateState) };
    const defaults = resume ? scheduleOf(resume.state.config) : {};
    const { config, warnings } = configFor("update", argv, { defaults });
    if (existsSync(join(config.outputDir, "completions")) && !config.overwrite)
      throw new InputError(
        `output_dir ${config.outputDir} holds a training run, whose model and metrics the update would replace; name another --output_dir, or replace them with --overwrite`,
      );
    const console = standardConsole();
    for (const warning of warnings) console.note(`note: ${warning}`);
    writing(config.outputDir, () => mkdirSync(config.outputDir, { recursive: true }));
    const folder = await modelFolder(config.model ?? bundledModel());
    await runRecordedUpdate({ config, folder, resume, note: console.note, onStep: console.step });
    console.note(`saved the model in ${config.outputDir}`);
    console.close();
    return 0;
  },
};
