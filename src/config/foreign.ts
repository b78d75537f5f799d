/**
 * Names that a command does not have: another trainer's, which is taken under our name, left out with a remark, or refused
 * with what to write instead; another command's; or a slip of the keyboard. What other trainers have is in `trainers/`.
 */

import type { Faults } from "./faults.ts";
import { ownKey, type Written } from "./given.ts";
import { isObject } from "./json-file.ts";
import { toCamel } from "./names.ts";
import { type CommandName, commandsWith, type SettingTypes, settingsOf } from "./schema.ts";
import { type Given, readValue, type Source, unknownName } from "./shape.ts";
import { drop, type Lookup, type Setting } from "./trainers/rule.ts";
import { type Found, foreignSetting } from "./trainers/trainers.ts";

export interface Translation {
  /** Taken under our names. */
  readonly taken: ReadonlyMap<string, Given>;
  readonly remarks: readonly string[];
  /** Settings of ours to write instead: nothing about them can be checked yet. */
  readonly corrected: ReadonlySet<string>;
  /** Whose names these are. */
  readonly trainers: ReadonlySet<string>;
}

/**
 * @param foreign what the command has no setting for
 * @param written everything that was written
 */
export function foreignWritten(
  command: CommandName,
  foreign: readonly Written[],
  written: readonly Written[],
  faults: Faults,
): Translation {
  const settings = settingsOf(command);
  const taken = new Map<string, Given>();
  const leftOut = new Map<string, string[]>();
  const corrections: Setting[] = [];
  const trainers = new Map<string, number>();
  let refusals = 0;
  const other = lookup(written);
  for (const each of foreign) {
    // A name that another command of ours has is that command's, whatever it means elsewhere.
    const found = commandsWith(ownKey(each.name)).length > 0 ? undefined : find(each, settings, other);
    const outcome = found && isReference(each.raw) ? referred : found?.outcome;
    if (found?.trainer) trainers.set(found.trainer, (trainers.get(found.trainer) ?? 0) + 1);
    if (outcome === undefined || (outcome.kind === "ours" && !Object.hasOwn(settings, outcome.key))) {
      faults.attempt(() => refuseUnknown(command, each, settings));
    } else if (outcome.kind === "ours") {
      const { key, value } = outcome;
      const read = faults.attempt(() => readValue(settings, key, value, each.source, each.label));
      if (read !== undefined) taken.set(key, read);
    } else if (outcome.kind === "dropped") {
      if (outcome.why !== null) leftOut.set(outcome.why, [...(leftOut.get(outcome.why) ?? []), each.label]);
    } else {
      refusals++;
      const ours = outcome.use.filter(([key]) => Object.hasOwn(settings, key));
      corrections.push(...ours);
      const use = ours.length > 0 ? `use ${spelled(ours, each.source)}` : "";
      const note = outcome.note === "" && use === "" ? "leave it out" : outcome.note;
      const cure = use !== "" && note !== "" ? `${use} (${note})` : use + note;
      faults.add(`${each.label}: not a setting here; ${cure}`);
    }
  }
  const clashing = clashes(corrections);
  for (const [key, values] of clashing)
    faults.add(`${key}: the names above ask for both ${values.map((value) => plain(value)).join(" and ")}; choose one`);
  const whole = corrections.filter(([key, value]) => value !== undefined && !clashing.has(key));
  if (refusals > 1 && whole.length > 1 && foreign.every(({ source }) => source === "flag")) {
    // Some names belong to both: the trainer with more of them counts.
    const count = (name: string) => trainers.get(name) ?? 0;
    const origin = (["verl", "OpenRLHF"] as const).toSorted((a, b) => count(b) - count(a)).find((name) => count(name));
    const preset: Setting[] = origin === undefined ? [] : [["preset", origin.toLowerCase()]];
    const defaults = origin === undefined ? "" : ` (the preset: ${origin}'s defaults, for settings left out)`;
    const all = new Map([...preset, ...whole].map((setting) => [setting[0], setting]));
    faults.add(`all of these, translated: ${spelled([...all.values()], "flag")}${defaults}`);
  }
  return {
    taken,
    remarks: [...leftOut].map(([why, labels]) => `${labels.join(", ")}: ignored; ${why}`),
    corrected: new Set(corrections.map(([key]) => key)),
    trainers: new Set(trainers.keys()),
  };
}

/** A reference to another setting, as verl's own files have many; that one is read too. */
const isReference = (raw: unknown): boolean => typeof raw === "string" && raw.includes("${");
const referred = drop("it refers to another setting");

/** Settings of ours that several names turn into, with different values. */
function clashes(corrections: readonly Setting[]): Map<string, unknown[]> {
  const values = new Map<string, unknown[]>();
  for (const [key, value] of corrections) {
    const before = values.get(key) ?? [];
    if (value !== undefined && !before.some((one) => JSON.stringify(one) === JSON.stringify(value)))
      values.set(key, [...before, value]);
  }
  return new Map([...values].filter(([, each]) => each.length > 1));
}

/** What was written under a name, or under a longer one that ends in it after a dot. */
function lookup(written: readonly Written[]): Lookup {
  return (name) => written.find((each) => each.name === name || each.name.endsWith(`.${name}`))?.raw;
}

function find({ name, raw }: Written, settings: SettingTypes, other: Lookup): Found | undefined {
  const ours = (word: string) => (Object.hasOwn(settings, ownKey(word)) ? ownKey(word) : undefined);
  const found = foreignSetting(name, raw, ours, other);
  if (found || !name.startsWith("no_") || raw !== true) return found;
  return foreignSetting(name.slice("no_".length), false, ours, other);
}

/** @throws InputError always: the name is another command's, or unknown */
function refuseUnknown(command: CommandName, { name, raw, source, label }: Written, settings: SettingTypes): never {
  throw unknownName(command, name, Object.keys(settings), raw, source, label, commandsWith(ownKey(name)));
}

/** Settings spelled as at the place of the refused one. */
function spelled(use: readonly Setting[], source: Source): string {
  return use.map((setting) => spelling[source](...setting)).join(source === "flag" ? " " : ", ");
}

const spelling: Readonly<Record<Source, (key: string, value?: unknown) => string>> = {
  flag: (key, value) => {
    if (value === undefined) return `--${key}`;
    const text = Array.isArray(value)
      ? value.join(",")
      : typeof value === "object"
        ? JSON.stringify(value)
        : plain(value);
    return `--${key} ${/^[\w.,:/@+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`}`;
  },
  toml: (key, value) => (value === undefined ? key : `${key} = ${inToml(value)}`),
  yaml: (key, value) =>
    value === undefined ? key : `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`,
  json: (key, value) => (value === undefined ? key : `"${key}": ${JSON.stringify(value)}`),
  api: (key, value) => (value === undefined ? toCamel(key) : `${toCamel(key)}: ${JSON.stringify(value)}`),
};

/** Small numbers as they are written: 3e-6, not 0.000003. */
const plain = (value: unknown): string =>
  typeof value === "number" && value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential() : String(value);

function inToml(value: unknown): string {
  if (!isObject(value)) return JSON.stringify(value);
  return `{ ${Object.entries(value)
    .map(([key, inner]) => `${key} = ${JSON.stringify(inner)}`)
    .join(", ")} }`;
}
