/**
 * Rewrites a mathematical answer, LaTeX or plain, into the small notation that parse.ts parses:
 * single characters for operators (`*`, `/`, `±`, `∪`, `∈`, `∞`, `≤`…), `⦃ ⦄` for set braces, `⏎` between matrix rows,
 * `°` and `%` as suffixes, no layout commands, no currency, no units, no `\text`.
 *
 * Purely textual: it does not know whether the result means anything. Every pattern is linear in the length of the
 * text, which the caller keeps under `MAX_ANSWER_CHARS`.
 */
import { rewritePhrases } from "./phrases.ts";
import { SYMBOLS, UNICODE, UNICODE_PATTERN } from "./symbols.ts";
import { MULTIPLES, replaceGroups, resolveText } from "./text-groups.ts";
import { joinUnitFractions } from "./units.ts";

/** Longer answers are only compared literally. */
export const MAX_ANSWER_CHARS = 2000;

const UNITS = `(?:(?:square|sq\\.?|cubic|cu\\.?)\\s+)?(?:units?|inch(?:es)?|in\\.|foot|feet|ft|yards?|yds?|miles?|mi|
meters?|metres?|cm|mm|km|nm|centimeters?|kilometers?|millimeters?|kg|mg|grams?|kilograms?|pounds?|lbs?|ounces?|oz|tons?|
liters?|litres?|ml|mL|gallons?|seconds?|secs?|minutes?|mins?|hours?|hrs?|days?|weeks?|months?|years?|mph|kph|
dollars?|cents?|bucks|USD|EUR|degrees?|deg|radians?|rad|people|persons?|students?|children|ways?|times|points?|
apples|coins|eggs|books|pages|boxes|balls|items|pieces|sq|square|cubic)`.replace(/\n/g, "");
const UNIT_PATTERN = new RegExp(
  `(?<=[\\d)}\\]%°])\\s*${UNITS}(?:\\s*\\^\\s*\\{?\\d\\}?)?(?:\\s*(?:/|per)\\s*(?:${UNITS}|[hs])(?:\\s*\\^\\s*\\{?\\d\\}?)?)?(?![a-zA-Z])\\.?`,
  "g",
);

/** Units in `\\mathrm{…}`, where letters are not variables: also m/s^2, N, V. */
const UNIT_OR_LETTER = `(?:${UNITS}|[mgshlLVWJNAKCF]|Hz|Pa)(?:\\s*\\^\\s*\\{?-?\\d\\}?)?`;
const UNIT = new RegExp(`^\\s*${UNITS}\\s*$`);
const COMPOUND_UNIT = new RegExp(`^\\s*${UNIT_OR_LETTER}\\s*(?:/|per)\\s*${UNIT_OR_LETTER}\\s*$`);

const MULTIPLE = /(?<=\d[\s~\\,]*)(hundred|thousand|million|billion|trillion)(?![a-z])/gi;
const BASES = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

const FONT_GROUP =
  /\\(?:mathrm|mathbf|mathit|mathsf|mathbb|boldsymbol|bm|vec|underline|operatorname|boxed|fbox|rm|mathcal)\s*\{/g;

/** `\\frac` for `\frac`: text that was escaped twice, not to be confused with matrices (`\\` between rows). */
function unescapeTwice(text: string): string {
  const twice =
    /\\\\(?=(?:[dtc]?frac|sqrt|left|right|text|boxed|begin|end|pi|infty|cdot|times|cup|in|le|ge|leq|geq)\b)/;
  if (!twice.test(text) || (/(?<!\\)\\begin/.test(text) && !/\\\\begin/.test(text))) return text;
  return text.replace(/\\\\/g, "\\");
}

const BOTH = /^\s*([a-z])\s*([<>≤≥])([^<>≤≥]*?)[,\s]and\s*([a-z])\s*([<>≤≥])([^<>≤≥]*)$/;

/** The conclusion of "2x = 6 ⟹ x = 3" is its last part; without relations on both sides it is a list. */
function concluded(text: string): string {
  const at = text.lastIndexOf("⟹");
  if (at < 0) return text;
  const [premise, conclusion] = [text.slice(0, at), text.slice(at + 1)];
  const relation = /[=<>≤≥≠∈]/;
  if (premise.trim() === "") return conclusion;
  return relation.test(premise) && relation.test(conclusion) ? conclusion : text.replaceAll("⟹", ",");
}

/** "x > 1 and x < 4" as "1 < x < 4": like "or", "and" becomes a comma, which between inequalities means a union. */
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

/** Numbers, fractions, roots and powers that are in the notation already, as most answers are. */
const PLAIN =
  /^(?! )(?:[-+/^(){}\d]|\.(?=\d)|,(?=[-\d(\\])|\\(?:frac|sqrt)(?![a-zA-Z])|(?<![a-zA-Z] ?)[abnxy](?! ?[a-zA-Z])| (?=[^ ]))+(?<!,)$/;

/** The answer in the notation above, trimmed. Total; leaves what it does not know unchanged. */
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
  // Two letters that are not a command: there are words.
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

/** Without surrounding spaces and sentence punctuation, and without a stray backslash at the end. */
export function trimPunctuation(text: string): string {
  let from = 0;
  let to = text.length;
  while (from < to && " \n\t,;:".includes(text[from]!)) from++;
  while (to > from && " \n\t.,;:\\?".includes(text[to - 1]!)) to--;
  return text.slice(from, to);
}
