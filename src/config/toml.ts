/** Reads TOML text into keys with values and lines. What the keys mean is checked by the caller. */
import { errorText, InputError } from "../errors.ts";
import { errorPlace } from "./error-line.ts";
import type { FileSetting } from "./file-setting.ts";

/** @throws InputError where the text is not TOML, with the line */
export function parseToml(text: string, path: string): FileSetting[] {
  let parsed: object;
  try {
    parsed = Bun.TOML.parse(text);
  } catch (error) {
    const what = errorText(error).replace(/^TOML Parse error: /, "");
    throw new InputError(`${path}${errorPlace(text, Bun.TOML.parse)}: ${what}`);
  }
  const lines = text.split("\n");
  const lineOf = (key: string): number | undefined => {
    const quoted = key.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const start = new RegExp(`^\\s*(["']?)${quoted}\\1\\s*[=.]|^\\s*\\[+\\s*(["']?)${quoted}\\2\\s*[\\].]`);
    const at = lines.findIndex((line) => start.test(line));
    return at < 0 ? undefined : at + 1;
  };
  return Object.entries(parsed).map(([key, value]) => ({ key, value, line: lineOf(key) }));
}
