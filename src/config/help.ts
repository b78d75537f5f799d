/** The settings of a command as `--help` shows them. */
import type { z } from "zod";
import { placeholder, unwrap } from "./allowed.ts";
import { type CommandName, commandSections, type SettingTypes } from "./schema.ts";

const width = 110;
const column = 40;

/** Titled sections, a setting a line with its default in brackets; wrapped to 110 columns. */
export function describeSettings(command: CommandName): string {
  const sections = Object.entries(commandSections[command]).map(
    ([title, settings]) => `${title}:\n${describeShape(settings as SettingTypes)}`,
  );
  return sections.join("\n\n");
}

/** The lines of one set of settings, without a title. */
export function describeShape(settings: SettingTypes): string {
  return Object.entries(settings)
    .map(([key, setting]) => describeSetting(key, setting))
    .join("\n");
}

function describeSetting(key: string, setting: z.ZodType): string {
  const value = placeholder(setting);
  const switched = unwrap(setting).fallback === true ? "[no-]" : "";
  const head = `  --${switched}${key}${value === "" ? "" : ` ${value}`}`;
  const text = `${setting.description ?? ""} ${defaultText(setting)}`;
  const lines = wrap(text, width - column);
  const fits = head.length < column - 1;
  const rest = (fits ? lines.slice(1) : lines).map((line) => " ".repeat(column) + line);
  return [fits ? head.padEnd(column) + (lines[0] ?? "") : head, ...rest].join("\n");
}

function defaultText(setting: z.ZodType): string {
  const { required, fallback } = unwrap(setting);
  if (required) return "[required]";
  if (typeof fallback === "string") return `[${fallback}]`;
  if (typeof fallback === "number") return `[${fallback > 0 && fallback < 1e-3 ? fallback.toExponential() : fallback}]`;
  return `[${JSON.stringify(fallback)}]`;
}

function wrap(text: string, columns: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  lines.push(line);
  return lines;
}
