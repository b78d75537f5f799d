/**
 * The answer that a text marks: `\boxed{…}`, with boxes joined by "and", "or" or a comma read as one answer, `#### …`, or
 * a final answer announced after the last box.
 */
import { announcedAnswer } from "./extract.ts";
import { joins, TAIL } from "./formulas.ts";
import { type Box, boxesOf, lastMark } from "./marks.ts";

/** How much of a long text's end is searched for marks, in characters: a million braces must not cost more than this. */
const MARKED_TAIL = 1 << 17;

/** `strict`: marked answers only. */
export type Extraction = "strict" | "lenient";

/**
 * The ways to read one answer, the most complete first: "\boxed{-2} and \boxed{1}" is "-2, 1", or else "1", to match a
 * gold answer cut to its last box. Empty: no answer.
 */
export type Readings = readonly string[];

/** The answer in the last `\boxed`. */
export const boxedAnswer = (text: string): Readings => {
  const s = text.slice(-MARKED_TAIL);
  return joinedBoxes(s, boxesOf(s));
};

/** Announced after a box, it is the answer and the box an intermediate result. */
const FINAL = /\bfinal answer(?: is|\s?:)/i;

/** The answer marked last, by `\boxed` or `####`, or announced as the final answer after a box. */
export function markedAnswer(text: string): Readings {
  const s = text.slice(-MARKED_TAIL);
  const { boxes, hashes } = lastMark(s);
  if (hashes !== null) return [hashes];
  const rest = boxes.length === 0 ? "" : s.slice(boxes.at(-1)!.end);
  const later = FINAL.test(rest.slice(-TAIL)) ? announcedAnswer(rest) : null;
  return later !== null && /[\d$\\]/.test(later) ? [later] : joinedBoxes(s, boxes);
}

/** The last box together with the earlier ones joined to it, and alone. */
function joinedBoxes(s: string, boxes: readonly Box[]): Readings {
  const last = boxes.at(-1);
  if (last === undefined) return [];
  let first = boxes.length - 1;
  while (first > 0 && boxes.length - first < 32 && joinsBoxes(s.slice(boxes[first - 1]!.end, boxes[first]!.start)))
    first--;
  const joined = boxes.slice(first);
  const contents = joined.map(({ content }) => content.trim());
  if (joined.length === 1) return contents;
  // x = [3], y = [5]: the names belong to the answer if they differ.
  const names = joined.map(({ start }) => NAME_BEFORE.exec(s.slice(Math.max(0, start - 16), start))?.[1]);
  const named = new Set(names).size === names.length && names.every((name) => name !== undefined);
  return [contents.map((content, i) => (named ? `${names[i]} = ${content}` : content)).join(", "), contents.at(-1)!];
}

const NAME_BEFORE = /(?<![a-zA-Z\\\d])([a-zA-Z](?:_\{?\w\}?)?)\s*=\s*$/;
/** Text between a result and its correction, or between two steps. */
const NEW_RESULT =
  /[.!?;:]\s|\n\s*\n|(?<![a-z])(?:wrong|not?|incorrect|instead|rather|but|so|thus|hence|therefore|then|actually|should|gives?|implies|yields?|becomes|simplif\w+|rewritten|reduces?|equals|equivalently|if|because|since|from|checking|correct\w*)(?![a-z])|=>|→|\\(?:implies|Rightarrow|to|rightarrow)(?![a-z])/i;

/** Whether the text between two boxes joins them into one answer: also "… for the first and …", "…, y = …". */
function joinsBoxes(between: string): boolean {
  if (between.length > 120) return false;
  const text = between.replace(NAME_BEFORE, " ");
  if (joins(text)) return true;
  if (text.includes("=") || NEW_RESULT.test(text)) return false;
  return /,|(?<![a-z])(?:and|or|as well as|along with|together with|while|plus)(?![a-z])/i.test(text);
}

/** Whether the text says "percent" after its last box, which is then part of the answer. */
export function percentAfterBox(text: string): boolean {
  const s = text.slice(-MARKED_TAIL);
  const box = boxesOf(s).at(-1);
  return (
    box !== undefined &&
    /\d\}?$/.test(box.content.trim()) &&
    /^\s?\$?\s?(?:\\?%|percent\b|per cent\b)/i.test(s.slice(box.end, box.end + 20))
  );
}
