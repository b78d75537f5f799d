/** `grpo bench`: the suites of bench/, each op of the device with its share of the machine's peak among them. */
import { main, usage } from "../../bench/main.ts";
import type { Command } from "./command.ts";

export const bench: Command = {
  usage,
  run: (argv) => main(argv),
};
