/** Where a text stops being TOML or YAML: the parsers do not say. */

/** Each line is a turn of the parser over all before it: beyond this many, seconds. */
const MOST = 2000;

/**
 * ":N", the line after the longest beginning of the text that is whole (for a value over several lines its first one); ""
 * for a text so long that nobody wrote it by hand.
 */
export function errorPlace(text: string, parse: (text: string) => unknown): string {
  const lines = text.split("\n");
  if (lines.length > MOST) return "";
  for (let count = lines.length - 1; count > 0; count--) {
    try {
      parse(lines.slice(0, count).join("\n"));
      return `:${count + 1}`;
    } catch {
      // Still broken: the fault lies further up.
    }
  }
  return ":1";
}
