/**
 * The kinds of settings that the tables of this folder are made of. Each takes bounds or choices, the default and, for
 * `--help`, the word that stands for the value; the help text follows as a template, whose line breaks are spaces. A setting
 * whose default is null allows null. What comes out is a zod type.
 */
import { z } from "zod";

declare module "zod" {
  interface GlobalMeta {
    /** Stands for the value in `--help`, e.g. FOLDER; left out, it follows from the type. */
    placeholder?: string;
    /** What the setting allows, in words; left out, it follows from the type. */
    allowed?: string;
    /** A list of texts whose flag is one of them as it stands: commas and spaces are part of it. */
    verbatim?: boolean;
  }
}

/** Takes the help text: `whole(1, 512)`Longest completion, in tokens.`` */
type Described<T> = (text: TemplateStringsArray, ...values: readonly string[]) => T;

type WithDefault<T extends z.ZodType, D> = D extends null ? z.ZodDefault<z.ZodNullable<T>> : z.ZodDefault<T>;

interface Range {
  readonly min?: number;
  readonly max?: number;
  /** The value must be greater than this. */
  readonly above?: number;
  /** The value must be less than this. */
  readonly below?: number;
}

/** Any type as a setting. */
export function described<T extends z.ZodType>(type: T, meta: Omit<z.GlobalMeta, "description"> = {}): Described<T> {
  return (text, ...values) => {
    const description = String.raw({ raw: text }, ...values);
    return type.meta({ ...meta, description: description.replace(/\s+/g, " ").trim() });
  };
}

function setting<T extends z.ZodType, D extends z.output<T> | null>(
  type: T,
  fallback: D,
  placeholder?: string,
  meta: z.GlobalMeta = {},
): Described<WithDefault<T, D>> {
  const complete = z._default(fallback === null ? z.nullable(type) : type, fallback as never);
  const shown = placeholder === undefined ? meta : { ...meta, placeholder };
  // The compiler cannot tell that what depends on D is one of the two.
  return described(complete as z.ZodType, shown) as unknown as Described<WithDefault<T, D>>;
}

const notEmpty = z.string().min(1);

/** Text that is not empty. */
export const text = <D extends string | null>(fallback: D, placeholder?: string) =>
  setting(notEmpty, fallback, placeholder);

/** Text, empty as well. */
export const anyText = <D extends string | null>(fallback: D, placeholder?: string) =>
  setting(z.string(), fallback, placeholder);

/** Text without a default. */
export const requiredText = (placeholder: string) => described(notEmpty, { placeholder });

export const toggle = <D extends boolean | null>(fallback: D) => setting(z.boolean(), fallback);

/** A toggle that also takes the word `auto`, its default; null is the default too. */
export const toggleOrAuto = () =>
  setting(z.nullable(z.union([z.boolean(), z.literal("auto")])), "auto", "auto|true|false", {
    allowed: "auto, true or false",
  });

/** One of several names. */
export const choice = <const N extends readonly string[], D extends N[number] | null>(
  names: N,
  fallback: D,
  placeholder?: string,
) => setting(z.enum(names), fallback, placeholder);

/** A whole number, no smaller than `min`. */
export const whole = <D extends number | null>(min: number, fallback: D, max?: number) =>
  setting(max === undefined ? z.int().min(min) : z.int().min(min).max(max), fallback);

export function number<D extends number | null>({ min, max, above, below }: Range, fallback: D) {
  let type = z.number();
  if (min !== undefined) type = type.min(min);
  if (above !== undefined) type = type.gt(above);
  if (max !== undefined) type = type.max(max);
  if (below !== undefined) type = type.lt(below);
  return setting(type, fallback);
}

/** Several values, at least one. */
export const list = <T extends z.ZodType>(element: T, placeholder?: string) =>
  setting(z.array(element).min(1), null, placeholder);

/** Names with values of any kind, JSON as a flag. */
export const object = <D extends Record<string, unknown> | null>(fallback: D) =>
  setting(z.record(z.string(), z.unknown()), fallback);

/** How often something is done: every so many steps, or, as transformers has it, a share of all steps. */
export function often<D extends number | null>(least: 0 | 1, fallback: D) {
  const type = z
    .number()
    .min(0)
    .refine((every) => (every > 0 && every < 1) || (Number.isInteger(every) && every >= least));
  const allowed = `a whole number ≥ ${least}, or a share of all steps between 0 and 1`;
  return setting(type, fallback, "N|SHARE", { allowed });
}

/** The same setting with another default, for a command whose usual value differs. */
export function withDefault<T extends z.ZodType>(
  setting: z.ZodDefault<T>,
  value: z.util.NoUndefined<z.output<T>>,
): z.ZodDefault<T> {
  return z._default(setting.unwrap(), value).meta(setting.meta() ?? {});
}
