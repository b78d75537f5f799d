/**
 * `\text{…}` in an answer: connectives become commas, units beside a value are dropped (or kept as names if there are
 * several), numerals in words become numbers. Plain text in, plain text out, in the notation of normalize.ts.
 */
import { modifies } from "./phrases.ts";
import { canonicalUnit } from "./units.ts";

/** "6 or more" is not a list; "six or 7" is the list of 6 and 7. */
const AFTER_OR =
  /\bor\s+(?:so|more|less|fewer|greater|larger|smaller|higher|lower|above|below)\b|\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b/i;
export const MULTIPLES: Readonly<Record<string, string>> = {
  hundred: "100",
  thousand: "1000",
  million: "1000000",
  billion: "1000000000",
  trillion: "1000000000000",
};

/** Index of the brace that closes the one at `open`, or -1. */
export function closingBrace(text: string, open: number): number {
  let depth = 0;
  for (let i = open; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 92) i++;
    else if (c === 123) depth++;
    else if (c === 125 && --depth === 0) return i;
  }
  return -1;
}

/** Replaces each `\name{…}` of the given names by `replace(content, end)`; `end` is the index after it. */
export function replaceGroups(text: string, pattern: RegExp, replace: (content: string) => string): string {
  let out = "";
  let from = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index < from) continue;
    const open = match.index + match[0].length - 1;
    const close = closingBrace(text, open);
    if (close < 0) break;
    out += text.slice(from, match.index) + replace(text.slice(open + 1, close));
    from = close + 1;
  }
  return out + text.slice(from);
}

const TEXT_COMMAND = /\\(?:text|[mh]box)/;
const TEXT_GROUP = /\\(?:text|textbf|textit|textrm|textnormal|texttt|mbox|hbox|textsf)\s*\{/g;

/** Connectives become commas, units next to a value are dropped; a single letter stays, and so does a lone text. */
export function resolveText(answer: string): string {
  if (!TEXT_COMMAND.test(answer)) return answer;
  const several = hasSeveralUnits(answer);
  const text = several ? answer.replace(AND_GROUP, "+") : answer.replace(LETTER_UNIT, "\0");
  const around = replaceGroups(text, TEXT_GROUP, () => "").replace(/[\s.,;:()$\\{}!]+/g, "");
  const resolved = replaceGroups(text, TEXT_GROUP, (content) => {
    if (/^\W*and\W*$/i.test(content)) return " and ";
    if (around !== "" && AFTER_OR.test(content)) return `\\word{${content.trim()}}`;
    if (around !== "" && /(?<![a-z])(?:and|or)(?![a-z])/i.test(content) && modifies(content))
      return `\\word{${content.trim()}}`;
    if (/(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])/i.test(content)) return around === "" ? content : " , ";
    const word = content.trim();
    if (/^[ap]\.?\s?m\.?$/i.test(word)) return ` ${word} `;
    const multiple = MULTIPLES[word.toLowerCase()];
    if (around !== "" && multiple !== undefined) return `*${multiple} `;
    if (around === "" || /^[0-9A-F]*\d[0-9A-F]*$|^\(?[A-Za-z]\)?$|^[\d.,\s%$-]+$/.test(word)) return ` ${word} `;
    if (/percent|per cent|\bpct\b/i.test(word)) return "%";
    // Left unchanged, so that only the same text equals it.
    if (modifies(word)) return `\\word{${word}}`;
    if (several) return `*\\unit${(canonicalUnit(word) ?? word.replace(/s$/, "")).replace(/[^a-zA-Z]/g, "")} ⊞`;
    return "\u0000";
  });
  // A dropped unit takes its exponent with it: 45 \text{ units}^2.
  return resolved
    .replace(/\0\s*(?:\^\s*(?:\{\s*-?\d\s*\}|\d))?/g, " ")
    .replace(/⊞\s*(?=[\d\\])/g, "+")
    .replaceAll("⊞", " ");
}

/** `5\text{ m}`: one letter in a text command after a value, which is a unit and not a base. */
const LETTER_UNIT = /(?<=[\d)}]) ?(?:\\[ ,;:]|~)? ?\\(?:text|mbox|textrm)\s?\{ ?[mgshLVWJN] ?\}(?! ?_)/g;
const AND_GROUP = /,?\s?\\text\s?\{\s*,?\s?and\s*\}/g;

/** "3 apples + 2 pears", "5 feet 3 inches": different units stay in the value, as names. */
export function hasSeveralUnits(text: string): boolean {
  if (!TEXT_COMMAND.test(text)) return false;
  const units = new Set<string>();
  for (const match of text.matchAll(
    /[\d)}\]]\s*(?:\\[ ,;:]\s*)?\\(?:text|mbox|textrm)\s*\{\s*([a-zA-Z]{2,})\.?\s*\}/g,
  )) {
    const word = match[1]!;
    if (!/^(?:and|or|percent|pct|am|pm|to)$/i.test(word) && MULTIPLES[word.toLowerCase()] === undefined) {
      units.add(canonicalUnit(word) ?? word.toLowerCase().replace(/s$/, ""));
    }
  }
  return units.size > 1;
}
