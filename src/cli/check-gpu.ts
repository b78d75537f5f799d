/** `grpo check:gpu`: the stages of check/, which prove this machine's own GPU. */
import { z } from "zod";
import { checkGpu as check } from "../../check/main.ts";
import { type OpTask, runOpTask } from "../../check/op-task.ts";
import { about } from "../config/settings/about.ts";
import type { Command } from "./command.ts";
import { describeFlags, readFlags } from "./flags.ts";

const text = (meaning: string, value: string) => z.string().min(1).nullable().default(null).meta(about(meaning, value));

const settings = {
  quick: z.boolean().default(false).meta(about("What tells most: two minutes on an H100, where all of it takes four.")),
  model: text("Three training steps of this model, too. null: none.", "FOLDER"),
  logs: text("Where the full texts go. null: a folder of its own in outputs/check_gpu.", "FOLDER"),
  only: text("The stages whose names hold this. null: all.", "TEXT"),
};

export const checkGpu: Command = {
  name: "check:gpu",
  summary: "prove every op and the training on this machine's own GPU",
  usage: `Usage: grpo check:gpu [--key value ...]

Proves this machine's GPU with NVIDIA's libraries: each kernel once, two training runs, speed, results and speed at the sizes
of real models against float64, every case of the op suite, the reference models, compute-sanitizer where there is one. Each stage
is a process of its own with a limit; what fails is said with how to run it alone, and the rest goes on.

The op suite and the reference models are files of test/: a checkout has them, and so has a pack (bun run pack).

${describeFlags(settings)}
Example: grpo check:gpu --quick`,
  async run(argv) {
    // How the stages call this program for ops; not for users.
    if (argv[0] === "--op-task") return runOpTask(JSON.parse(argv[1] ?? "{}") as OpTask);
    return check(readFlags("check:gpu", settings, argv).flags);
  },
};
