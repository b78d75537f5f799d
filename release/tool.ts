/** Shared by the programs of this folder: flags, and exit. */
import { errorText, InputError, RunError } from "../src/errors.ts";

/** `--name value` and `--name=value` for the given names, each at most once. @throws InputError for anything else */
export function flagsOf<const Name extends string>(
  argv: readonly string[],
  names: readonly Name[],
): Partial<Record<Name, string>> {
  const found: Partial<Record<Name, string>> = {};
  for (let i = 0; i < argv.length; i++) {
    const [, key = "", inline] = /^--([^=]+)(?:=(.*))?$/.exec(argv[i]!) ?? [];
    const name = names.find((known) => known === key);
    if (name === undefined)
      throw new InputError(`"${argv[i]}": unknown; there is ${names.map((known) => `--${known}`).join(", ")}`);
    const value = inline ?? argv[++i];
    if (value === undefined || value === "") throw new InputError(`--${name}: a value is missing`);
    found[name] = value;
  }
  return found;
}

/** Runs `main` on the command line. Exit status 0; 2 for bad usage and 1 for a failure, each with one line of text. */
export async function runTool(name: string, main: (argv: readonly string[]) => Promise<void>): Promise<void> {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof InputError || error instanceof RunError)) throw error;
    process.stderr.write(`${name}: ${errorText(error)}\n`);
    process.exitCode = error.exitCode;
  }
}
