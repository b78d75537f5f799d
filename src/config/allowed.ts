/** Reads a setting's zod type: what it allows in words, how its text is read, and its default. */
import { z } from "zod";

/** How the text of a flag becomes a value. */
export type Kind = "boolean" | "number" | "text" | "list" | "object" | "switch-or-text";

interface Unwrapped {
  readonly type: z.ZodType;
  readonly nullable: boolean;
  readonly required: boolean;
  readonly fallback: unknown;
}

/** Takes `.default()` and `.nullable()` off a type. */
export function unwrap(setting: z.ZodType): Unwrapped {
  let type = setting;
  let nullable = false;
  let required = true;
  let fallback: unknown;
  for (;;) {
    if (type instanceof z.ZodDefault) {
      required = false;
      fallback = type.def.defaultValue;
      type = type.unwrap() as z.ZodType;
    } else if (type instanceof z.ZodNullable) {
      nullable = true;
      type = type.unwrap() as z.ZodType;
    } else {
      return { type, nullable, required, fallback };
    }
  }
}

/** How the text of a flag is read for this (unwrapped or not) type. */
export function kindOf(setting: z.ZodType): Kind {
  const { type } = unwrap(setting);
  if (type instanceof z.ZodBoolean) return "boolean";
  if (type instanceof z.ZodNumber) return "number";
  if (type instanceof z.ZodArray) return "list";
  if (type instanceof z.ZodRecord) return "object";
  if (type instanceof z.ZodUnion) return "switch-or-text";
  return "text";
}

interface Bound {
  readonly check?: string;
  readonly value?: unknown;
  readonly inclusive?: boolean;
}

function bounds(type: z.ZodNumber): string {
  const parts: string[] = [];
  for (const check of type.def.checks ?? []) {
    const bound = check._zod.def as Bound;
    if (bound.check === "greater_than") parts.push(`${bound.inclusive ? "≥" : ">"} ${bound.value}`);
    if (bound.check === "less_than") parts.push(`${bound.inclusive ? "≤" : "<"} ${bound.value}`);
  }
  return parts.length > 0 ? ` ${parts.join(" and ")}` : "";
}

function isWhole(type: z.ZodNumber): boolean {
  return type.format === "safeint";
}

/** What a setting allows, in words: "a whole number ≥ 1", "one of cpu, cuda", … */
export function allowed(setting: z.ZodType): string {
  const { type, nullable } = unwrap(setting);
  return (setting.meta()?.allowed ?? describe(type)) + (nullable ? ", or null" : "");
}

function describe(type: z.ZodType): string {
  if (type instanceof z.ZodBoolean) return "true or false";
  if (type instanceof z.ZodNumber) return (isWhole(type) ? "a whole number" : "a number") + bounds(type);
  if (type instanceof z.ZodEnum) return `one of ${type.options.join(", ")}`;
  if (type instanceof z.ZodArray) return `a list (a,b,…), each ${describe(type.element as z.ZodType)}`;
  if (type instanceof z.ZodRecord) return "an object (JSON as a flag)";
  if (type instanceof z.ZodLiteral) return String(type.value);
  if (type instanceof z.ZodUnion) return type.options.map((option) => describe(option as z.ZodType)).join(" or ");
  return type.safeParse("").success ? "text" : "non-empty text";
}

/** The word that stands for a value in `--help`; empty for a switch. */
export function placeholder(setting: z.ZodType): string {
  const given = setting.meta()?.placeholder;
  if (given !== undefined) return given;
  const { type } = unwrap(setting);
  if (type instanceof z.ZodBoolean) return "";
  if (type instanceof z.ZodNumber) return isWhole(type) ? "N" : "X";
  if (type instanceof z.ZodEnum) return type.options.join("|");
  if (type instanceof z.ZodArray) return "A,B,...";
  if (type instanceof z.ZodRecord) return "JSON";
  return "TEXT";
}
