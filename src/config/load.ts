/**
 * From what a user gave to a checked configuration. Flags override the file, the file the preset, the preset the defaults.
 * Every refusal names the place, the key, the value and what is allowed; all of them are reported at once.
 */
import { InputError } from "../errors.ts";
import { type BenchmarkName, benchmarks } from "./benchmarks.ts";
import { checkTogether } from "./checks.ts";
import { Faults } from "./faults.ts";
import { foreignWritten, type Translation } from "./foreign.ts";
import { generationKwargs } from "./generation-kwargs.ts";
import { ownKey, type Written, writtenIn } from "./given.ts";
import { toCamel, toSnake } from "./names.ts";
import { generationKeys, type PresetName, presets, rewardKeys, trlRemark } from "./presets.ts";
import { remarksOn } from "./remarks.ts";
import { type CommandName, type ConfigInput, type ConfigOf, type SettingTypes, settingsOf } from "./schema.ts";
import { complete, type Given, readValue } from "./shape.ts";
import { aliases, isUnset } from "./trl.ts";

export interface Loaded<C extends CommandName> {
  readonly config: ConfigOf<C>;
  /** Remarks for stderr, one line each: settings that are legal but probably not intended. */
  readonly warnings: readonly string[];
  /** Keys (snake_case) that the user gave, in a flag, the file or the call; the rest is preset or default. */
  readonly given: ReadonlySet<string>;
  /** The configuration file, where one was named. */
  readonly file: string | undefined;
}

export interface LoadOptions<C extends CommandName> {
  /** Defaults of the caller's own, in camelCase: they stand between preset and schema. */
  readonly defaults?: ConfigInput<C>;
}

/** The same settings once more, over other defaults: what stands in may depend on what was given. */
export type Load<C extends CommandName> = (options?: LoadOptions<C>) => Loaded<C>;

/**
 * The configuration of a command from its arguments: `[CONFIG] [--key value …]`, a TOML, YAML or JSON file.
 * @throws InputError for anything unknown, out of range or contradictory, with a line for each
 */
export function configFor<C extends CommandName>(
  command: C,
  argv: readonly string[],
  options: LoadOptions<C> = {},
): Loaded<C> {
  const faults = new Faults();
  const { written, file } = writtenIn(argv, settingsOf(command), faults);
  return finish(command, written, file, options, faults);
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
  const faults = new Faults();
  const written: Written[] = [];
  for (const [key, raw] of Object.entries(values)) {
    if (raw === undefined) continue;
    if (key.includes("_")) faults.add(`${key}: is written ${toCamel(key)} in TypeScript`);
    else written.push({ name: toSnake(key), raw, source: "api", label: key });
  }
  return finish(command, written, undefined, options, faults);
}

/** @throws InputError where one source gives a setting two values: by its own name, and in `generation_kwargs` or by `gpus` */
function requireSame(before: Given | undefined, now: Given): void {
  if (before === undefined || before.source !== now.source || before.label === now.label) return;
  if (![before, now].some(({ label }) => /generation_?kwargs|gpus/i.test(label))) return;
  if (JSON.stringify(before.value) === JSON.stringify(now.value)) return;
  throw new InputError(
    `${before.label} ${JSON.stringify(before.value)} and ${now.label} ${JSON.stringify(now.value)}: leave one of them out`,
  );
}

/** What is written, with `generation_kwargs` replaced by what it contains, and `gpus` by what it is short for. */
function inParts(settings: SettingTypes, written: readonly Written[], faults: Faults): readonly Written[] {
  return written.flatMap((each) => {
    const { name, raw, source, label } = each;
    if (name === "gpus" && Object.hasOwn(settings, "ranks"))
      return [
        { ...each, name: "ranks" },
        { ...each, name: "device", raw: "cuda" },
      ];
    if (name !== "generation_kwargs" || !Object.hasOwn(settings, name) || isUnset(name, raw)) return [each];
    const parts = faults.attempt(() => generationKwargs(raw, label)) ?? [];
    return parts.map((part) => ({ name: part.key, raw: part.value, source, label: part.label }));
  });
}

function finish<C extends CommandName>(
  command: C,
  asWritten: readonly Written[],
  file: string | undefined,
  options: LoadOptions<C>,
  faults: Faults,
): Loaded<C> {
  const settings = settingsOf(command);
  const given = new Map<string, Given>();
  const foreign: Written[] = [];
  const refused = new Set<string>();
  const written = inParts(settings, asWritten, faults);
  for (const each of written) {
    const key = ownKey(each.name);
    if (!Object.hasOwn(settings, key)) foreign.push(each);
    else if (!isUnset(key, each.raw)) {
      const value = faults.attempt(() => {
        const entry = readValue(settings, key, each.raw, each.source, each.label);
        requireSame(given.get(key), entry);
        return entry;
      });
      if (value === undefined) refused.add(key);
      else given.set(key, value);
    }
  }
  const translated = foreignWritten(command, foreign, written, faults);
  for (const [key, value] of translated.taken) if (!given.has(key)) given.set(key, value);

  const own = Object.fromEntries(
    Object.entries(options.defaults ?? {}).map(([key, value]) => [toSnake(key), value as unknown]),
  );
  for (const key of translated.corrected) refused.add(key);
  const fallbacks = [presetValues(command, given), benchmarkValues(given), own];
  const config = complete(settings, given, fallbacks, { faults, refused });
  const keys = new Set(given.keys());
  checkTogether(command, config as ConfigOf<C>, (concerned, check) => {
    if (!concerned.some((key) => refused.has(key))) faults.attempt(check);
  });
  faults.order(written.map(({ label }) => label));
  faults.throwAny();
  const remarks = remarksOn(command, config as ConfigOf<C>, keys);
  return {
    config: config as ConfigOf<C>,
    warnings: [...translated.remarks, ...likeTrl(written, translated, config, keys), ...remarks],
    given: keys,
    file,
  };
}

/** TRL's names without its preset: settings left out have our defaults, not TRL's. */
function likeTrl(
  written: readonly Written[],
  translated: Translation,
  config: Readonly<Record<string, unknown>>,
  given: ReadonlySet<string>,
): string[] {
  const named = written.some(({ name }) => Object.hasOwn(aliases, name)) || translated.trainers.has("TRL");
  return named && config.preset === null ? trlRemark(config, given) : [];
}

/** What the preset sets, except how much to generate where rollouts are recorded, and weights for rewards not its own. */
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
