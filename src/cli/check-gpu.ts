/** `grpo check:gpu`: the stages of check/, which prove this machine's own GPU. */
import { checkGpu as check } from "../../check/main.ts";
import { type OpTask, runOpTask } from "../../check/op-task.ts";
import { text, toggle } from "../config/settings/kinds.ts";
import type { Command } from "./command.ts";
import { describeFlags, readFlags } from "./flags.ts";

const settings = {
  quick: toggle(false)`Only the most telling checks: two minutes on an H100 instead of four.`,
  model: text(null, "FOLDER")`Also train this model for three steps. null: none.`,
  logs: text(null, "FOLDER")`Where the full logs go. null: a new folder in outputs/check_gpu.`,
  only: text(null, "TEXT")`Run only the stages whose names contain this. null: all.`,
};

export const checkGpu: Command = {
  flags: settings,
  usage: `Usage: grpo check:gpu [--key value ...]

Checks this machine's GPU with NVIDIA's libraries: each kernel once, two training runs, speed, results (against float64)
and speed at the sizes of real models, every case of the op suite, the reference models, and compute-sanitizer if it is
installed. Each stage is a process of its own with a time limit. A failure is reported with the command that runs its stage
alone, and the other stages go on.

The op suite and the reference models are files in test/: a checkout has them, and so does a pack (bun run pack).

${describeFlags(settings)}
Example: grpo check:gpu --quick`,
  async run(argv) {
    // How the stages call this program for ops; not for users.
    if (argv[0] === "--op-task") return runOpTask(JSON.parse(argv[1] ?? "{}") as OpTask);
    return check(readFlags("check:gpu", settings, argv).flags);
  },
};
