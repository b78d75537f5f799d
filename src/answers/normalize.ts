/**
 * Rewrites a mathematical answer, LaTeX or plain, into the one small notation that parse.ts parses:
 * single characters for operators (`*`, `/`, `±`, `∪`, `∈`, `∞`, `≤`…), `⦃ ⦄` for set braces, `⏎` between matrix rows,
 * `°` and `%` as suffixes, no layout commands, no currency, no units, no `\text`.
 *
 * Purely textual: it does not know whether the result means anything. Every pattern is linear in the length of the
 * text, which the caller keeps under `MAX_ANSWER_CHARS`.
 */
import { modifies, rewritePhrases } from "./phrases.ts";
import { canonicalUnit, joinUnitFractions } from "./units.ts";

/** Longer answers are only compared literally. */
export const MAX_ANSWER_CHARS = 2000;

const SYMBOLS: Readonly<Record<string, string>> = {
  cdot: "*",
  times: "*",
  ast: "*",
  div: "/",
  pm: "±",
  mp: "∓",
  le: "≤",
  leq: "≤",
  leqslant: "≤",
  ge: "≥",
  geq: "≥",
  geqslant: "≥",
  lt: "<",
  gt: ">",
  ne: "≠",
  neq: "≠",
  in: "∈",
  cup: "∪",
  cap: "∩",
  infty: "∞",
  pi: "π",
  emptyset: "∅",
  varnothing: "∅",
  lbrace: "⦃",
  rbrace: "⦄",
  lbrack: "[",
  rbrack: "]",
  lvert: "|",
  rvert: "|",
  vert: "|",
  mid: "|",
  lfloor: "⌊",
  rfloor: "⌋",
  lceil: "⌈",
  rceil: "⌉",
  langle: "(",
  rangle: ")",
  colon: ":",
  degree: "°",
  circ: "°",
  dfrac: "\\frac",
  tfrac: "\\frac",
  cfrac: "\\frac",
  dbinom: "\\binom",
  tbinom: "\\binom",
  iff: "⟹",
  setminus: "∖",
  smallsetminus: "∖",
  backslash: "∖",
  imath: "i",
  jmath: "j",
  approx: "≈",
  approxeq: "≈",
  doteq: "≈",

  thickapprox: "≈",
  simeq: "≈",
  lor: ",",
  land: "and",
  vee: ",",
  wedge: "and",
  implies: "⟹",
  Rightarrow: "⟹",
  Longrightarrow: "⟹",
  Leftrightarrow: "⟹",
  Longleftrightarrow: "⟹",
  therefore: "⟹",
  ldots: "…",
  dots: "…",
  cdots: "…",
  epsilon: "\\varepsilon",
  phi: "\\varphi",
};

const UNICODE: Readonly<Record<string, string>> = {
  "−": "-",
  "–": "-",
  "﹣": "-",
  "－": "-",
  "＋": "+",
  "×": "*",
  "·": "*",
  "∙": "*",
  "⋅": "*",
  "∗": "*",
  "÷": "/",
  "⁄": "/",
  "∕": "/",
  "＝": "=",
  "，": ",",
  "：": ":",
  "（": "(",
  "）": ")",
  "％": "%",
  "⩽": "≤",
  "⩾": "≥",
  "≃": "≈",
  "≐": "≈",
  "²": "^2",
  "³": "^3",
  "⁴": "^4",
  "½": "\\frac{1}{2}",
  "¼": "\\frac{1}{4}",
  "¾": "\\frac{3}{4}",
  "⅓": "\\frac{1}{3}",
  "⅔": "\\frac{2}{3}",
  "¢": " ",
  "⇒": "⟹",
  "∴": "⟹",
  "⟺": "⟹",
  "⇔": "⟹",
  "⟨": "(",
  "⟩": ")",
  "；": ";",
  "≡": "\\equiv ",
  ℝ: "\\mathbb{R}",
  θ: "\\theta ",
  α: "\\alpha ",
  β: "\\beta ",
  γ: "\\gamma ",
  λ: "\\lambda ",
  μ: "\\mu ",
  φ: "\\varphi ",
  ω: "\\omega ",
  "€": " ",
  "£": " ",
  "¥": " ",
  "\u00a0": " ",
  "\u2009": " ",
  "\u202f": " ",
};
const UNICODE_PATTERN = new RegExp(`[${Object.keys(UNICODE).join("")}]`, "g");

const UNITS = `(?:(?:square|sq\\.?|cubic|cu\\.?)\\s+)?(?:units?|inch(?:es)?|in\\.|foot|feet|ft|yards?|yds?|miles?|mi|
meters?|metres?|cm|mm|km|nm|centimeters?|kilometers?|millimeters?|kg|mg|grams?|kilograms?|pounds?|lbs?|ounces?|oz|tons?|
liters?|litres?|ml|mL|gallons?|seconds?|secs?|minutes?|mins?|hours?|hrs?|days?|weeks?|months?|years?|mph|kph|
dollars?|cents?|bucks|USD|EUR|degrees?|deg|radians?|rad|people|persons?|students?|children|ways?|times|points?|
apples|coins|eggs|books|pages|boxes|balls|items|pieces|sq|square|cubic)`.replace(/\n/g, "");
const UNIT_PATTERN = new RegExp(
  `(?<=[\\d)}\\]%°])\\s*${UNITS}(?:\\s*\\^\\s*\\{?\\d\\}?)?(?:\\s*(?:/|per)\\s*(?:${UNITS}|[hs])(?:\\s*\\^\\s*\\{?\\d\\}?)?)?(?![a-zA-Z])\\.?`,
  "g",
);

/** What may stand for a unit in `\\mathrm{…}`, where letters are no variables: also m/s^2, N, V. */
const UNIT_OR_LETTER = `(?:${UNITS}|[mgshlLVWJNAKCF]|Hz|Pa)(?:\\s*\\^\\s*\\{?-?\\d\\}?)?`;
const UNIT = new RegExp(`^\\s*${UNITS}\\s*$`);
const COMPOUND_UNIT = new RegExp(`^\\s*${UNIT_OR_LETTER}\\s*(?:/|per)\\s*${UNIT_OR_LETTER}\\s*$`);

/** "6 or more" is no list, and "six or 7" is one of 6 and 7. */
const AFTER_OR =
  /\bor\s+(?:so|more|less|fewer|greater|larger|smaller|higher|lower|above|below)\b|\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b/i;
const MULTIPLES: Readonly<Record<string, string>> = {
  hundred: "100",
  thousand: "1000",
  million: "1000000",
  billion: "1000000000",
  trillion: "1000000000000",
};
const MULTIPLE = /(?<=\d[\s~\\,]*)(hundred|thousand|million|billion|trillion)(?![a-z])/gi;
const BASES = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

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
function replaceGroups(text: string, pattern: RegExp, replace: (content: string) => string): string {
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
const FONT_GROUP =
  /\\(?:mathrm|mathbf|mathit|mathsf|mathbb|boldsymbol|bm|vec|underline|operatorname|boxed|fbox|rm|mathcal)\s*\{/g;

/** `\text{…}`: connectives become commas, a single letter stays, units beside a value go, a text that is all there is stays. */
function resolveText(answer: string): string {
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
    // Left as it is, which nothing but the same text is equal to.
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

/** `5\text{ m}`: one letter in a text command behind a value, where it is a unit and no base. */
const LETTER_UNIT = /(?<=[\d)}]) ?(?:\\[ ,;:]|~)? ?\\(?:text|mbox|textrm)\s?\{ ?[mgshLVWJN] ?\}(?! ?_)/g;
const AND_GROUP = /,?\s?\\text\s?\{\s*,?\s?and\s*\}/g;

/** "3 apples + 2 pears", "5 feet 3 inches": units that are told apart stay in the value, as names. */
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

/** `\\frac` for `\frac`: text that was escaped once too often, which matrices (`\\` between rows) must not be taken for. */
function unescapeTwice(text: string): string {
  const twice =
    /\\\\(?=(?:[dtc]?frac|sqrt|left|right|text|boxed|begin|end|pi|infty|cdot|times|cup|in|le|ge|leq|geq)\b)/;
  if (!twice.test(text) || (/(?<!\\)\\begin/.test(text) && !/\\\\begin/.test(text))) return text;
  return text.replace(/\\\\/g, "\\");
}

const BOTH = /^\s*([a-z])\s*([<>≤≥])([^<>≤≥]*?)[,\s]and\s*([a-z])\s*([<>≤≥])([^<>≤≥]*)$/;

/** What is concluded: of "2x = 6 ⟹ x = 3" the last; without relations on both sides it is a list. */
function concluded(text: string): string {
  const at = text.lastIndexOf("⟹");
  if (at < 0) return text;
  const [premise, conclusion] = [text.slice(0, at), text.slice(at + 1)];
  const relation = /[=<>≤≥≠∈]/;
  if (premise.trim() === "") return conclusion;
  return relation.test(premise) && relation.test(conclusion) ? conclusion : text.replaceAll("⟹", ",");
}

/** "x > 1 and x < 4" as "1 < x < 4", since "and" becomes a comma, as "or" does, which between inequalities is a union. */
function chained(text: string): string {
  const match = BOTH.exec(text);
  if (match === null) return text;
  const [, name, first = "", a = "", other, second = "", b = ""] = match;
  const [from, to] = [">≥".includes(first), ">≥".includes(second)];
  if (name !== other || from === to) return text.replace(/and/, "∧");
  const below = (op: string): string => (op === ">" || op === "<" ? "<" : "≤");
  return from
    ? `${a} ${below(first)} ${name} ${below(second)} ${b}`
    : `${b} ${below(second)} ${name} ${below(first)} ${a}`;
}

const ALL_REALS =
  /^[\s$]*(?:\\(?:text|mbox|textbf)\s*\{)?\s*(?:all\s+reals?(?:\s+numbers?)?|\\mathbb\s*\{?\s*R\s*\}?)\s*\}?[\s.$]*$/i;

/** Numbers, fractions, roots and powers in the notation already, as most answers are. */
const PLAIN =
  /^(?! )(?:[-+/^(){}\d]|\.(?=\d)|,(?=[-\d(\\])|\\(?:frac|sqrt)(?![a-zA-Z])|(?<![a-zA-Z] ?)[abnxy](?! ?[a-zA-Z])| (?=[^ ]))+(?<!,)$/;

/** The answer in the notation above, trimmed; total, and the identity on what it does not know. */
export function normalizeMath(text: string): string {
  if (PLAIN.test(text) && !text.includes("{,}")) return text;
  let s = unescapeTwice(text.replace(UNICODE_PATTERN, (c) => UNICODE[c] ?? c));
  // A box that was cut off before its end.
  if (s.includes("boxed")) s = s.replace(/^\s*\\boxed\s*\{(?=[^{}]*(?:\{[^{}]*\}[^{}]*)*$)/, "");
  s = rewritePhrases(s);
  if (ALL_REALS.test(s)) return "(-∞,∞)";
  if (s.includes("_")) {
    s = s.replace(
      /(_ ?\{? ?)(?:\\text ?\{ ?([a-z]+) ?\}|(?<=\d_ ?\{? ?)([a-z]{3,5})(?![a-z]))/g,
      (whole, before, grouped, plain) => {
        const base = BASES.indexOf(grouped ?? plain) + 2;
        return base < 2 ? whole : before + base;
      },
    );
  }
  s = s
    .replace(/[\0⊞]/g, "\ufffd")
    .replace(/\\(?:text)?color\s*\{[^{}]*\}/g, "")
    .replace(/\(\s*([0-9A-Z]+)\s*\)\s*_(?=[\s{]*\d)/g, "$1_")
    .replace(/\{([^{}]{1,80})\\choose([^{}]{1,80})\}/g, "\\binom{$1}{$2}")
    .replace(/\{([^{}]{1,80})\\over(?![a-z])([^{}]{1,80})\}/g, "\\frac{$1}{$2}")
    .replace(/\\mathbb\s*(?:\{\s*R\s*\}|R(?![a-z]))/g, "(-∞,∞)")
    .replace(/^([\s$]*[a-zA-Z])\s*\^\s*\{\s*-1\s*\}\s*\(\s*([a-z])\s*\)\s*=/, "$1($2)=");
  s = s.replace(/\\\\\s*\[[^\]]*\]/g, "\\\\").replace(/\\\\/g, "⏎");
  if (s.includes("\\prime"))
    s = s.replace(/\^ ?(?:\{ ?)?((?:\\prime ?){1,3})\}?/g, (_, p: string) => "'".repeat(p.split("p").length - 1));
  s = s.replace(/\\q?quad/g, " ");
  if (s.includes("{:}") || s.includes("{,}"))
    s = s
      .replace(/(?<=\d)\{:\}(?=\d)/g, ":")
      .replace(/(?<=\d)\{,\}(?=\d)/g, (mark, at: number, whole: string) =>
        /^\d{3}(?!\d)/.test(whole.slice(at + mark.length, at + mark.length + 4)) ? "" : ",",
      );
  if (s.includes("\\!") || s.includes("\\,")) s = s.replace(/(\d)(?:,\s*\\!|\\!\s*,|\\,)\s*(?=\d{3}(?!\d))/g, "$1");
  s = s.replace(
    /\\(?:left|right|bigl|bigr|Bigl|Bigr|big|Big|bigg|Bigg|displaystyle|textstyle|limits)(?![a-zA-Z])\.?/g,
    "",
  );
  s = s
    .replace(/\\phantom\s*\{[^{}]*\}/g, "")
    .replace(/\\[,;: ]|~/g, " ")
    .replace(/\\!/g, "");
  s = s
    .replace(/\\\{/g, "⦃")
    .replace(/\\\}/g, "⦄")
    .replace(/\\%/g, "%")
    .replace(/\\?\$/g, " ")
    .replace(/\\[()[\]]/g, " ");
  s = s.replace(/\\&/g, " ").replace(/\\\|/g, "|");
  s = resolveText(joinUnitFractions(s));
  s = !s.includes("\\")
    ? s
    : replaceGroups(s, FONT_GROUP, (content) =>
        UNIT.test(content)
          ? ` ${content}`
          : COMPOUND_UNIT.test(content)
            ? " "
            : /^[a-z]{2,}$/.test(content)
              ? `\\${content} `
              : `{${content}}`,
      );
  s = s.replace(/\\([a-zA-Z]+)/g, (whole, name: string) => {
    const symbol = SYMBOLS[name];
    if (symbol === undefined) return whole;
    return symbol.startsWith("\\") ? symbol : ` ${symbol} `;
  });
  s = s.replace(/\^\s*(?:\{\s*°\s*\}|°)/g, "°").replace(/°\s*(?:[CF](?![a-zA-Z]))/g, "°");
  if (s.includes("p") || s.includes("P")) s = s.replace(/\s*(?:percent(?:age)?|per cent|pct)(?![a-zA-Z])\.?/gi, "%");
  s = s.replace(/<=|=</g, "≤").replace(/>=|=>/g, "≥").replace(/!=/g, "≠").replace(/==+/g, "=").replace(/\*\*/g, "^");
  s = chained(concluded(s));
  if (s.includes("m") || s.includes("M"))
    s = s.replace(/(?<=\d\s*)([ap])\.?\s?m(?![a-z])\.?/gi, (_, half: string) => ` ${half.toLowerCase()}m`);
  // Two letters that are no command: there are words.
  if (/(?<![\\a-zA-Z])[a-zA-Z]{2}/.test(s)) {
    s = s
      .replace(/(?<![\\a-zA-Z])(?:and|or)(?![a-zA-Z])/gi, " , ")
      .replace(/(?<=[\d)\]}⦄])(?:and|or)(?:(?![a-z])|(?=[a-z](?:\([a-z]\))? ?=))/g, " , ");
    s = s.replace(MULTIPLE, (word) => `*${MULTIPLES[word.toLowerCase()]}`);
    s = s.replace(/(?<![a-zA-Z\\])(?:infinity|infty|inf)(?![a-zA-Z])/gi, "∞");
    s = s.replace(UNIT_PATTERN, "").replace(/(?<=\d\s*)\bin\s*$|(?<=\d)in\s*$/, "");
  }
  s = s.replace(/^\s*⦃\s*[a-z]\s*(?:∈\s*\(-∞,∞\)\s*)?[|:]\s*([^⦃⦄|:]+)⦄\s*$/, "$1");
  s = s.replace(/^\s*=(?=\s*[^=\s])/, "");
  s = s.replace(/^\s*≈/, "").replace(/≈.*$/s, "");
  s = s.replace(/\s+/g, " ").replace(/(?:\s*,)+(?=\s*,)/g, "");
  return trimPunctuation(s);
}

/** Without spaces and sentence punctuation around, and without a stray backslash at the end. */
export function trimPunctuation(text: string): string {
  let from = 0;
  let to = text.length;
  while (from < to && " \n\t,;:".includes(text[from]!)) from++;
  while (to > from && " \n\t.,;:\\?".includes(text[to - 1]!)) to--;
  return text.slice(from, to);
}
