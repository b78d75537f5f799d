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
