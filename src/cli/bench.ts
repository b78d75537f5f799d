/** `grpo bench`: the suites of bench/, from whole steps to single ops, with their shares of the machine's peak. */
import { main, usage } from "../../bench/main.ts";
import type { Command } from "./command.ts";

export const bench: Command = {
  usage,
  run: (argv) => main(argv),
};
