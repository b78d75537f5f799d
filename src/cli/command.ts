/** What a subcommand is, for the table in `src/cli/main.ts`. */
import type { CommandName, SettingTypes } from "../config/schema.ts";

/**
 * The shape every subcommand of `grpo` has. `src/cli/NAME.ts` exports one of this type; the table in `src/cli/main.ts`, which
 * has its name and summary, loads that file only when the subcommand is asked for.
 */
export interface Command {
  /** The flags of a command whose settings are not in the schema's table, for completions. */
  readonly flags?: SettingTypes;
  /** The words that may follow its name, for completions. */
  readonly words?: readonly string[];
  /** The text of `grpo NAME --help`: usage line, settings with defaults, an example. */
  readonly usage: string;
  /**
   * Runs the subcommand on the arguments after its name.
   * @param table all the commands there are, for one that speaks of them
   * @returns the exit code; nothing means 0. An interrupted command returns 130.
   * @throws InputError for what the user can put right (exit 2), RunError for what went wrong in the run (exit 1).
   */
  // biome-ignore lint/suspicious/noConfusingVoidType: a command that never returns a code is an async function of void
  run(argv: readonly string[], table?: readonly CommandEntry[]): Promise<number | void>;
}

/** A line of the table. */
export interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  /** What it makes are files: it goes on where nobody reads its stdout. */
  readonly makesFiles?: boolean;
  /** Its settings are checked before its file is loaded, which takes longer: a slip is told at once. */
  readonly settings?: CommandName;
  /** It does so itself: what it needs depends on the terminal. */
  readonly checksItself?: boolean;
  readonly load: () => Promise<Command>;
}
