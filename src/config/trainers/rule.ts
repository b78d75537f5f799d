/**
 * What becomes of a setting that another trainer has and we do not, written as data: a table is a list of lines, each a
 * name and a rule. A rule sees the value and whatever else was given, and says one of three things: taken under our name,
 * left out because it has no meaning here, or refused with what to use instead.
 */

/** A setting of ours with the value that means the same; without a value, where only the name can be told. */
export type Setting = readonly [key: string, value?: unknown];

export type Outcome =
  | { readonly kind: "ours"; readonly key: string; readonly value: unknown }
  /** `why` is the remark; null: nothing is lost, so nothing is said. */
  | { readonly kind: "dropped"; readonly why: string | null }
  | { readonly kind: "refused"; readonly use: readonly Setting[]; readonly note: string };

/** Everything that was given, by the name it was written under or by the end of that name behind a dot. */
export type Lookup = (name: string) => unknown;

export type Rule = (value: unknown, other: Lookup) => Outcome;

/** The name, or its beginning and end around one `*`; an earlier line takes precedence. */
export type Line = readonly [name: string, rule: Rule];

export interface Trainer {
  readonly name: string;
  readonly lines: readonly Line[];
}

// Values, whether they come from a flag (text), from YAML or from TOML

export const isNone = (value: unknown): boolean =>
  value === null || value === undefined || /^(none|null|~)?$/i.test(String(value));

export const isFalse = (value: unknown): boolean => /^(false|no|off|0|f|n)$/i.test(String(value));

export const isTrue = (value: unknown): boolean => /^(true|yes|on|1|t|y)$/i.test(String(value));

/** None, false, 0, empty, or a list or map with nothing in it: the thing is not asked for. */
export const isOff = (value: unknown): boolean =>
  isNone(value) ||
  isFalse(value) ||
  (typeof value === "object" && value !== null && Object.keys(value).length === 0) ||
  (typeof value === "string" && (/^(\[\s*\]|\{\s*\})$/.test(value) || Number(value) === 0));

export function numberOf(value: unknown): number | undefined {
  if (typeof value === "number") return value;
  if (typeof value !== "string" || value.trim() === "") return undefined;
  const number = Number(value.replaceAll("_", ""));
  return Number.isNaN(number) ? undefined : number;
}

export const textOf = (value: unknown): string | undefined =>
  typeof value === "string" && value !== "" ? value : typeof value === "number" ? String(value) : undefined;

/** A list as TOML and YAML give it, as several words of a flag, or as Python and JSON write one. */
export function listOf(value: unknown): unknown[] {
  if (Array.isArray(value)) return value;
  if (typeof value !== "string") return value === undefined || value === null ? [] : [value];
  const inside = /^\s*[[(](.*)[\])]\s*$/s.exec(value)?.[1];
  return (inside ?? value)
    .split(",")
    .map((part) => part.trim().replace(/^(['"])(.*)\1$/, "$2"))
    .filter((part) => part !== "");
}

/** In few digits. */
export const short = (value: number): number => Number(value.toPrecision(4));

/** A share cut off after six digits, so that what is rounded up to whole steps is not one too many. */
export const share = (value: number): number => Math.floor(value * 1e6) / 1e6;

// Outcomes

export const silently: Outcome = { kind: "dropped", why: null };
export const drop = (why: string): Outcome => ({ kind: "dropped", why });
export const refuse = (note: string, ...use: readonly Setting[]): Outcome => ({ kind: "refused", use, note });
export const useInstead = (...use: readonly Setting[]): Outcome => refuse("", ...use);

// Rules

/** Has no meaning here, whatever its value: left out with a remark. */
export const dropped =
  (why: string): Rule =>
  () =>
    drop(why);

/** Has no meaning here, and deserves no remark when it is off. */
export const droppedUnlessOff =
  (why: string): Rule =>
  (value) =>
    isOff(value) ? silently : drop(why);

/** Off is what we do; anything else is something we do not have. */
export const onlyOff =
  (note: string, ...use: readonly Setting[]): Rule =>
  (value) =>
    isOff(value) ? silently : refuse(note, ...use);

/** These values are what we do; any other is refused. */
export const only =
  (values: RegExp, note: string, ...use: readonly Setting[]): Rule =>
  (value) =>
    isNone(value) || values.test(String(value)) ? silently : refuse(note, ...use);

/** Recomputing what does not fit is our default; recomputing nothing is a setting of ours. */
export const checkpointing: Rule = (value) =>
  isFalse(value)
    ? useInstead(["gradient_checkpointing", false])
    : drop("gradient_checkpointing auto recomputes the layers whose activations do not fit into memory");

/** Refused, whatever its value. */
export const refused =
  (note: string, ...use: readonly Setting[]): Rule =>
  () =>
    refuse(note, ...use);

/** Taken as a setting of ours; none stays ours. */
export const taken =
  (key: string, convert: (value: unknown) => unknown = (value) => value): Rule =>
  (value) =>
    isNone(value) ? silently : { kind: "ours", key, value: convert(value) };

/** Ours under another name: refused with our name and the same value (or what `convert` makes of it). None is left out. */
export const renamed =
  (key: string, convert: (value: unknown) => unknown = same, note = ""): Rule =>
  (value) =>
    isNone(value) && value !== undefined ? silently : refuse(note, [key, convert(value)]);

/** As it was given, except that a text containing a number or a truth value becomes that. */
export function same(value: unknown): unknown {
  if (typeof value !== "string") return value;
  const number = numberOf(value);
  if (number !== undefined) return number;
  if (/^true$/i.test(value)) return true;
  return /^false$/i.test(value) ? false : value;
}

/** LoRA, where a rank above 0 switches it on and the other defaults are not ours. */
export function loraRules(name: (part: "rank" | "alpha" | "target_modules") => string, alpha: number) {
  const isOn = (other: Lookup): boolean => (numberOf(other(name("rank"))) ?? 0) > 0;
  const rank: Rule = (value, other) => {
    const given = numberOf(value) ?? 0;
    if (given <= 0) return silently;
    const rest: readonly (Setting | null)[] = [
      other(name("alpha")) === undefined ? ["lora_alpha", alpha] : null,
      other(name("target_modules")) === undefined ? ["lora_target_modules", ["all-linear"]] : null,
    ];
    return useInstead(["use_peft", true], ["lora_r", given], ...rest.filter((setting) => setting !== null));
  };
  /** A detail of it, under our name. */
  const detail =
    (key: string, convert: (value: unknown) => unknown = same): Rule =>
    (value, other) =>
      isOn(other) && !isNone(value) ? useInstead([key, convert(value)]) : silently;
  return { rank, detail };
}

/** What is counted in generations elsewhere, in optimizer steps. */
function generationsInSteps(key: string, count: number, each: number): Outcome {
  if (each === 1) return useInstead([key, count]);
  return Number.isInteger(count * each)
    ? refuse(`it counts generations: ${count} × ${each} steps`, [key, count * each])
    : refuse("there it counts generations, here steps", [key]);
}

/** A count of generations, as optimizer steps; one that is not positive is `never`, or nothing. */
export const countedInSteps =
  (stepsPerGeneration: (other: Lookup) => number) =>
  (key: string, never?: unknown): Rule =>
  (value, other) => {
    const count = numberOf(value);
    if (count === undefined) return isNone(value) && value !== undefined ? silently : useInstead([key]);
    if (count <= 0) return never === undefined ? silently : useInstead([key, never]);
    return generationsInSteps(key, count, stepsPerGeneration(other));
  };
