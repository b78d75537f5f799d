/**
 * Answers partly in words, rewritten into formulas before normalize.ts: "√3 (approximately 1.73)",
 * "all real numbers except 0", "option C", "2 to 3", "no solutions", "12 red marbles", "5 (mod 12)".
 *
 * Purely textual, like normalize.ts. Whitespace is single and every repetition bounded, so each pattern is linear.
 */
import { canonicalUnit } from "./units.ts";

/** A text command around the whole answer. */
const WHOLE_TEXT = /^\$?\s?\\(?:text|textbf|textit|textrm|mbox|mathrm|textnormal)\s?\{([^{}]*)\}\.?\s?\$?$/;
const TEXT_GROUPS = /\\(?:text|textbf|textit|textrm|mbox|textnormal)\s?\{([^{}]*)\}/g;

const SIGN = "(?:\\\\approx|\\\\simeq|\\\\doteq|\\\\thickapprox|\\\\approxeq|≈|≃|≐)";
const APPROXIMATELY = `(?:${SIGN}|(?:approximately|approx\\.?|roughly|about|nearly|around)(?![a-zA-Z]))`;
const THAT_IS = "or|which is|that is|i\\.e\\.";
/** After a value: " ≈ 1.73", " (approximately 1.73)", " or about 1.73", in a text command or not. */
const APPROXIMATION = new RegExp(
  `(?<=[\\d)}\\]a-zπ°])[\\s,~]{0,3}(?:\\\\[ ,;:]|\\\\quad){0,2}\\s?(?:(?:\\\\left)?\\()?\\s?(?:\\\\text\\s?\\{[\\s,]{0,2}\\(?\\s?(?:${THAT_IS})?[\\s,]{0,2}(?:\\}\\s?)?|(?:${THAT_IS})[\\s,]{1,2})?(?:\\\\text\\s?\\{\\s?)?${APPROXIMATELY}.*$`,
  "s",
);
/** "x ≈ 1.73": the name of what is approximated. */
const NAMED_APPROXIMATION = new RegExp(`(?<![a-zA-Z\\\\}\\d])([a-zA-Z])\\s?${SIGN}`, "g");
const LEADING_APPROXIMATION = new RegExp(`^\\$?\\s?(?:\\\\text\\s?\\{\\s?)?${APPROXIMATELY}\\s?\\}?`);

const CHOICE =
  /^(?:the )?(?:(?:correct|right|final) )?(?:answer|option|choice)(?: choice)?(?: is)?:? ?\(?([A-J])\)?\.?$/i;
const NO_SOLUTION = /^(?:there (?:is|are) )?no( real| integer| positive)? solutions?(?: exists?)?\.?$/i;
const EMPTY_SET = /^(?:the )?empty set\.?$/i;
const ALL_BUT =
  /^(?:x (?:is|can be) )?(?:(?:all|any) reals?(?: numbers?)?(?: x)?|\\mathbb\s?\{?R\}?),? (?:except|but|other than|besides|excluding|not equal to|without)(?: for)?(?: when)? (.+)$/i;
const RATIO = /^\$?(\d{1,9}) ?(?:\\text ?\{ ?to ?\}|to) ?(\d{1,9})\$?$/;
const MODULO = /\(? ?(?:\\text\s?\{ ?\(?mod ?\}|\\?[pb]?mod(?![a-zA-Z])) ?\{? ?(\d{1,20}|[a-z])(?![\w.]) ?\}? ?\)?/g;
const COMBINATIONS =
  /(?<![\w)}])(?:\{ ?\})? ?[_^] ?(?:\{ ?(\w{1,9}) ?\}|(\w)) ?(?:C|\\mathrm ?\{C\}|\\text ?\{C\}) ?_ ?(?:\{ ?(\w{1,9}) ?\}|(\w))/g;
const BASE = /^(\$?\w{1,80}) ?(?:\\text ?\{ ?)?\(?(?:in )?base[ -](\d{1,2}|[a-z]{3,5})\)? ?\}?\$?$/;
/** "25 values of n": what is counted, with the formula after it. */
const COUNTED = /\\text ?\{([^{}]{1,60}) (?:of|for) ?\} ?[a-zA-Z]$/;
/** P(red) = …: the event is part of the name. */
const PROBABILITY = /^(\$? ?P) ?(?:\\left)?\( ?\\text ?\{[^{}]{1,60}\} ?(?:\\right)?\) ?=/;
/** "x ≥ 0 or x ≠ 1": such an "or" must not become a comma, which would mean "and". */
const OR = /\\text ?\{ ?or ?\}|(?<![a-zA-Z])or(?![a-zA-Z])/g;
const DERIVATIVE = /^(\$?)\s?\\d?frac ?\{ ?d ?([a-z]) ?\} ?\{ ?d ?[a-z] ?\} ?=/;
const INTEGER =
  /,? ?\\text ?\{ ?,? ?(?:for|where|with)(?: (?:all|any|some|every|each))?(?: integers?)? ?\} ?([a-z])(?: ?\\text ?\{ ?is an(?:y)? integer ?\})?/;

/** After a number: words that say how it is meant but do not change it. */
const HARMLESS =
  /(?<![a-z])(?:in all|all together|in total|each|left over|not counting order|(?<!or )more(?! than| or))(?![a-z])/gi;
/** Words that change the meaning of the number next to them; dropping them like units would change the answer. */
const MODIFIER =
  /(?<![a-z])(?:not?|non|never|except|less|fewer|more|greater|than|least|most|about|between|minus|negative|plus|squared|cubed|half|halves|thirds?|quarters?|fourths?|fifths?|tenths?|hundredths?|thousandths?|double|twice|triple|dozens?|out of|over|under|above|below|mod|base|without|either|neither|nor|both|if|when|any|all|each)(?![a-z])|^\s*to(?![a-z])|times (?:x|y|n|the|as)|[<>=+*^|]|\d|-\s*$/i;

/** Whether the words change the meaning of the number next to them ("less than", "and a half"), so are not a unit. */
export const modifies = (words: string): boolean => MODIFIER.test(words.replace(HARMLESS, " "));

/** Whether words after a number multiply it or compute with it ("million", "half", "squared"), so are not a unit. */
export const changesValue = (words: string): boolean =>
  /(?<![a-z])(?:(?:hundred|thousand|(?:m|b|tr)illion|dozen|pair|third|quarter|hundredth|thousandth|tenth)s?|half|halves|score|squared|cubed|minus|plus|not|without|or|and)(?![a-z])/i.test(
    words,
  );

/** \\mathrm{Tuesday}: a word in a font for formulas, as the whole answer. */
const WORD_IN_FONT = /^\\math(?:rm|bf|it|sf|tt) ?\{ ?([a-zA-Z][a-zA-Z ,-]{2,60})\}(?=[.$ ]*$)/;
/** "x > 2 (all numbers greater than 2)": a restatement or a reason. */
const REMARK =
  /(?<=[^\s(]) ?(?:\\text ?\{ ?)?\((?: ?\\text ?\{)? ?((?:all|any|i\.e\.|that is|since|because|as|using|from|by|in|which is) [^()\\{}]{2,120})(?:\} ?)?\) ?\}?\.?$/i;
/** Words in a remark that must not be dropped, because they say that something else is meant. */
const RESTRICTS = /(?<![a-z])(?:not?|but|except|or|unless|only|without|other|if|when|mod|base)(?![a-z])|[<>≠≤≥]/i;
const IS_REASON = /^(?:since|because|as|using|from|by)(?![a-z])/i;
/** Drops a reason, or a remark whose numbers all occur before it; keeps any other remark. */
const keptRemark = (remark: string, words: string, at: number, whole: string): string =>
  RESTRICTS.test(words) ||
  (changesValue(words) && !/^(?:since|because)(?![a-z])/i.test(words)) ||
  (!IS_REASON.test(words) && words.match(/\d+/g)?.some((n) => !whole.slice(0, at).includes(n)))
    ? remark
    : "";
/** "all real numbers greater than or equal to 2" */
const COMPARED =
  /^(?:all |any )?(?:real )?(?:numbers?|reals?|values?)(?: of)?(?: x)?(?: that are)? (greater|larger|more|bigger|less|smaller) than( or equal to)? ([^a-zA-Z ,]{1,40}|[^ ,]{1,60}?)\.?$/i;

/** Words with a meaning in mathematics. */
const MATHEMATICAL =
  /^(?:pi|sqrt|cbrt|root|sin|cos|tan|cot|sec|csc|log|ln|exp|abs|inf|infty|infinity|mod|choose|factorial|and|or|theta|alpha|beta)$/i;

/** "12 red marbles" as 12: plain words after a value without words. */
function withoutWords(text: string): string {
  if (!text.includes(" ")) return text;
  const tokens = text.split(" ");
  let from = tokens.length;
  while (from > 0 && tokens.length - from < 12 && /^\(?[a-zA-Z][a-z-]{1,20}\)?[.,]?$/.test(tokens[from - 1]!)) from--;
  const value = tokens.slice(0, from).join(" ");
  const words = tokens.slice(from).join(" ");
  if (words === "" || !/[\d)}\]]\$?$/.test(value)) return text;
  const list = words.split(/[^a-zA-Z]+/).filter(Boolean);
  if (list.length === 0 || (list[0]!.length < 3 && canonicalUnit(list[0]!) === null)) return text;
  // Letters without a vowel are a product of variables.
  if (list.some((word) => MATHEMATICAL.test(word) || !/[aeiouy]/i.test(word)) && canonicalUnit(list[0]!) === null)
    return text;
  if (modifies(words) || changesValue(words) || /percent|per cent|\bpct/i.test(words)) return text;
  return /(?<![\\a-zA-Z])[a-zA-Z]{3,}/.test(value.replace(TEXT_GROUPS, " ")) ? text : value;
}

/** Two or more known plain units ("5 feet 3 inches") as text groups, which are kept apart. */
const PLAIN_UNIT =
  /(?<=\d) ?(hours?|hrs?|minutes?|mins?|seconds?|secs?|feet|foot|ft|inch(?:es)?|yards?|pounds?|lbs?|ounces?|oz|dollars?|cents?|days?|weeks?|months?|years?|degrees?)(?![a-zA-Z])/g;
function groupedUnits(text: string): string {
  if (text.includes("\\text") || !/\d ?[a-z]{2}/.test(text)) return text;
  const units = text.match(PLAIN_UNIT);
  if (units === null || units.length < 2) return text;
  return text.replace(PLAIN_UNIT, "\\text{ $1}").replace(/\} ?,? and (?=\d)/g, "} \\text{ and } ");
}

/** The decimal that an answer gives as an approximation: 0.67 in "2/3 ≈ 0.67"; null if it does not end in one. */
export function approximated(text: string): { readonly value: string; readonly decimal: string } | null {
  const match = APPROXIMATED.exec(text.slice(0, 400).replace(/\s+/g, " ").trim());
  return match && { value: match[1]!, decimal: match[2]! };
}
const APPROXIMATED = new RegExp(`^(.*[\\d)}\\]a-zπ]) ?${SIGN} ?\\\\?\\$?(-?\\d{0,9}\\.\\d{1,9})(?!\\d| ?\\\\?%)`, "s");

/** The answer with its words rewritten as formulas; total, and the identity on answers without words. */
export function rewritePhrases(text: string): string {
  let s = text.replace(/\s+/g, " ").trim();
  if (!/[a-zA-Z≈≃≐]/.test(s)) return s;
  if (s.includes("\\math")) s = s.replace(WORD_IN_FONT, "\\text{$1}");
  if (s.includes("(") && s.includes(" ") && /[)}.]$/.test(s)) s = s.replace(REMARK, keptRemark);
  const words = WHOLE_TEXT.exec(s)?.[1]?.trim() ?? s;
  const choice = CHOICE.exec(words)?.[1];
  if (choice !== undefined) return choice.toUpperCase();
  const none = NO_SOLUTION.exec(words);
  if (none !== null) return none[1] === undefined ? "∅" : `\\text{no${none[1]} solution}`;
  if (EMPTY_SET.test(words)) return "∅";
  if (s.includes(" than")) {
    const plain = s.replace(TEXT_GROUPS, " $1 ").replace(/[$ ]+/g, " ").trim();
    const [, sign, orEqual, bound] = COMPARED.exec(plain) ?? [];
    if (bound !== undefined) {
      return `x ${/^(?:less|smaller)/i.test(sign!) ? "<" : ">"}${orEqual === undefined ? "" : "="} ${bound}`;
    }
  }
  const ratio = RATIO.exec(s);
  if (ratio !== null) return `${ratio[1]}:${ratio[2]}`;
  if (/ (?:except|but|other|besides|excluding|not|without) /.test(s)) {
    const left = ALL_BUT.exec(s.replace(TEXT_GROUPS, " $1 ").replace(/ +/g, " ").trim())?.[1];
    if (left !== undefined && left.length < 200) {
      return `(-∞,∞)∖⦃${left.replace(/[a-z] ?(?:=|\\neq?(?![a-z])|≠) ?|\\[{}]|\.$/g, "").replace(/ (?:and|or) /g, ",")}⦄`;
    }
  }
  if (s.includes("approx") || /≈|≃|≐|\\simeq|\\doteq|about|roughly|nearly|around/.test(s)) {
    s = s.replace(NAMED_APPROXIMATION, "$1 =").replace(LEADING_APPROXIMATION, "").replace(APPROXIMATION, "");
  }
  if (s.includes("mod")) s = s.replace(MODULO, "\\pmod{$1}");
  if (s.includes("C")) s = s.replace(COMBINATIONS, (_, a, b, c, d) => `\\binom{${a ?? b}}{${c ?? d}}`);
  if (s.includes("base")) s = s.replace(BASE, "$1_{\\text{$2}}");
  s = s.replace(PROBABILITY, "$1=");
  if (s.includes("or") && /≠|\\neq?(?![a-z])/.test(s) && /[<>≤≥]|\\[lg](?:eq?|eqslant|t)(?![a-z])/.test(s))
    s = s.replace(OR, "∨");
  s = s.replace(DERIVATIVE, "$1$2'=");
  if (s.includes("\\text"))
    s = s.replace(INTEGER, (whole, name) => (/integer/.test(whole) ? `, ${name}\\in\\mathbb{Z}` : `, ${name}`));
  if (s.includes("\\text")) s = s.replace(COUNTED, "\\text{$1}");
  return withoutWords(groupedUnits(s));
}
