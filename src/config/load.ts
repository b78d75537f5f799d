/**
 * From what a user gave to a checked configuration. Flags go before the TOML file, the file before the preset, the
 * preset before the defaults. Every refusal names the place, the key, the value and what is allowed.
 */
import { InputError } from "../errors.ts";
import { kindOf } from "./allowed.ts";
import { splitArguments } from "./arguments.ts";
import { type BenchmarkName, benchmarks } from "./benchmarks.ts";
import { checkTogether } from "./checks.ts";
import { generationKwargs } from "./generation-kwargs.ts";
import { toCamel, toSnake } from "./names.ts";
import { generationKeys, type PresetName, presets, rewardKeys } from "./presets.ts";
import { type CommandName, type ConfigInput, type ConfigOf, commandsWith, settingsOf } from "./schema.ts";
import { complete, type Given, readValue, type Source, unknownName } from "./shape.ts";
import { readToml } from "./toml.ts";
import { aliases, cureFor } from "./trl.ts";

export interface Loaded<C extends CommandName> {
  readonly config: ConfigOf<C>;
  /** Remarks for stderr, one line each: settings that are legal and probably not meant. */
  readonly warnings: readonly string[];
  /** Keys (snake_case) that the user gave, in a flag, the file or the call; the rest is preset or default. */
  readonly given: ReadonlySet<string>;
  /** The TOML file, where one was named. */
  readonly file: string | undefined;
}

export interface LoadOptions<C extends CommandName> {
  /** Defaults of the caller's own, in camelCase: they stand between preset and schema. */
  readonly defaults?: ConfigInput<C>;
}

/**
 * The configuration of a command from its arguments: `[CONFIG.toml] [--key value …]`.
 * @throws InputError for anything unknown, out of range or contradictory
 */
export function configFor<C extends CommandName>(
  command: C,
  argv: readonly string[],
  options: LoadOptions<C> = {},
): Loaded<C> {
  const settings = settingsOf(command);
  const { positionals, flags } = splitArguments(argv, (name) => {
    const key = ownKey(name);
    return Object.hasOwn(settings, key) ? kindOf(settings[key]!) : undefined;
  });
  const file = configFile(positionals);
  const given = new Map<string, Given>();
  if (file !== undefined) {
    for (const [key, value] of readToml(file)) put(given, command, key, value, "file", `${file}: ${key}`);
  }
  for (const { key, label, value } of flags) put(given, command, key, value, "flag", label);
  return finish(command, given, file, options);
}

/**
 * The configuration of a command from the TypeScript API's camelCase object.
 * @throws InputError as `configFor` does
 */
export function configFrom<C extends CommandName>(
  command: C,
  values: ConfigInput<C>,
  options: LoadOptions<C> = {},
): Loaded<C> {
  const given = new Map<string, Given>();
  for (const [key, value] of Object.entries(values)) {
    if (value === undefined) continue;
    if (key.includes("_")) throw new InputError(`${key}: written ${toCamel(key)} in TypeScript`);
    put(given, command, toSnake(key), value, "api", key);
  }
  return finish(command, given, undefined, options);
}

function configFile(positionals: readonly string[]): string | undefined {
  const [file, extra] = positionals;
  if (file !== undefined && !file.endsWith(".toml")) {
    throw new InputError(`"${file}" is neither a setting (--key value) nor a .toml file; try --help`);
  }
  if (extra !== undefined) throw new InputError(`"${extra}": only one configuration file is read, and that is ${file}`);
  return file;
}

function ownKey(name: string): string {
  return Object.hasOwn(aliases, name) ? aliases[name]! : name;
}

function put(
  given: Map<string, Given>,
  command: CommandName,
  name: string,
  raw: unknown,
  source: Source,
  label: string,
): void {
  const settings = settingsOf(command);
  const key = ownKey(name);
  if (key === "generation_kwargs" && Object.hasOwn(settings, key)) {
    for (const part of generationKwargs(raw, label)) put(given, command, part.key, part.value, source, part.label);
    return;
  }
  if (Object.hasOwn(settings, key)) {
    const entry = readValue(settings, key, raw, source, label);
    requireSame(given.get(key), entry);
    given.set(key, entry);
    return;
  }
  const others = commandsWith(key);
  if (others.length > 0) throw new InputError(`${label}: not a setting of ${command}, but of ${others.join(", ")}`);
  const cure = cureFor(name);
  if (cure !== undefined) throw new InputError(`${label}: not a setting here; ${cure}`);
  throw unknownName(command, name, Object.keys(settings), raw, source, label);
}

/** @throws InputError where one source says a thing twice, in its own name and in `generation_kwargs`, and not the same */
function requireSame(before: Given | undefined, now: Given): void {
  if (before === undefined || before.source !== now.source || before.label === now.label) return;
  if (![before, now].some(({ label }) => /generation_?kwargs/i.test(label))) return;
  if (JSON.stringify(before.value) === JSON.stringify(now.value)) return;
  throw new InputError(
    `${before.label} ${JSON.stringify(before.value)} and ${now.label} ${JSON.stringify(now.value)}: leave one of them out`,
  );
}

function finish<C extends CommandName>(
  command: C,
  given: ReadonlyMap<string, Given>,
  file: string | undefined,
  options: LoadOptions<C>,
): Loaded<C> {
  const own = Object.fromEntries(
    Object.entries(options.defaults ?? {}).map(([key, value]) => [toSnake(key), value as unknown]),
  );
  const config = complete(settingsOf(command), given, [presetValues(command, given), benchmarkValues(given), own]);
  const keys = new Set(given.keys());
  const warnings = checkTogether(command, config, keys);
  return { config: config as ConfigOf<C>, warnings, given: keys, file };
}

/** What the preset sets, without how much to generate where rollouts are recorded, and how to weigh rewards not its own. */
function presetValues(command: CommandName, given: ReadonlyMap<string, Given>): Readonly<Record<string, unknown>> {
  const name = given.get("preset")?.value;
  if (typeof name !== "string" || !Object.hasOwn(presets, name)) return {};
  const values = Object.entries(presets[name as PresetName]).filter(
    ([key]) =>
      !(command === "update" && generationKeys.has(key)) && !(given.has("reward_funcs") && rewardKeys.has(key)),
  );
  return Object.fromEntries(values);
}

/** What the benchmark of `eval` sets. */
function benchmarkValues(given: ReadonlyMap<string, Given>): Readonly<Record<string, unknown>> {
  const name = given.get("benchmark")?.value;
  return typeof name === "string" && Object.hasOwn(benchmarks, name) ? benchmarks[name as BenchmarkName] : {};
}
