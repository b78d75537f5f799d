/**
 * The verifier for answers that are numbers, as in GSM8K.
 *
 * Strict extraction: the text marks its answer with `#### N` or `\boxed{N}` (whichever comes last) and N is a number.
 * Lenient extraction: the mark if there is one; else "A: N", "The answer is N", the last bold text with a number,
 * the last number of the text. Numbers are compared as exact fractions: `$1,200.00`, `1200`, `1.2e3`, `2400/2` and
 * `1200 dollars` are the same; 5 and 5.001 are not, nor is 3 found at the end of an unmarked `1e3`, `10^3` or `3:30`.
 * In a whole response `15%` is 15, since these golds never name what they count: the question does. For an answer given
 * without its question, a percent sign that the gold lacks makes a difference. A marked answer that is more than a
 * numeral is left to compare.ts.
 */
import { equalAnswers } from "./compare.ts";
import { announcedAnswer, boldAnswer, remarkedAnswer } from "./extract.ts";
import { type Extraction, markedAnswer, type Readings } from "./marked.ts";
import { trimPunctuation } from "./normalize.ts";
import { changesValue } from "./phrases.ts";
import { type Rational, ratDiv, ratEquals, ratFromDecimal } from "./rational.ts";
import { unitOf, unitsDiffer } from "./units.ts";
import { firstNumber, lastNumber } from "./written-numbers.ts";

const NUMERAL = /^([-+]?)([\d,]*\.?\d*(?:[eE][-+]?\d{1,3})?)(?:\/(\d[\d,]*))?%?$/;

/** A numeral as people write it (`-$1,234.50`, `3/4`, `15%`, `12.`), exactly; null for anything else. */
export function parseNumeral(text: string): Rational | null {
  if (text.length > 200) return null;
  const plain = trimPunctuation(
    text
      .replace(/[−–]/g, "-")
      .replace(/(?<=\d)\s+(?=\d(?!\d\d(?!\d)))/g, "_")
      .replace(/\\[,!$%]|[$€£\s*]/g, "")
      .replace(/\{,\}/g, ","),
  );
  const match = NUMERAL.exec(plain);
  if (match === null) return null;
  const [, sign = "", digits = "", below] = match;
  if (/,/.test(digits) && !/^\d{1,3}(?:,\d{2,3})*(?:\.\d*)?$/.test(digits)) return null;
  const value = ratFromDecimal(`${sign}${digits.replaceAll(",", "")}`);
  const divisor = below === undefined ? { n: 1n, d: 1n } : ratFromDecimal(below.replaceAll(",", ""));
  return value && divisor && ratDiv(value, divisor);
}

/** Whether a gold answer is a plain number, which selects this verifier. */
export const isNumber = (gold: string): boolean => parseNumeral(gold) !== null;

/** Whether `answer` is the number `gold`. */
export function equalNumbers(gold: string, answer: string): boolean {
  if (unitOf(gold) !== null && unitOf(answer) !== null && unitsDiffer(gold, answer)) return false;
  const expected = parseNumeral(gold);
  const given = parseNumeral(answer) ?? parseNumeral(withoutUnit(answer));
  if (expected !== null && given !== null && ratEquals(expected, given)) return true;
  return equalAnswers(gold, answer);
}

const PERCENT = /[%％]|per ?cent|(?<![a-z])pct(?![a-z])/i;

/** As `equalNumbers`, for an answer given without its question: 5% is not 5. */
export const equalGiven = (gold: string, answer: string): boolean =>
  PERCENT.test(answer) && !PERCENT.test(gold) ? equalAnswers(gold, answer) : equalNumbers(gold, answer);

/** "18 clips" as 18: a number followed only by words without a meaning in mathematics. */
function withoutUnit(answer: string): string {
  const match = /^([-−+$\s]*\d[\d,.]*(?:\/\d+)?)\s*([a-zA-Z]{2,}\.?(?:\s+[a-zA-Z]{2,}\.?)*)$/.exec(
    trimPunctuation(answer.slice(0, 200)),
  );
  return match === null || changesValue(match[2]!) || /\b(?:pi|sqrt|sin|cos|tan|log|ln|exp|and|or)\b/i.test(match[2]!)
    ? ""
    : match[1]!;
}

/** The answer in a model's whole text. */
export function extractNumber(response: string, extraction: Extraction): Readings {
  const marked = markedAnswer(response).filter((answer) => answer !== "");
  if (extraction === "strict") return marked.filter((answer) => /\d/.test(answer));
  if (marked.length > 0) return marked;
  const announced = announcedAnswer(response);
  const remarked = announced === null ? remarkedAnswer(response) : null;
  if (remarked !== null) return [remarked];
  const found =
    (announced && firstNumber(announced)) ?? firstNumber(boldAnswer(response) ?? "") ?? lastNumber(response);
  return found === null ? [] : [found];
}
