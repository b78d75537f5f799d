/** `grpo bench`: the suites of bench/, from whole steps to single ops, with their shares of the machine's peak. */
import { settings } from "../../bench/flags.ts";
import { main, suiteNames, usage } from "../../bench/main.ts";
import type { Command } from "./command.ts";

export const bench: Command = {
  flags: settings,
  words: suiteNames,
  usage,
  run: (argv) => main(argv),
};
