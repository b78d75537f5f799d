/** `grpo update`: the policy update alone, on recorded rollouts. The work is src/grpo/recorded-update.ts. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { completionsFolder } from "../checkpoint/held.ts";
import { openOutputFolder, runRecord } from "../checkpoint/output-folder.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import { toJson } from "../config/record.ts";
import type { ConfigInput } from "../config/schema.ts";
import { optimizerSettings } from "../config/settings/optimizer.ts";
import { readCheckpointState } from "../engine/checkpointing.ts";
import { modelFolder } from "../engine/inputs.ts";
import { runRecordedUpdate, updateState } from "../grpo/recorded-update.ts";
import { bundledModel } from "./bundled.ts";
import type { Command } from "./command.ts";
import { onInterrupt } from "./interrupt.ts";
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
    const { outputDir } = asked.config;
    const console = standardConsole();
    const interrupt = onInterrupt({ stopping: "stopping after this step, nothing is saved" });
    try {
      const output = openOutputFolder({ folder: outputDir, command: "update", note: console.note });
      try {
        const checkpoint = resumeFolder(asked.config.resumeFromCheckpoint, outputDir);
        const resume =
          checkpoint === null ? null : { folder: checkpoint, state: readCheckpointState(checkpoint, updateState) };
        const defaults = resume ? scheduleOf(resume.state.config) : {};
        const { config, warnings } = configFor("update", argv, { defaults });
        const model = config.model ?? bundledModel();
        output.permit({
          overwrite: config.overwrite,
          resumes: !holdsTraining(outputDir),
          // Of a training run the model and the metrics would be replaced: only an update's own folder is gone on in.
          resume: resume && !holdsTraining(outputDir) ? { folder: resume.folder, step: resume.state.step } : null,
          newest: config.resumeFromCheckpoint === true,
          inputs: { model, ref_model: config.refModel, rollouts: config.rollouts },
        });
        for (const warning of warnings) console.note(`note: ${warning}`);
        const folder = await modelFolder(model);
        const records = await runRecordedUpdate({
          ...{ config, folder, resume, note: console.note, onStep: console.step },
          onBegin() {
            output.begin({ command: "update", bundled: false, settings: toJson(config) });
            interrupt.begin();
          },
          shouldStop: interrupt.requested,
        });
        if (records === null) return 130;
        console.note(`saved the model in ${outputDir}`);
        return 0;
      } finally {
        output.release();
      }
    } finally {
      interrupt.release();
      console.close();
    }
  },
};

function holdsTraining(folder: string): boolean {
  const record = runRecord(folder);
  return record === null ? existsSync(join(folder, completionsFolder)) : record.command !== "update";
}
