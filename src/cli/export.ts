/** `grpo export`: an adapter as a plain model. What it does is src/api/export.ts. */
import { exportMerged } from "../api/export.ts";
import { text, toggle } from "../config/settings/kinds.ts";
import { fileOverwriteSettings } from "../config/settings/output.ts";
import { InputError } from "../errors.ts";
import type { Command } from "./command.ts";
import { describeFlags, readFlags } from "./flags.ts";
import { noteOnStderr } from "./terminal.ts";

const settings = {
  merge: toggle(false)`Merge the adapter into its base model.`,
  load_in_4bit: toggle(false)`
    Merge into the base's projections as they are in NF4, which the adapter was trained beside with load_in_4bit.`,
  output_dir: text("outputs/export", "FOLDER")`Where the model goes.`,
  ...fileOverwriteSettings,
} as const;

export const exporting: Command = {
  flags: settings,
  usage: `Usage: grpo export ADAPTER --merge [--output_dir FOLDER]

Writes a LoRA adapter (the output folder of a run with use_peft, one of its checkpoints, or any folder in PEFT's format) and its
base model as one plain model, in the base's number format, that every program loads. Merged weights are rounded to that
format, so bfloat16 models answer slightly differently; train, eval and generate take the adapter's folder itself. A base that
is stored in 4 bits is written in its number format too.

${describeFlags(settings)}
Example: grpo export outputs/train --merge --output_dir merged`,
  async run(argv) {
    const { flags, positionals } = readFlags("export", settings, argv, ["ADAPTER"]);
    if (!flags.merge)
      throw new InputError(
        "--merge is missing: an adapter's folder is in PEFT's format already, and there is nothing else to export",
      );
    const { outputDir, overwrite, loadIn4bit } = flags;
    const { changed } = await exportMerged({
      ...{ model: positionals[0]!, outputDir, overwrite, loadIn4bit },
      note: noteOnStderr,
    });
    process.stdout.write(`${outputDir}: the base model with ${changed} weights changed\n`);
  },
};
