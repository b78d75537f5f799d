/** `grpo completions SHELL`: prints the script by which a shell completes commands, settings, their values and files. */
import { nearest } from "../config/nearest.ts";
import { InputError } from "../errors.ts";
import type { Command } from "./command.ts";
import { describeFlags, readFlags } from "./flags.ts";
import { bashScript } from "./shells/bash.ts";
import { fishScript } from "./shells/fish.ts";
import { commandWords } from "./shells/words.ts";
import { zshScript } from "./shells/zsh.ts";

const shells = { bash: bashScript, zsh: zshScript, fish: fishScript } as const;
const names = Object.keys(shells);

export const completions: Command = {
  words: names,
  usage: `Usage: grpo completions bash|zsh|fish

Prints the completions for a shell, made from the settings of this version. To use them:

  bash   source <(grpo completions bash)                                  # in ~/.bashrc
  zsh    source <(grpo completions zsh)                                   # in ~/.zshrc, after compinit
  fish   grpo completions fish > ~/.config/fish/completions/grpo.fish     # once

${describeFlags({})}`,
  async run(argv, table = []) {
    const { positionals } = readFlags("completions", {}, argv, ["SHELL"]);
    const [shell] = positionals as [string];
    if (!Object.hasOwn(shells, shell)) {
      const guess = nearest(shell, names);
      const cure = guess === undefined ? `there are ${names.join(", ")}` : `did you mean ${guess}?`;
      throw new InputError(`${JSON.stringify(shell)} is not a shell that is known here; ${cure}`);
    }
    process.stdout.write(shells[shell as keyof typeof shells](await commandWords(table)));
  },
};
