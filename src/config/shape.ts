/**
 * Given values against a set of settings: text is read by the setting's kind, types and ranges are checked, unknown names
 * are refused with the nearest known one. Knows no command; every message begins with where the value stood.
 */

import type { z } from "zod";
import { InputError } from "../errors.ts";
import { allowed, kindOf, unwrap } from "./allowed.ts";
import { Faults } from "./faults.ts";
import { isObject } from "./json-file.ts";
import { toCamel } from "./names.ts";
import { nearest } from "./nearest.ts";
import type { SettingTypes } from "./schema.ts";
import { ownValue, valueCure } from "./trl.ts";
import { valueOfText } from "./values.ts";

/** Where a value was written; the name is spelled as that place spells names. */
export type Source = "flag" | "toml" | "yaml" | "json" | "api";

export interface Given {
  readonly value: unknown;
  /** The place in a message: `--beta`, `run.toml: beta`, `beta`. */
  readonly label: string;
  readonly source: Source;
}

/** A raw value of a known setting, as it goes into the check. @throws InputError for broken JSON in a flag */
export function readValue(settings: SettingTypes, key: string, raw: unknown, source: Source, label: string): Given {
  const setting = settings[key]!;
  const isList = kindOf(setting) === "list";
  // TOML has no null and no shorter way to write a list of one: these two are read there as in a flag. In YAML 1.1 and in
  // Python's JSON more than in ours is a number or a truth value, so a text is read there as in a flag.
  const isText = (source !== "toml" && source !== "api") || raw === "null" || isList;
  if (Array.isArray(raw) && isList && isText) {
    const parts = raw.flatMap((part) => listPart(setting, part, source, label));
    return { value: ownValue(key, parts), label, source };
  }
  const plain =
    source === "yaml" && typeof raw === "string" && kindOf(setting) === "number"
      ? raw.replace(/(?<=\d)_(?=\d)/g, "")
      : raw;
  const value = typeof plain === "string" && isText ? valueOfText(setting, plain, label) : plain;
  return { value: ownValue(key, value), label, source };
}

/** One word of a list: of a flag it may be several, by comma. */
function listPart(setting: z.ZodType, part: unknown, source: Source, label: string): unknown {
  if (typeof part !== "string" || source === "toml") return part;
  if (source === "flag") return valueOfText(setting, part, label);
  return valueOfText((unwrap(setting).type as z.ZodArray<z.ZodType>).element, part, label);
}

export interface Collected {
  /** Takes what is refused. */
  readonly faults: Faults;
  /** Takes the keys of the values that are refused. */
  readonly refused: Set<string>;
}

/**
 * Every setting with its given value, else with the first fallback that has one, else with its default.
 * @param collected where refusals go; left out, they are thrown
 * @returns camelCase keys; a refused value has its default's place
 * @throws InputError for values that are not allowed, or required ones that are missing
 */
export function complete(
  settings: SettingTypes,
  given: ReadonlyMap<string, Given>,
  fallbacks: readonly Readonly<Record<string, unknown>>[] = [],
  collected?: Collected,
): Record<string, unknown> {
  const { faults, refused } = collected ?? { faults: new Faults(), refused: new Set<string>() };
  const config: Record<string, unknown> = {};
  for (const [key, setting] of Object.entries(settings)) {
    const entry = given.get(key);
    const { required, fallback } = unwrap(setting);
    const candidates = [entry?.value, ...fallbacks.map((values) => values[key]), fallback];
    const chosen = candidates.find((value) => value !== undefined);
    const parsed = setting.safeParse(chosen);
    if (chosen === undefined && required && !refused.has(key)) faults.add(`--${key} is required`);
    else if (!parsed.success && !refused.has(key)) {
      const cure = valueCure(key, chosen);
      faults.add(
        `${entry?.label ?? key} ${shown(chosen)}: must be ${allowed(setting)}${cure === undefined ? "" : `; ${cure}`}`,
      );
    }
    if (!parsed.success) refused.add(key);
    config[toCamel(key)] = parsed.success ? parsed.data : fallback;
  }
  if (!collected) faults.throwAny();
  return config;
}

/** The refusal of a name that nobody knows. @param others the commands that know it */
export function unknownName(
  command: string,
  key: string,
  known: readonly string[],
  value: unknown,
  source: Source,
  label: string,
  others: readonly string[] = [],
): InputError {
  if (others.length > 0) return new InputError(`${label}: a setting of ${others.join(", ")}, not of ${command}`);
  if (source !== "flag" && isObject(value)) {
    const inner = Object.keys(value).filter((name) => known.includes(name));
    const cure = inner.length > 0 ? `: move ${inner.join(", ")} to the top level` : "";
    return new InputError(`${label}: is a table; settings are flat keys without sections${cure}`);
  }
  const guess = nearest(key, known);
  if (guess === undefined) return new InputError(`${label}: unknown setting; see grpo ${command} --help`);
  const spelled = source === "flag" ? `--${guess}` : source === "api" ? toCamel(guess) : guess;
  return new InputError(`${label}: unknown setting; did you mean ${spelled}?`);
}

function shown(value: unknown): string {
  const text = typeof value === "number" ? String(value) : (JSON.stringify(value) ?? String(value));
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}
