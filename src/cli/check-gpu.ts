/** `grpo check:gpu`: the stages of check/, which prove this machine's own GPU. */
import { main, usage } from "../../check/main.ts";
import type { Command } from "./command.ts";

export const checkGpu: Command = {
  name: "check:gpu",
  summary: "prove every op and the training on this machine's own GPU",
  usage,
  run: (argv) => main(argv),
};
