/** `grpo sft`: supervised fine-tuning. What it does is src/api/sft.ts. */
import { sftWith } from "../api/sft.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import type { Command } from "./command.ts";
import { onTerminal } from "./terminal.ts";

export const sft: Command = {
  usage: `Usage: grpo sft [CONFIG] --model M --dataset D [--key value …]

Trains on the answers of a dataset, token by token. Ctrl-C saves a checkpoint; --resume_from_checkpoint true resumes from
it.

${describeSettings("sft")}`,
  run: (argv) =>
    onTerminal("stopping after this step and saving a checkpoint", async (control) => {
      const { stopped, hub } = await sftWith(configFor("sft", argv), control);
      return stopped ? 130 : hub !== undefined && "failure" in hub ? 1 : 0;
    }),
};
