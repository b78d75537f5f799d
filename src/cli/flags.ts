/**
 * Flags and positional arguments of the commands that have no configuration file (`verify`, `data`, `doctor`): the same
 * spelling, checks and messages as settings have. `--debug` is known everywhere; what it does is main's business.
 */
import type { z } from "zod";
import { kindOf } from "../config/allowed.ts";
import { splitArguments } from "../config/arguments.ts";
import { describeShape } from "../config/help.ts";
import type { CamelKeys } from "../config/names.ts";
import type { SettingTypes } from "../config/schema.ts";
import { debugSettings } from "../config/settings/engine.ts";
import { complete, type Given, readValue, unknownName } from "../config/shape.ts";
import { InputError } from "../errors.ts";

export interface Flags<S extends SettingTypes> {
  /** In camelCase, checked, with defaults. */
  readonly flags: CamelKeys<{ [K in keyof S]: z.output<S[K]> }>;
  readonly positionals: readonly string[];
}

/**
 * @param command for messages, e.g. "verify"
 * @param settings by snake_case name, of the kinds in config/settings/kinds.ts
 * @param expected names of the positional arguments, all of them required, e.g. ["IN", "OUT.arrow"]
 * @param options.more whether more arguments may follow these
 * @throws InputError for an unknown flag, a value that is not allowed, too few or too many arguments
 */
export function readFlags<S extends SettingTypes>(
  command: string,
  settings: S,
  argv: readonly string[],
  expected: readonly string[] = [],
  { more = false }: { readonly more?: boolean } = {},
): Flags<S> {
  const known: SettingTypes = { ...settings, ...debugSettings };
  const split = splitArguments(argv, (key) => (Object.hasOwn(known, key) ? kindOf(known[key]!) : undefined));
  const given = new Map<string, Given>();
  for (const { key, label, value } of split.flags) {
    if (!Object.hasOwn(known, key)) throw unknownName(command, key, Object.keys(known), value, "flag", label);
    if (given.has(key)) throw new InputError(`${label}: given twice; keep one`);
    given.set(key, readValue(known, key, value, "flag", label));
  }
  const missing = expected[split.positionals.length];
  if (missing !== undefined) throw new InputError(`${missing} is missing; see grpo ${command} --help`);
  const extra = split.positionals[expected.length];
  if (extra !== undefined && !more) throw new InputError(`"${extra}": unexpected argument; see grpo ${command} --help`);
  return { flags: complete(settings, given) as Flags<S>["flags"], positionals: split.positionals };
}

/** The flags as `--help` shows them. */
export function describeFlags(settings: SettingTypes): string {
  return describeShape({ ...settings, ...debugSettings });
}
