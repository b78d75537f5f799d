/**
 * The answer that a reader would take from a text without marks: "the answer is …", `A: …`, the last formula, bold text,
 * the last number. Looks only at the last `TAIL` characters, with patterns linear in their length. Leaves out marked
 * answers (marked.ts) and whether an answer is right (compare.ts).
 */
import { endOf, formulas, joins } from "./formulas.ts";
import { normalizeMath } from "./normalize.ts";
import { parseExpression } from "./parse.ts";
import { lastNumber } from "./written-numbers.ts";

export const CUE =
  /\b(?:answers?|solutions?|results?)\b(?:\s+(?:to|of|for)\b[^.\n:=]{0,80}?)?[*_\s]*(?:\bis\b|\bare\b|\bequals\b|[:：=])[*_:\s]*/gi;
const LETTER_CUE = /^[ \t*_]*A(?:nswer)?[*_]*\s*[:：][*_ \t]*/gm;

/** What follows the last "answer is", "answer:" or `A:`, to the end of its sentence; null if nothing does. */
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
  const corrected = /^not\b.{1,80}?\bbut\s+(\S.*)$/.exec(sentence)?.[1];
  if (corrected !== undefined) return corrected;
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

/** The last formula of the text, with those directly joined to it. */
function lastFormula(text: string): string | null {
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

/** The short right-hand side or complement that ends a text without formulas: "… so x = 2/3.", "… which is 2^5." */
function closingExpression(text: string): string | null {
  const line = endOf(text).slice(-400).trimEnd().split("\n").at(-1)!;
  const rest = /^.*(?:=|\bis\b|\bare\b)\s*([^=]{1,80}?)\.?$/.exec(line)?.[1];
  if (rest === undefined || /[a-zA-Z]{2,}\s+[a-zA-Z]{2,}/.test(rest)) return null;
  return parseExpression(normalizeMath(rest), "thousands") === null ? null : rest;
}

/** A point or interval that ends a text: "… the point (2, 3)." */
function closingTuple(text: string): string | null {
  const found = /[([]\s?[-+\d][^()[\]{}\n=]{0,60},[^()[\]{}\n=]{1,60}[)\]](?=[\s.!*]*$)/.exec(
    endOf(text).slice(-200),
  )?.[0];
  return found === undefined || parseExpression(normalizeMath(found), "thousands") === null ? null : found;
}

/** The text after the sentence with the last formula: "… with $k = 2$. So there are 6 ways." */
function sentenceBehindFormulas(text: string): string | null {
  const tail = endOf(text);
  const end = formulas(tail).at(-1)?.end;
  if (end === undefined) return null;
  const rest = tail.slice(end);
  // "Since $n = 4$, there are 6 ways."
  const clause =
    /^[^,.!?\n]{0,40},\s(?:so|then|we|there|the|it|he|she|they|this|an?)\s[^\n.]{0,100}?(?:is|are|equals|be|to|gives|get|have|has|costs?|makes?|takes?)\s+([^\s.][^\n]{0,60})$/.exec(
      rest,
    )?.[1];
  if (clause !== undefined && /^(?:exactly |only )?-?\$?\d[^\s]*(?:\s[a-z]+){0,3}[.!*]{0,3}$/.test(clause))
    return clause;
  const stop = /^[^\n]{0,200}?[.!?][)*_"']?\s+(?=[A-Z*])|^[^\n]{0,200}\n/.exec(rest);
  return stop === null || rest.slice(stop[0].length).trim() === "" ? null : rest.slice(stop[0].length);
}

const VALUE = String.raw`\$[^$\n]{1,80}\$|\\\([^\n]{1,80}?\\\)|-?\$?\d[\d,]*(?:\.\d+)?(?:\/\d+)?(?![\w^/:!]|\.\d)`;
/** "The minimum is -6, attained at x = 2.", "It is $12$ for each of the 3 triangles.": a value and a remark on it. */
const REMARKED = new RegExp(
  String.raw`(?<![a-zA-Z])(?:is|are|equals|be)\s+(?:exactly |only )?(${VALUE})(?:\s[a-z]{2,20}){0,3}?,?\s(?:which (?:is |are )?)?(?:attained|achieved|reached|occurs|occurring|happens|when(?:ever)?|if|since|because|at|for (?:each|every|all|any))(?![a-z])(.{1,160})$`,
);
/** The same with its decimal: "It is $3\pi$ square units, or about $9.42$." */
const ABOUT = new RegExp(
  String.raw`(${VALUE})(?:\s[a-z]{2,20}){0,3},?\s\(?(?:or |which is |i\.e\.,? )?(?:about|approximately|roughly|\$?\\approx|≈)\s?\$?(\d[\d,]*\.\d+)\$?(?:\s[a-z]{2,20}){0,3}\)?[.!]?$`,
);
const CONCLUDES = /(?<![a-z])(?:so|then|thus|therefore|hence|gives?|giving|total|answer|not|but|or|and)(?![a-z])/i;
const withoutDollars = (formula: string): string => formula.replace(/^(?:\$|\\\()(.*)(?:\$|\\\))$/, "$1").trim();

/** The value in a last sentence that goes on with a remark, whose numbers are not part of the answer. */
export function remarkedAnswer(text: string): string | null {
  const line = endOf(text).slice(-400).split("\n").at(-1)!;
  const sentence = line.split(/[.!?]\s+(?=[A-Z$\\])/).at(-1)!;
  const [, value, remark] = REMARKED.exec(sentence) ?? [];
  return value === undefined || CONCLUDES.test(remark!) ? null : withoutDollars(value);
}

/** "3π ≈ 9.42" for a text that ends in a formula and its approximate decimal. */
function approximatedAnswer(text: string): string | null {
  const [, value, decimal] = ABOUT.exec(endOf(text).slice(-200).split("\n").at(-1)!) ?? [];
  return value === undefined ? null : `${withoutDollars(value)} \\approx ${decimal}`;
}

/** The unmarked answer of a mathematical text; null if it has none. */
export function unmarkedAnswer(text: string): string | null {
  const announced = announcedAnswer(text);
  if (announced !== null) return announced;
  const remarked = approximatedAnswer(text) ?? remarkedAnswer(text);
  if (remarked !== null) return remarked;
  const last = sentenceBehindFormulas(text);
  const said = last && (boldAnswer(last) ?? closingTuple(last) ?? closingExpression(last) ?? lastNumber(last));
  return (
    said ?? lastFormula(text) ?? boldAnswer(text) ?? closingTuple(text) ?? closingExpression(text) ?? lastNumber(text)
  );
}

/** The word or two after "is" at the end of a text: "… the function is even." Not numbers or formulas. */
export function closingWords(text: string): string | null {
  const line = endOf(text).slice(-200).split("\n").at(-1)!;
  return (
    /(?<![a-zA-Z])(?:is|are)\s+((?:an?\s+|the\s+)?[a-zA-Z-]{3,20}(?:\s[a-zA-Z-]{3,20})?)[.!*]{0,3}$/.exec(line)?.[1] ??
    null
  );
}
