/** Reads a configuration file: TOML with settings as flat keys. What the keys mean is checked by the caller. */
import { readFileSync } from "node:fs";
import { errorText, InputError } from "../errors.ts";
import { requireFile } from "../files.ts";

/**
 * @returns the file's keys and values
 * @throws InputError where the file cannot be read or is not TOML (with the line), or has tables
 */
export function readToml(path: string): Map<string, unknown> {
  let text: string;
  requireFile(path);
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw new InputError(`${path}: ${missing ? "there is no such file" : `cannot be read (${errorText(error)})`}`);
  }
  let parsed: object;
  try {
    parsed = Bun.TOML.parse(text);
  } catch (error) {
    const what = errorText(error).replace(/^TOML Parse error: /, "");
    throw new InputError(`${path}:${errorLine(text)}: ${what}`);
  }
  return new Map(Object.entries(parsed));
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
