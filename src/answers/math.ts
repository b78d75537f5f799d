/**
 * The verifier for mathematical answers, as in MATH.
 *
 * Strict extraction: the last `\boxed{…}` (boxes joined by "and", "or" or a comma are one answer). Lenient extraction:
 * that, or `####`; else "the answer is …", a number in a sentence behind the last formula, that formula, the last bold
 * text, a closing "= …", the last number; and the last word, for answers that are one ("… the function is even").
 * What is compared, and how, is in compare.ts; the texts are rewritten by normalize.ts first.
 */
import { boxedAnswer, closingWords, markedAnswer, type Readings, unmarkedAnswer } from "./extract.ts";
import type { Extraction } from "./gsm8k.ts";

export { equalAnswers as equalMath } from "./compare.ts";

/** The answer in a model's whole text. */
export function extractMath(response: string, extraction: Extraction): Readings {
  if (extraction === "strict") return boxedAnswer(response);
  const marked = markedAnswer(response);
  if (marked.length > 0) return marked;
  return [unmarkedAnswer(response), closingWords(response)].filter((answer) => answer !== null);
}
