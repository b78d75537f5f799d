/** `grpo update`: the policy update alone, on recorded rollouts. What it does is src/api/update.ts. */
import type { Control } from "../api/control.ts";
import { updateWith } from "../api/update.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import type { Command } from "./command.ts";
import { onTerminal } from "./terminal.ts";

export const update: Command = {
  usage: `Usage: grpo update --model M --rollouts F.jsonl --output_dir O [--key value …]

Reads groups from the file (what train records under completions/), makes num_iterations passes over it, each one optimizer
step or the steps that its lines name, and writes the model, a checkpoint and metrics.jsonl to output_dir.
--resume_from_checkpoint C restores weights, Adam state, step, schedule, a moving reference and the run's settings, unless a
flag overrides them: the recorded generation that follows the checkpoint is run again, to the same bytes on a CPU. If
anything makes it a different step, a note says so. A run's first generation takes its settings from the run.json beside it.
A critic is not updated; the file already has its run's advantages.

${describeSettings("update")}`,
  run(argv) {
    const work = async (control: Control): Promise<number> => {
      const result = await updateWith((options) => configFor("update", argv, options), control);
      return result === null ? 130 : 0;
    };
    return onTerminal("stopping after this step, nothing is saved", work, configFor("update", argv).config.quiet);
  },
};
