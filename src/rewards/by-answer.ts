/**
 * The rewards `gsm8k` and `math` as functions, for programs: to pass on in `rewardFuncs`, where they mean the built-in ones,
 * or to call within a reward of one's own. In a run, the built-in ones are judged in reward processes (judge.ts).
 */
import { answerText, goldOf } from "../answers/gold.ts";
import { type Verifier, verify } from "../answers/verify.ts";
import type { RewardFunction } from "./pool/functions.ts";

/** Columns with the gold answer, in the order in which they are looked for. */
const goldColumns = ["answer", "solution", "gold"] as const;

/** 1 for the right answer, 0 for a wrong or missing one, null if the row has no gold answer. */
function judged({ completions, ...columns }: Parameters<RewardFunction>[0], verifier: Verifier): (number | null)[] {
  const column = goldColumns.find((name) => columns[name] !== undefined);
  const golds = column === undefined ? [] : (columns[column] as readonly unknown[]);
  return completions.map((response, i) => {
    const text = answerText(golds[i]);
    const gold = text === null ? null : goldOf(text);
    return gold === null ? null : verify({ gold, response, verifier, extraction: "lenient" }).reward;
  });
}

/** Numbers: is the number that the completion ends on that of the column `answer` (`solution`, `gold`)? */
export function gsm8k(args: Parameters<RewardFunction>[0]): (number | null)[] {
  return judged(args, "gsm8k");
}

/** Mathematical expressions: is the completion's answer equal to that of the column `answer` (`solution`, `gold`)? */
export function math(args: Parameters<RewardFunction>[0]): (number | null)[] {
  return judged(args, "math");
}
