/** `grpo push`: a trained model to the hub, by itself or after a push of its run that failed. See src/api/publish.ts. */
import { pushModel, runFolderOf, targetOf } from "../api/publish.ts";
import { isFolder } from "../checkpoint/state.ts";
import { pushTargetSettings } from "../config/settings/hub.ts";
import { text } from "../config/settings/kinds.ts";
import { InputError } from "../errors.ts";
import type { Command } from "./command.ts";
import { describeFlags, readFlags } from "./flags.ts";
import { noteOnStderr } from "./terminal.ts";

const settings = {
  ...pushTargetSettings,
  commit_message: text("Upload model", "TEXT")`The commit's title.`,
} as const;

export const push: Command = {
  flags: settings,
  usage: `Usage: grpo push DIR [--hub_model_id owner/name]

Pushes the model in DIR, the output folder of a run or one of its checkpoints, to the Hugging Face hub: weights, config.json,
the tokenizer's files, and a model card made of the run's records (DIR/README.md, unless you wrote one). The repository is
made if it does not exist.

${describeFlags(settings)}
Example: grpo push outputs/train --hub_model_id me/my-model`,
  async run(argv) {
    const { flags, positionals } = readFlags("push", settings, argv, ["DIR"]);
    const folder = positionals[0]!;
    if (!isFolder(folder))
      throw new InputError(`${folder}: no such folder; give a run's output folder or a checkpoint`);
    const target = targetOf(flags, folder);
    const watch = { note: noteOnStderr };
    const { url, commit } = await pushModel(folder, runFolderOf(folder), target, flags.commitMessage, watch);
    process.stdout.write(`${url} (commit ${commit.slice(0, 7)})\n`);
  },
};
