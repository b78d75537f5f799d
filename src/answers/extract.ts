/**
 * Finds the answer in a text: what the text itself marks (`\boxed{…}`, `#### …`), then, leniently, what a reader would
 * take for it: "the answer is …", `A: …`, the last formula, bold text, the last number.
 *
 * Everything but the marks is looked for in the last `TAIL` characters only, with patterns linear in their length.
 * It does not judge the answer (gsm8k.ts, math.ts).
 */
import { afterHashes, lastBoxed } from "./marks.ts";
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

/** After a box it is the box that was an intermediate result. */
const FINAL = /\bfinal answer(?: is|\s?:)/i;

/** The answer marked last, by `\boxed` or `####`, or as the final answer behind a box. */
export function markedAnswer(text: string): Readings {
  const s = text.slice(-MARKED_TAIL);
  const box = lastBox(s, s.length);
  const hashes = s.lastIndexOf("####");
  if (box !== null && hashes < box.start) {
    const later = FINAL.test(s.slice(box.end).slice(-TAIL)) ? announcedAnswer(s.slice(box.end)) : null;
    if (later !== null && /[\d$\\]/.test(later)) return [later];
  }
  return hashes >= 0 && hashes > (box?.start ?? -1) ? [afterHashes(s)?.trim() ?? ""] : joinedBoxes(s, box);
}

/** The last box with those before it that are joined to it, and alone. */
function joinedBoxes(s: string, last: Span | null): Readings {
  if (last === null) return [];
  const boxes = [last];
  while (boxes.length < 32) {
    const head = boxes[0]!.start;
    const previous = lastBox(s, head);
    if (previous === null || !joinsBoxes(s.slice(previous.end, head))) break;
    boxes.unshift(previous);
  }
  if (boxes.length === 1) return [last.content];
  // x = [3], y = [5]: the names belong to the answer where they differ.
  const names = boxes.map(({ start }) => NAME_BEFORE.exec(s.slice(Math.max(0, start - 16), start))?.[1]);
  const named = new Set(names).size === names.length && names.every((name) => name !== undefined);
  return [boxes.map(({ content }, i) => (named ? `${names[i]} = ${content}` : content)).join(", "), last.content];
}

const NAME_BEFORE = /(?<![a-zA-Z\\\d])([a-zA-Z](?:_\{?\w\}?)?)\s*=\s*$/;
/** What stands between a result and its correction, or between two steps. */
const NEW_RESULT =
  /[.!?;:]\s|\n\s*\n|(?<![a-z])(?:wrong|not?|incorrect|instead|rather|but|so|thus|hence|therefore|then|actually|should|gives?|implies|yields?|becomes|simplif\w+|rewritten|reduces?|equals|equivalently|if|because|since|from|checking|correct\w*)(?![a-z])|=>|→|\\(?:implies|Rightarrow|to|rightarrow)(?![a-z])/i;

/** Whether the text between two boxes makes both one answer: also "… for the first and …", "…, y = …". */
function joinsBoxes(between: string): boolean {
  if (between.length > 120) return false;
  const text = between.replace(NAME_BEFORE, " ");
  if (joins(text)) return true;
  if (text.includes("=") || NEW_RESULT.test(text)) return false;
  return /,|(?<![a-z])(?:and|or|as well as|along with|together with|while|plus)(?![a-z])/i.test(text);
}

interface Span {
  readonly start: number;
  readonly end: number;
  readonly content: string;
}

/** Whether the text says "percent" behind its last box, which is then part of a gold answer, and of one given alone. */
function percentBehindBox(text: string): boolean {
  const s = text.slice(-MARKED_TAIL);
  const box = lastBox(s, s.length);
  return (
    box !== null &&
    /\d\}?$/.test(box.content) &&
    /^\s?\$?\s?(?:\\?%|percent\b|per cent\b)/i.test(s.slice(box.end, box.end + 20))
  );
}

/** The last complete box that begins before `before`; of a row of boxes left open only the last few are looked at. */
function lastBox(s: string, before: number): Span | null {
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

const CLOSING_PHRASE = /\s(?:I|We) hope (?:it|this|that) (?:is correct|helps)[.!]?$/i;

/** The end of a text, without the chat markers and the closing phrase that a model may leave there. */
function endOf(text: string): string {
  let end = text.slice(-TAIL).trimEnd();
  for (let i = 0; i < 8; i++) {
    const marker = CHAT_MARKER.exec(end.slice(-80));
    if (marker === null) break;
    end = end.slice(0, end.length - marker[0].length).trimEnd();
  }
  const phrase = CLOSING_PHRASE.exec(end.slice(-80));
  return phrase === null ? end : end.slice(0, end.length - phrase[0].length).trimEnd();
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

const DIGITS = String.raw`(?:\d[\d,]*(?:\.\d+)?|\.\d+)`;
const POWER = String.raw`\s?(?:\^|\*\*)\s?(?:\{\s?[-+]?\d+\s?\}|\(\s?[-+]?\d+\s?\)|[-+]?\d+)`;
const ROOT = String.raw`(?:√|\\?sqrt)\s?(?:\(\s?\d+\s?\)|\{\s?\d+\s?\}|\d+)`;
/** What makes another number of the digits before it: 1e3, 5 × 10^3, 2^{10} - 1, 3:30, 101_2, 3/4, "5! ways", 3 million, 5%. */
const CONTINUED = [
  String.raw`[eE][-+]?\d+(?![a-zA-Z\d])`,
  String.raw`\s?(?:[x*×·⋅]|\\times|\\cdot)\s?10${POWER}`,
  String.raw`${POWER}(?:\s?[-+]\s?\d+(?![\d.]))?`,
  String.raw`(?::\d\d)+(?!\d)`,
  String.raw`_\{?\d+\}?`,
  String.raw`\s?\/\s?\d+`,
  String.raw`!(?=\s[a-z])`,
  String.raw`\s(?:hundred|thousand|million|billion|trillion)(?![a-z])`,
  String.raw`\s?(?:\\?%|percent(?![a-z])|per\scent(?![a-z]))`,
  String.raw`\s?(?:π|\\pi(?![a-z])|pi(?![a-z])|${ROOT})`,
].join("|");
/** A point's coordinates are no number. */
const COORDINATES = String.raw`\(\s?-?\d+(?:\.\d+)?(?:,\s-?\d+(?:\.\d+)?|,-?\d{1,2}(?![\d.]))+\s?\)`;
const NUMBER = new RegExp(
  String.raw`${COORDINATES}|(?<![\d.,\w)\]}])[-+]?\s?\$?\s?(?:${DIGITS}(?:${CONTINUED})?|${ROOT})|\d[\d,]*(?:\.\d+)?(?:${CONTINUED})?`,
  "g",
);

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** The text with one sign for minus, thousands and powers, as `NUMBER` reads them. */
const plainNumbers = (text: string): string =>
  text
    .replaceAll("−", "-")
    .replace(/(\d)(?:\{,\}|\\,|\\!,|,\\!)(?=\d{3}(?!\d))/g, "$1,")
    .replace(/(?<=[\d)])[⁰¹²³⁴⁵⁶⁷⁸⁹]+/g, (digits) => `^${[...digits].map((c) => SUPERSCRIPTS.indexOf(c)).join("")}`);

const cleaned = (number: string | undefined): string | null =>
  number === undefined
    ? null
    : number
        .replace(/^([-+]?)[\s$]+/, "$1")
        .replace(/ ?x ?(?=10)/, "*")
        .replace(/(?<=\d)\s?\/\s?(?=\d)/, "/")
        .replace(/,+$/, "");

/** The last number written in the text (commas, a `$`, a simple fraction, a power), without what surrounds it. */
export function lastNumber(text: string): string | null {
  const whole = endOf(text);
  // Mostly it is near the end; one at the window's beginning may have been cut.
  for (const window of [whole.slice(-NEAR_END), whole]) {
    let found: RegExpMatchArray | undefined;
    for (const match of plainNumbers(window).matchAll(NUMBER)) found = match;
    if (found !== undefined && (window === whole || found.index! > 60)) return cleaned(found[0]);
  }
  return null;
}
const NEAR_END = 400;

/** The first number of a text; in an equation, of its last side. */
export function firstNumber(text: string): string | null {
  const side = plainNumbers(text.slice(text.lastIndexOf("=") + 1));
  return cleaned(side.matchAll(NUMBER).next().value?.[0]);
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

/** What a sentence behind the one with the last formula says: "… with $k = 2$. So there are 6 ways." */
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
/** "The minimum is -6, attained at x = 2.", "It is $12$ for each of the 3 triangles.": a value and what is said about it. */
const REMARKED = new RegExp(
  String.raw`(?<![a-zA-Z])(?:is|are|equals|be)\s+(?:exactly |only )?(${VALUE})(?:\s[a-z]{2,20}){0,3}?,?\s(?:which (?:is |are )?)?(?:attained|achieved|reached|occurs|occurring|happens|when(?:ever)?|if|since|because|at|for (?:each|every|all|any))(?![a-z])(.{1,160})$`,
);
/** The same with its decimal: "It is $3\pi$ square units, or about $9.42$." */
const ABOUT = new RegExp(
  String.raw`(${VALUE})(?:\s[a-z]{2,20}){0,3},?\s\(?(?:or |which is |i\.e\.,? )?(?:about|approximately|roughly|\$?\\approx|≈)\s?\$?(\d[\d,]*\.\d+)\$?(?:\s[a-z]{2,20}){0,3}\)?[.!]?$`,
);
const CONCLUDES = /(?<![a-z])(?:so|then|thus|therefore|hence|gives?|giving|total|answer|not|but|or|and)(?![a-z])/i;
const withoutDollars = (formula: string): string => formula.replace(/^(?:\$|\\\()(.*)(?:\$|\\\))$/, "$1").trim();

/** The value that the last sentence says something more about, where numbers in the remark are none of the answer. */
export function remarkedAnswer(text: string): string | null {
  const line = endOf(text).slice(-400).split("\n").at(-1)!;
  const sentence = line.split(/[.!?]\s+(?=[A-Z$\\])/).at(-1)!;
  const [, value, remark] = REMARKED.exec(sentence) ?? [];
  return value === undefined || CONCLUDES.test(remark!) ? null : withoutDollars(value);
}

/** "3π ≈ 9.42" of a text that ends in a formula and the decimal that it is about. */
function approximatedAnswer(text: string): string | null {
  const [, value, decimal] = ABOUT.exec(endOf(text).slice(-200).split("\n").at(-1)!) ?? [];
  return value === undefined ? null : `${withoutDollars(value)} \\approx ${decimal}`;
}

/** The unmarked answer of a mathematical text; null where it has none. */
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

/** The word or two that a text ends in, behind "is": "… the function is even." Numbers and formulas are none. */
export function closingWords(text: string): string | null {
  const line = endOf(text).slice(-200).split("\n").at(-1)!;
  return (
    /(?<![a-zA-Z])(?:is|are)\s+((?:an?\s+|the\s+)?[a-zA-Z-]{3,20}(?:\s[a-zA-Z-]{3,20})?)[.!*]{0,3}$/.exec(line)?.[1] ??
    null
  );
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

/** An answer out of a gold text or a given prediction: its mark's content, or the text itself unless it is a sentence. */
export function reduceAnswer(text: string): Readings {
  const marked = markedAnswer(text);
  if (marked.length > 0) return percentBehindBox(text) ? [`${marked[0]}\\%`] : marked;
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
