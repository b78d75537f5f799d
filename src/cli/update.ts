/** `grpo update`: the policy update alone, on recorded rollouts. The work is src/grpo/recorded-update.ts. */
import { mkdirSync } from "node:fs";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import { readCheckpointState } from "../engine/checkpointing.ts";
import { modelFolder } from "../engine/inputs.ts";
import { runRecordedUpdate, updateState } from "../grpo/recorded-update.ts";
import { bundledModel } from "./bundled.ts";
import type { Command } from "./command.ts";
import { resumeFolder, standardConsole } from "./train.ts";

export const update: Command = {
  name: "update",
  summary: "the policy update alone, on recorded rollouts",
  usage: `Usage: grpo update --model M --rollouts F.jsonl --output_dir O [--key value …]

Takes its groups from the file (what train records under completions/), makes num_iterations optimizer steps over all
lines as one batch, and writes the model, a checkpoint and metrics.jsonl to output_dir. --resume_from_checkpoint C
brings weights, Adam state, step and schedule, so that any recorded step can be run again.

${describeSettings("update")}`,
  async run(argv) {
    const { config, warnings } = configFor("update", argv);
    const console = standardConsole();
    for (const warning of warnings) console.note(`note: ${warning}`);
    const checkpoint = resumeFolder(config.resumeFromCheckpoint, config.outputDir);
    const resume =
      checkpoint === null ? null : { folder: checkpoint, state: readCheckpointState(checkpoint, updateState) };
    mkdirSync(config.outputDir, { recursive: true });
    const folder = await modelFolder(config.model ?? bundledModel());
    await runRecordedUpdate({ config, folder, resume, note: console.note, onStep: console.step });
    console.note(`saved the model in ${config.outputDir}`);
    console.close();
    return 0;
  },
};
