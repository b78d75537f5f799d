/** Reads TOML text into keys with values and lines. What the keys mean is checked by the caller. */
import { errorText, InputError } from "../errors.ts";
import type { FileSetting } from "./settings_file.ts";

/** @throws InputError where the text is not TOML, with the line */
export function parseToml(text: string, path: string): FileSetting[] {
  let parsed: object;
  try {
    parsed = Bun.TOML.parse(text);
  } catch (error) {
    const what = errorText(error).replace(/^TOML Parse error: /, "");
    throw new InputError(`${path}:${errorLine(text)}: ${what}`);
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

/**
 * The parser does not say where it stopped: the line after the longest beginning of the file that is whole. For a value
 * over several lines that is its first line.
 */
function errorLine(text: string): number {
  const lines = text.split("\n");
  for (let count = lines.length - 1; count > 0; count--) {
    try {
      Bun.TOML.parse(lines.slice(0, count).join("\n"));
      return count + 1;
    } catch {
      // Still broken: the fault lies further up.
    }
  }
  return 1;
}
