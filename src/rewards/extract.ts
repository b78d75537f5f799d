/**
 * Finds the answer in a text: what the text itself marks (`\boxed{…}`, `#### …`), then, leniently, what a reader would
 * take for it: "the answer is …", `A: …`, the last formula, bold text, the last number.
 *
 * Everything but the marks is looked for in the last `TAIL` characters only, with patterns linear in their length.
 * It does not judge the answer (gsm8k.ts, math.ts).
 */
import { afterHashes, lastBoxed } from "../answers.ts";
import { MAX_ANSWER_CHARS, normalizeMath } from "./normalize.ts";
import { parseExpression } from "./parse.ts";

/** How much of a long text's end is searched for unmarked answers, in characters. */
const TAIL = 8192;
/** How much of it is searched for marks: a million braces must not cost more than this. */
const MARKED_TAIL = 1 << 17;

const CONNECTED = /^[\s$\\()[\].,;&]*(?:(?:and|or)\b[\s$\\([]*|[,;][\s$\\([]*)$/i;

/** Whether the text between two formulas joins them into one answer: ", ", " and ", " or ". */
function joins(between: string): boolean {
  if (between.length > 80 || between.includes("=")) return false;
  const plain = between.replace(/\\(?:text|mbox|textbf)\s*\{([^{}]*)\}/g, "$1").replace(/\\q?quad/g, " ");
  return CONNECTED.test(plain) || /^[^.=]*\b(?:and|or)\s*$/i.test(plain.replace(/[$\\()[\]\s]+$/, " "));
}

/**
 * The ways to read one answer, the most complete first: "\boxed{-2} and \boxed{1}" is "-2, 1", or else "1", which is what
 * a gold answer cut to the last box says. Empty: there is none.
 */
export type Readings = readonly string[];

/** The answer in the last `\boxed`. */
export function boxedAnswer(text: string): Readings {
  const s = text.slice(-MARKED_TAIL);
  return joinedBoxes(s, lastBox(s, s.length));
}

/** The answer marked last, by `\boxed` or `####`. */
export function markedAnswer(text: string): Readings {
  const s = text.slice(-MARKED_TAIL);
  const box = lastBox(s, s.length);
  const hashes = s.lastIndexOf("####");
  return hashes >= 0 && hashes > (box?.start ?? -1) ? [afterHashes(s)?.trim() ?? ""] : joinedBoxes(s, box);
}

/** The last box with the boxes directly before it, and alone. */
function joinedBoxes(s: string, last: Box | null): Readings {
  if (last === null) return [];
  const answers = [last.content];
  for (let head = last.start; answers.length < 32; ) {
    const previous = lastBox(s, head);
    if (previous === null || !joins(s.slice(previous.end, head))) break;
    answers.unshift(previous.content);
    head = previous.start;
  }
  return answers.length === 1 ? answers : [answers.join(", "), last.content];
}

interface Box {
  readonly start: number;
  readonly end: number;
  readonly content: string;
}

/** The last complete box that begins before `before`; of a row of boxes left open only the last few are looked at. */
function lastBox(s: string, before: number): Box | null {
  let start = before;
  for (let tries = 0; tries < 8; tries++) {
    const head = s.slice(0, start);
    start = Math.max(head.lastIndexOf("\\boxed"), head.lastIndexOf("\\fbox"));
    if (start < 0) return null;
    const content = lastBoxed(s.slice(start, before));
    if (content === null) continue;
    const end = s.indexOf(content, start) + content.length;
    return { start, end: s[end] === "}" ? end + 1 : end, content: content.trim() };
  }
  return null;
}

const CHAT_MARKER = /(?:<\|\w{1,30}\|>\w{0,20}|<\/s>)$/;

/** The end of a text, without the chat markers that a model may leave there. */
function endOf(text: string): string {
  let end = text.slice(-TAIL).trimEnd();
  for (let i = 0; i < 8; i++) {
    const marker = CHAT_MARKER.exec(end.slice(-80));
    if (marker === null) break;
    end = end.slice(0, end.length - marker[0].length).trimEnd();
  }
  return end;
}

const CUE =
  /\b(?:answers?|solutions?|results?)\b(?:\s+(?:to|of|for)\b[^.\n:=]{0,80}?)?[*_\s]*(?:\bis\b|\bare\b|\bequals\b|[:：=])[*_:\s]*/gi;
const LETTER_CUE = /^[ \t*_]*A(?:nswer)?[*_]*\s*[:：][*_ \t]*/gm;

/** What follows the last "answer is", "answer:" or `A:`, to the end of its sentence; null where nothing does. */
export function announcedAnswer(text: string): string | null {
  const tail = endOf(text);
  let start = -1;
  for (const pattern of [CUE, LETTER_CUE]) {
    for (const match of tail.matchAll(pattern)) start = Math.max(start, match.index + match[0].length);
  }
  if (start < 0) return null;
  const rest = tail.slice(start, start + 1000);
  const whole = (/^(?:[^\n.]|\.(?!\s|$|["'*<]))*/.exec(rest)?.[0] ?? "").replaceAll("**", "").trim();
  const sentence = /^.*\b(?:is|are|equals)\s+(\S.*)$/.exec(whole)?.[1] ?? whole;
  if (sentence === "") return null;
  const spans = formulas(sentence);
  if (spans.length === 0) return sentence;
  let last = 0;
  while (last + 1 < spans.length && joins(sentence.slice(spans[last]!.end, spans[last + 1]!.start))) last++;
  const taken = spans.slice(0, last + 1).map((span) => span.content);
  if (taken.length > 1) return taken.join(", ");
  return spans[0]!.content + percentAfter(sentence, spans[0]!.end);
}

/** `$28$ percent`: the sign or word after a formula belongs to it. */
const percentAfter = (sentence: string, end: number): string =>
  /^\s*(?:\\?%|percent\b)/i.test(sentence.slice(end, end + 20)) ? "\\%" : "";

interface Span {
  readonly start: number;
  readonly end: number;
  readonly content: string;
}

const DELIMITERS = [
  ["$$", "$$"],
  ["\\[", "\\]"],
  ["\\(", "\\)"],
  ["$", "$"],
] as const;

/** The formulas of a text in `$…$`, `$$…$$`, `\(…\)` or `\[…\]`, in order. A `$` before prose is money, not a formula. */
function formulas(text: string): readonly Span[] {
  const spans: Span[] = [];
  let at = 0;
  while (at < text.length) {
    const c = text[at];
    const pair = c === "$" || c === "\\" ? DELIMITERS.find(([open]) => text.startsWith(open, at)) : undefined;
    if (pair === undefined) {
      at += c === "\\" ? 2 : 1;
      continue;
    }
    const from = at + pair[0].length;
    const window = text.slice(from, from + MAX_ANSWER_CHARS);
    const length = window.indexOf(pair[1]);
    const content = window.slice(0, length);
    const prose = pair[0] === "$" && /(?<![\\a-zA-Z{])[a-zA-Z]{2,}[,.]?\s+[a-zA-Z]{2,}/.test(content);
    if (length < 0 || content.trim() === "" || prose) {
      at = from;
      continue;
    }
    const end = from + length + pair[1].length;
    spans.push({ start: at, end, content: content.trim() });
    at = end;
  }
  return spans;
}

/** The last formula of the text, with those directly joined to it. */
export function lastFormula(text: string): string | null {
  const tail = endOf(text);
  const spans = formulas(tail);
  if (spans.length === 0) return null;
  let first = spans.length - 1;
  while (first > 0 && joins(tail.slice(spans[first - 1]!.end, spans[first]!.start))) first--;
  return spans
    .slice(first)
    .map((span) => span.content)
    .join(", ");
}

/** The last `**bold**` text on one line. */
export function boldAnswer(text: string): string | null {
  let found: string | null = null;
  for (const match of endOf(text).matchAll(/\*\*([^*\n]{1,200})\*\*/g)) found = match[1]!.trim();
  return found;
}

const NUMBER =
  /(?<![\d.,\w)\]])[-+]?\s?\$?\s?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?\/\s?\d+)?|(?:\d[\d,]*(?:\.\d+)?)(?:\s?\/\s?\d+)?/g;

/** The last number written in the text (commas, a `$`, a simple fraction), without what surrounds it. */
export function lastNumber(text: string): string | null {
  let found: string | null = null;
  for (const match of endOf(text).replaceAll("−", "-").matchAll(NUMBER)) found = match[0];
  return found === null ? null : found.replace(/[\s$]/g, "").replace(/,+$/, "");
}

/** The first number of a text; in an equation, of its last side. */
export function firstNumber(text: string): string | null {
  const side = text.slice(text.lastIndexOf("=") + 1).replaceAll("−", "-");
  const found = side.matchAll(NUMBER).next().value?.[0];
  return found === undefined ? null : found.replace(/[\s$]/g, "").replace(/,+$/, "");
}

/** The short right-hand side or complement that ends a text without formulas: "… so x = 2/3.", "… which is 2^5." */
function closingExpression(text: string): string | null {
  const line = endOf(text).slice(-400).trimEnd().split("\n").at(-1)!;
  const rest = /^.*(?:=|\bis\b|\bare\b)\s*([^=]{1,80}?)\.?$/.exec(line)?.[1];
  if (rest === undefined || /[a-zA-Z]{2,}\s+[a-zA-Z]{2,}/.test(rest)) return null;
  return parseExpression(normalizeMath(rest), "thousands") === null ? null : rest;
}

/** The unmarked answer of a mathematical text; null where it has none. */
export function unmarkedAnswer(text: string): string | null {
  return announcedAnswer(text) ?? lastFormula(text) ?? boldAnswer(text) ?? closingExpression(text) ?? lastNumber(text);
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

/** An answer out of a gold text or a given prediction: its mark's content, or the text itself unless it is a sentence. */
export function reduceAnswer(text: string): Readings {
  const marked = markedAnswer(text);
  if (marked.length > 0) return marked;
  if (isProse(text)) {
    const found = unmarkedAnswer(text)?.trim();
    return found === undefined ? [text.trim()] : [found, text.trim()];
  }
  const announced = /^\s*(?:final\s+)?answer\b[\s:：]*(.*)$/is.exec(text)?.[1];
  return [(announced ?? text).trim()];
}
