/**
 * The rule-based reward: is the answer in this text the gold answer? One pure function over the two verifiers, for
 * numbers (gsm8k.ts) and for mathematical expressions, as in MATH (compare.ts). Leaves deadlines to the pool of reward
 * processes, but bounds its own work, so that in practice none is missed.
 */
import { equalAnswers } from "./compare.ts";
import { closingWords, unmarkedAnswer } from "./extract.ts";
import { givenReadings, goldReadings } from "./gold.ts";
import { equalGiven, equalNumbers, extractNumber, isNumber } from "./gsm8k.ts";
import { boxedAnswer, type Extraction, markedAnswer, type Readings } from "./marked.ts";

export type Verifier = "gsm8k" | "math";
export type { Extraction } from "./marked.ts";

/** `unparsed`: no answer was found in the text, which means something else for a model than a wrong answer. */
export type Reason = "equal" | "different" | "unparsed" | "timeout";

export interface Question {
  /** The right answer; a solution with `#### …` or `\boxed{…}` is reduced to it. */
  readonly gold: string;
  /** A model's whole text … */
  readonly response?: string;
  /** … or, instead, an answer already extracted. */
  readonly pred?: string;
  /** Absent: gsm8k if the gold is a number, else math. */
  readonly verifier?: Verifier;
  readonly extraction: Extraction;
}

export interface Verdict {
  readonly reward: 0 | 1;
  /** The answer as found, at most `MAX_SHOWN` characters of it; null if there is none. */
  readonly answer: string | null;
  readonly reason: Reason;
}

const MAX_SHOWN = 1000;
const shown = (answer: string): string => (answer.length > MAX_SHOWN ? `${answer.slice(0, MAX_SHOWN)}…` : answer);

/** Total: never throws, and takes time linear in the texts' lengths. */
export function verify(question: Question): Verdict {
  const golds = goldReadings(question.gold);
  const verifier = question.verifier ?? (golds.every(isNumber) ? "gsm8k" : "math");
  const readings = find(question, verifier);
  const equal = verifier === "math" ? equalAnswers : question.response === undefined ? equalGiven : equalNumbers;
  for (const gold of golds) {
    // An empty gold (MATH has two) is matched only by an empty box.
    const found = readings.find((answer) => equal(gold, answer) || (gold === "" && answer === ""));
    if (found !== undefined) return { reward: 1, answer: shown(found), reason: "equal" };
  }
  const answer = readings[0];
  if (answer === undefined || answer.trim() === "" || (verifier === "gsm8k" && !/\d/.test(answer))) {
    return { reward: 0, answer: null, reason: "unparsed" };
  }
  return { reward: 0, answer: shown(answer), reason: "different" };
}

function find({ response, pred, extraction }: Question, verifier: Verifier): Readings {
  if (response === undefined) return pred === undefined ? [] : givenReadings(pred);
  return verifier === "gsm8k" ? extractNumber(response, extraction) : extractMath(response, extraction);
}

/** Strict: the last `\boxed{…}`. Lenient: any mark, else what a reader would take, or the closing words ("… is even"). */
function extractMath(response: string, extraction: Extraction): Readings {
  if (extraction === "strict") return boxedAnswer(response);
  const marked = markedAnswer(response);
  if (marked.length > 0) return marked;
  return [unmarkedAnswer(response), closingWords(response)].filter((answer) => answer !== null);
}
