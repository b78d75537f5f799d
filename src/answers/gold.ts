/** What of an answer column is the gold answer: GSM8K's text after `####`, MATH's last `\boxed{…}`, or all of it. */
import { afterHashes, lastBoxed } from "./marks.ts";

/**
 * The gold answer of a whole worked answer, trimmed; null where nothing is left. Where both marks stand in the text, the
 * later one counts. Commas between digits go after `####` ("2,125" → "2125"), as GSM8K's own grader removes them.
 */
export function goldOf(text: string): string | null {
  const boxed = lastBoxed(text);
  const hashes = afterHashes(text);
  const boxAt = Math.max(text.lastIndexOf("\\boxed"), text.lastIndexOf("\\fbox"));
  if (hashes !== null && (boxed === null || text.lastIndexOf("####") > boxAt))
    return hashes.replace(/(?<=\d),(?=\d)/g, "") || null;
  return (boxed ?? text).trim() || null;
}

/**
 * An answer column's value as text: numbers and booleans are written out, a list of one is its element. Null where it has
 * no text form (an object, a longer list, bytes), and for NaN, which is how pandas writes that a number is missing.
 */
export function answerText(value: unknown): string | null {
  if (typeof value === "string") return value;
  if (Number.isNaN(value)) return null;
  if (typeof value === "number" || typeof value === "bigint" || typeof value === "boolean") return String(value);
  if (Array.isArray(value) && value.length === 1) return answerText(value[0]);
  return null;
}
