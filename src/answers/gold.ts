/**
 * The gold answer in a text, which may be a whole worked answer: as one text for a dataset's row (`goldOf`), and as the
 * readings that the verifiers compare (`goldReadings`). Both start from the mark that marks.ts finds.
 */
import { CUE, unmarkedAnswer } from "./extract.ts";
import { formulas } from "./formulas.ts";
import { markedAnswer, percentAfterBox, type Readings } from "./marked.ts";
import { lastMark } from "./marks.ts";

/**
 * The part of an answer column that is the gold answer, trimmed: GSM8K's text after `####`, MATH's last `\boxed{…}`, or
 * all of it; null if nothing is left. Commas between digits are dropped after `####` ("2,125" → "2125"), as GSM8K's own
 * grader does.
 */
export function goldOf(text: string): string | null {
  const { boxes, hashes } = lastMark(text);
  return (hashes?.replace(/(?<=\d),(?=\d)/g, "") ?? boxes.at(-1)?.content ?? text).trim() || null;
}

/**
 * An answer column's value as text: numbers and booleans are written out, a list of one is its element. Null if it has
 * no text form (an object, a longer list, bytes), and for NaN, which pandas writes for a missing number.
 */
export function answerText(value: unknown): string | null {
  if (typeof value === "string") return value;
  if (Number.isNaN(value)) return null;
  if (typeof value === "number" || typeof value === "bigint" || typeof value === "boolean") return String(value);
  if (Array.isArray(value) && value.length === 1) return answerText(value[0]);
  return null;
}

/** Whether a text that should be an answer is a sentence about one. */
function isProse(text: string): boolean {
  if (text.length > 400 || text.trim().includes("\n\n")) return true;
  if (text.search(CUE) >= 0) return true;
  let plain = text;
  for (const span of formulas(text).toReversed()) plain = plain.slice(0, span.start) + plain.slice(span.end);
  plain = plain.replace(/\\[a-zA-Z]+\s*(?:\{[^{}]*\})?/g, " ");
  const words = plain.match(/(?<![a-zA-Z])[a-zA-Z]?[a-z]+(?![a-zA-Z])/g)?.filter((word) => word.length > 1) ?? [];
  return (
    words.filter((word) => !/^(?:and|or|sqrt|sin|cos|tan|log|ln|pi|square|per|percent|units?)$/.test(word)).length > 1
  );
}

/** "at most 17": a bound, not the number in it. */
const BOUNDED =
  /^(?:at (?:most|least)|(?:more|less|fewer|greater|larger|smaller) than|up to|over|under)\s[^\n]{1,60}$/i;

/** "9 (because 8 is too small)" */
const BEHIND_VALUE = /^([^()\n]{1,60})\([^()\n]{1,160}\)\.?$/;

/** The readings of a gold text. Of several joined boxes, no single one is the answer. */
export function goldReadings(text: string): Readings {
  const marked = markedReadings(text);
  return marked.length > 0 ? marked.slice(0, 1) : unmarkedReadings(text);
}

/** The readings of an answer that was given by itself, without the text that it ends. */
export function givenReadings(text: string): Readings {
  const marked = markedReadings(text);
  return marked.length > 0 ? marked : unmarkedReadings(text);
}

function markedReadings(text: string): Readings {
  const marked = markedAnswer(text);
  return marked.length > 0 && percentAfterBox(text) ? [`${marked[0]}\\%`] : marked;
}

/** The text itself, unless it is a sentence about an answer. */
function unmarkedReadings(text: string): Readings {
  const short = text.length <= 300 ? text.trim() : "";
  const remark = BEHIND_VALUE.exec(short);
  if (BOUNDED.test(short) || (remark !== null && !isProse(remark[1]!))) return [text.trim()];
  if (isProse(text)) {
    const found = unmarkedAnswer(text)?.trim();
    return found === undefined ? [text.trim()] : [found, text.trim()];
  }
  const announced = /^\s*(?:final\s+)?answer\b[\s:：]*(.*)$/is.exec(text)?.[1];
  return [(announced ?? text).trim()];
}
