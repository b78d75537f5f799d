/**
 * The shape every subcommand of `grpo` has. `src/cli/NAME.ts` exports one of this type; the table in `src/cli/main.ts`, which
 * has its name and summary, loads that file only when the subcommand is asked for.
 */
export interface Command {
  /** The text of `grpo NAME --help`: usage line, settings with defaults, an example. */
  readonly usage: string;
  /**
   * Runs the subcommand on the arguments after its name.
   * @returns the exit code; nothing means 0. An interrupted command returns 130.
   * @throws InputError for what the user can put right (exit 2), RunError for what went wrong in the run (exit 1).
   */
  // biome-ignore lint/suspicious/noConfusingVoidType: a command that never returns a code is an async function of void
  run(argv: readonly string[]): Promise<number | void>;
}
