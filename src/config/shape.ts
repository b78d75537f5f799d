/**
 * Given values against a set of settings: text is read by the setting's kind, types and ranges are checked, unknown names
 * are refused with the nearest known one. Knows no command; every message begins with where the value stood.
 */
import { InputError } from "../errors.ts";
import { allowed, kindOf, unwrap } from "./allowed.ts";
import { toCamel } from "./names.ts";
import { nearest } from "./nearest.ts";
import type { SettingTypes } from "./schema.ts";
import { ownValue } from "./trl.ts";
import { valueOfText } from "./values.ts";

/** Where a value was written; the name is spelled as that place spells names. */
export type Source = "flag" | "file" | "api";

export interface Given {
  readonly value: unknown;
  /** The place in a message: `--beta`, `run.toml: beta`, `beta`. */
  readonly label: string;
  readonly source: Source;
}

/** A raw value of a known setting, as it goes into the check. @throws InputError for broken JSON in a flag */
export function readValue(settings: SettingTypes, key: string, raw: unknown, source: Source, label: string): Given {
  const setting = settings[key]!;
  // TOML has no null and no shorter way to write a list of one: these two are read there as in a flag.
  const isText = source === "flag" || raw === "null" || kindOf(setting) === "list";
  const value = typeof raw === "string" && isText ? valueOfText(setting, raw, label) : raw;
  return { value: ownValue(key, value), label, source };
}

/**
 * Every setting with its given value, else with the first fallback that has one, else with its default.
 * @returns camelCase keys
 * @throws InputError for a value that is not allowed, or a required one that is missing
 */
export function complete(
  settings: SettingTypes,
  given: ReadonlyMap<string, Given>,
  fallbacks: readonly Readonly<Record<string, unknown>>[] = [],
): Record<string, unknown> {
  const config: Record<string, unknown> = {};
  for (const [key, setting] of Object.entries(settings)) {
    const entry = given.get(key);
    const { required, fallback } = unwrap(setting);
    const candidates = [entry?.value, ...fallbacks.map((values) => values[key]), fallback];
    const chosen = candidates.find((value) => value !== undefined);
    if (chosen === undefined && required) throw new InputError(`--${key} is missing: it has no default`);
    const parsed = setting.safeParse(chosen);
    if (!parsed.success) {
      throw new InputError(`${entry?.label ?? key} ${shown(chosen)}: allowed is ${allowed(setting)}`);
    }
    config[toCamel(key)] = parsed.data;
  }
  return config;
}

/** The refusal of a name that nobody knows. */
export function unknownName(
  command: string,
  key: string,
  known: readonly string[],
  value: unknown,
  source: Source,
  label: string,
): InputError {
  if (source === "file" && typeof value === "object" && value !== null && !Array.isArray(value)) {
    return new InputError(`${label}: a table; settings are flat keys, without sections`);
  }
  const guess = nearest(key, known);
  if (guess === undefined) return new InputError(`${label}: unknown setting; see grpo ${command} --help`);
  const spelled = { flag: `--${guess}`, file: guess, api: toCamel(guess) }[source];
  return new InputError(`${label}: unknown setting; did you mean ${spelled}?`);
}

function shown(value: unknown): string {
  const text = typeof value === "number" ? String(value) : (JSON.stringify(value) ?? String(value));
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}
