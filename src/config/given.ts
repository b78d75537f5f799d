/**
 * What was written in a file, in flags or in a call, before its meaning is known: names with raw values, each with the
 * place to name in a message. Several words of a list are joined; a name given twice is refused.
 */

import { type Kind, kindOf } from "./allowed.ts";
import { type Flag, isConfigName, splitArguments } from "./arguments.ts";
import { entryOf } from "./entry.ts";
import type { Faults } from "./faults.ts";
import { isObject } from "./json-file.ts";
import type { SettingTypes } from "./schema.ts";
import { readSettingsFile } from "./settings-file.ts";
import type { Source } from "./shape.ts";
import { isPath } from "./trainers/trainers.ts";
import { aliases } from "./trl.ts";

/** One thing written. */
export interface Written {
  /** In snake_case, perhaps another trainer's, perhaps with dots. */
  readonly name: string;
  readonly raw: unknown;
  readonly source: Source;
  /** The place in a message: `--beta`, `run.toml:3: beta`, `beta`. */
  readonly label: string;
}

/** Our name of a setting that has another one as well. */
export const ownKey = (name: string): string => entryOf(aliases, name) ?? name;

/** Flags of ours and of other trainers whose value is the name of a file that looks like a configuration. */
const namesFile = /^(config|config_file|accelerate_config|deepspeed|deepspeed_config|fsdp_config)$/;

/** What the arguments contain: the file's settings, except those that a flag sets too, then the flags. */
export function writtenIn(
  argv: readonly string[],
  settings: SettingTypes,
  faults: Faults,
): { readonly written: readonly Written[]; readonly file: string | undefined } {
  const kind = (name: string): Kind | undefined => {
    const key = ownKey(name);
    if (namesFile.test(name)) return "text";
    return Object.hasOwn(settings, key) ? kindOf(settings[key]!) : undefined;
  };
  const { positionals, flags } = splitArguments(argv, kind, { words: true, fault: (message) => faults.add(message) });
  const named = flags.filter(({ key }) => key === "config");
  const file = configFile([...positionals, ...named.map(({ value }) => value)], faults);
  const fromFlags = once(flags.filter(({ key }) => key !== "config").map(flagWritten), kind, faults);
  const overridden = new Set(fromFlags.map(({ name }) => ownKey(name)));
  // It holds several settings; a flag with some of them leaves the file's others.
  overridden.delete("generation_kwargs");
  const fromFile = file === undefined ? [] : once(faults.attempt(() => fileWritten(file, kind)) ?? [], kind, faults);
  return { written: [...fromFile.filter(({ name }) => !overridden.has(ownKey(name))), ...fromFlags], file };
}

function configFile(names: readonly unknown[], faults: Faults): string | undefined {
  const files = names.filter((name) => typeof name === "string" && isConfigName(name)) as string[];
  for (const name of names)
    if (typeof name !== "string" || !isConfigName(name))
      faults.add(
        `"${name}" is neither a setting (--key value) nor a configuration file (.toml, .yaml, .json); try --help`,
      );
  for (const extra of files.slice(1)) faults.add(`"${extra}": only one configuration file is read, here ${files[0]}`);
  return files[0];
}

const flagWritten = ({ key, label, value }: Flag): Written => ({ name: key, raw: value, source: "flag", label });

function fileWritten(file: string, kind: (name: string) => Kind | undefined): Written[] {
  const { syntax, settings } = readSettingsFile(file);
  return settings.flatMap(({ key, value, line, lineOf }) =>
    leaves(key, value, kind(key) === "object").map(([name, raw]) => {
      const at = lineOf?.(name) ?? line;
      const place = at === undefined ? file : `${file}:${at}`;
      return { name, raw, source: syntax, label: `${place}: ${name}` };
    }),
  );
}

/** verl's and OpenRLHF's settings lie in maps within maps and are known by their whole path. */
function leaves(name: string, value: unknown, whole: boolean): [string, unknown][] {
  if (whole || !isObject(value) || !isPath(name.split(".")[0]!)) return [[name, value]];
  return Object.entries(value).flatMap(([key, inner]) => leaves(`${name}.${key}`, inner, false));
}

/**
 * One of each name: a list continues where its name is repeated; any other setting of ours given twice is refused, and so is
 * another trainer's name with two values.
 */
function once(written: readonly Written[], kind: (name: string) => Kind | undefined, faults: Faults): Written[] {
  const kept = new Map<string, Written>();
  for (const each of written) {
    const key = ownKey(each.name);
    const before = kept.get(key);
    if (before === undefined) kept.set(key, each);
    else if (kind(key) === "list" && each.source === "flag")
      kept.set(key, { ...before, raw: [before.raw, each.raw].flat() });
    else if (kind(key) === undefined && JSON.stringify(before.raw) === JSON.stringify(each.raw)) continue;
    else if (before.label === each.label)
      faults.add(`${each.label}: given twice, ${JSON.stringify(before.raw)} and ${JSON.stringify(each.raw)}; keep one`);
    else faults.add(`${each.label}: the same setting as ${before.label}; keep one`);
  }
  return [...kept.values()];
}
