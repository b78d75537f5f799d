/**
 * The end of a text, where answers are looked for, and the formulas in a text: where they are, and which of them are
 * joined to one answer.
 */
import { MAX_ANSWER_CHARS } from "./normalize.ts";

/** How much of a long text's end is searched for unmarked answers, in characters. */
export const TAIL = 8192;

const CHAT_MARKER = /(?:<\|\w{1,30}\|>\w{0,20}|<\/s>)$/;

const CLOSING_PHRASE = /\s(?:I|We) hope (?:it|this|that) (?:is correct|helps)[.!]?$/i;

/** The end of a text, without chat markers and a closing phrase that a model may add. */
export function endOf(text: string): string {
  let end = text.slice(-TAIL).trimEnd();
  for (let i = 0; i < 8; i++) {
    const marker = CHAT_MARKER.exec(end.slice(-80));
    if (marker === null) break;
    end = end.slice(0, end.length - marker[0].length).trimEnd();
  }
  const phrase = CLOSING_PHRASE.exec(end.slice(-80));
  return phrase === null ? end : end.slice(0, end.length - phrase[0].length).trimEnd();
}

export interface Span {
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
export function formulas(text: string): readonly Span[] {
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

const CONNECTED = /^[\s$\\()[\].,;&]*(?:(?:and|or)\b[\s$\\([]*|[,;][\s$\\([]*)$/i;

/** Whether the text between two formulas joins them into one answer: ", ", " and ", " or ". */
export function joins(between: string): boolean {
  if (between.length > 80 || between.includes("=")) return false;
  const plain = between.replace(/\\(?:text|mbox|textbf)\s*\{([^{}]*)\}/g, "$1").replace(/\\q?quad/g, " ");
  return CONNECTED.test(plain) || /^[^.=]*\b(?:and|or)\s*$/i.test(plain.replace(/[$\\()[\]\s]+$/, " "));
}
