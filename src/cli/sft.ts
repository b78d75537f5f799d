/** `grpo sft`: supervised fine-tuning. What it does is src/api/sft.ts. */
import type { Control } from "../api/control.ts";
import { sftWith } from "../api/sft.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import type { Command } from "./command.ts";
import { inRanks } from "./launch.ts";
import { onTerminal } from "./terminal.ts";

export const sft: Command = {
  usage: `Usage: grpo sft [CONFIG] --model M --dataset D [--key value …]

Trains on the answers of a dataset, token by token. Ctrl-C saves a checkpoint; --resume_from_checkpoint true resumes from
it.

${describeSettings("sft")}`,
  run(argv) {
    const loaded = configFor("sft", argv);
    const work = async (control: Control): Promise<number> => {
      const { stopped, hub } = await sftWith(loaded, control);
      return stopped ? 130 : hub !== undefined && "failure" in hub ? 1 : 0;
    };
    const { ranks, quiet } = loaded.config;
    return inRanks(ranks, () => onTerminal("stopping after this step and saving a checkpoint", work, quiet));
  },
};
