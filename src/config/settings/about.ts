/** What a setting carries besides its zod type: the help text, and the word that stands for its value there. */
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

/** The `.meta()` of a setting. */
export function about(description: string, placeholder?: string): { description: string; placeholder?: string } {
  return placeholder === undefined ? { description } : { description, placeholder };
}

/** The same setting with another default, for a command whose usual value differs. */
export function withDefault<T extends z.ZodType>(
  setting: z.ZodDefault<T>,
  value: z.util.NoUndefined<z.output<T>>,
): z.ZodDefault<T> {
  return z._default(setting.unwrap(), value).meta(setting.meta() ?? {});
}

/** How often something is done: every so many steps, or a share of all steps as transformers takes it. */
export function howOften(least: 0 | 1) {
  return z
    .number()
    .min(0)
    .refine((every) => (every > 0 && every < 1) || (Number.isInteger(every) && every >= least));
}

/** What such a setting allows, in words. */
export const oftenAllowed = (least: 0 | 1): { readonly allowed: string } => ({
  allowed: `a whole number ≥ ${least}, or a share of all steps between 0 and 1`,
});
