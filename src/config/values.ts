/** The text of a flag → the value of a setting, by the setting's kind. Checks of type and range come after. */

import { z } from "zod";
import { errorText, InputError } from "../errors.ts";
import { kindOf, unwrap } from "./allowed.ts";
import { isTooDeep } from "./json-file.ts";

const numberText = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/**
 * @param setting the zod type that the value is meant for
 * @param text what was typed
 * @returns the value, or the text itself where it is not of the setting's kind (the check then says what is allowed)
 * @throws InputError for broken JSON
 */
export function valueOfText(setting: z.ZodType, text: string, label: string): unknown {
  const { type, nullable } = unwrap(setting);
  const kind = kindOf(type);
  if (nullable && (text === "null" || text === "None")) return null;
  switch (kind) {
    case "boolean":
      if (/^(true|yes|on|1)$/i.test(text)) return true;
      return /^(false|no|off|0)$/i.test(text) ? false : text;
    case "number":
      return numberText.test(text) ? Number(text) : text;
    case "list":
      return setting.meta()?.verbatim && !text.startsWith("[") ? [text] : listOfText(type, text, label);
    case "object":
      return parseJson(text, label);
    case "switch-or-text":
      if (/^true$/i.test(text)) return true;
      if (/^false$/i.test(text)) return false;
      return takesNumber(type) && numberText.test(text) ? Number(text) : text;
    default:
      return text;
  }
}

const takesNumber = (type: z.ZodType): boolean =>
  type instanceof z.ZodUnion && type.options.some((option) => option instanceof z.ZodNumber);

function listOfText(type: z.ZodType, text: string, label: string): unknown {
  if (text.trimStart().startsWith("[")) return parseJson(text, label);
  const element = (type as z.ZodArray<z.ZodType>).element;
  // Words of a shell may keep their commas: "a, b".
  return text
    .replace(/,\s*$/, "")
    .split(",")
    .map((part) => valueOfText(element, part.trim(), label));
}

/** @throws InputError for broken JSON */
export function parseJson(text: string, label: string): unknown {
  const value = jsonOf(text, label);
  if (isTooDeep(value)) throw new InputError(`${label}: nested without end; write it in a few levels`);
  return value;
}

function jsonOf(text: string, label: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const python = fromPython(text);
    if (python !== undefined) return python;
    throw new InputError(
      `${label} ${text}: not JSON (${errorText(error)}); quote it, e.g. '{"enable_thinking":false}'`,
    );
  }
}

/** A list or a dict as Python prints it, which is what scripts for other trainers have. */
function fromPython(text: string): unknown {
  if (text.includes('"')) return undefined;
  const words: Readonly<Record<string, string>> = { True: "true", False: "false", None: "null" };
  const json = text.replace(/'([^']*)'|\b(True|False|None)\b/g, (_, quoted: string | undefined, word: string) =>
    quoted === undefined ? words[word]! : JSON.stringify(quoted),
  );
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}
