/**
 * Asks the verifiers in the reward processes whether each completion of a batch matches its row's gold answer. Leaves
 * to the caller what the verdict is used for: as a reward, or as input to a reward by length.
 */

import { isMathematical } from "../answers/mathematical.ts";
import type { Extraction, Reason, Verdict } from "../answers/verify.ts";
import type { VerifierReward } from "../config/reward-names.ts";
import { RunError } from "../errors.ts";
import type { Connection } from "./pool/connection.ts";
import type { Item } from "./pool/protocol.ts";

/** By completion; null without a gold answer, or under TRL's names without one that can be parsed. */
export interface Judgement {
  /** Under lenient extraction. */
  readonly rewards: readonly (0 | 1 | null)[];
  readonly strict: readonly (0 | 1 | null)[];
  readonly reasons: readonly (Reason | null)[];
}

export const TIMEOUT: Verdict = { reward: 0, answer: null, reason: "timeout" };
const UNPARSED: Verdict = { reward: 0, answer: null, reason: "unparsed" };

const END_OF_THOUGHT = "</think>";

/** The part of a completion that is judged; undefined: it contains no answer. */
function answerPart(verifier: VerifierReward, completion: string): string | undefined {
  if (verifier !== "reasoning_accuracy") return completion;
  const end = completion.lastIndexOf(END_OF_THOUGHT);
  return end < 0 ? undefined : completion.slice(end + END_OF_THOUGHT.length);
}

/** An answer that cannot be judged in time is wrong, with the reason "timeout". */
export async function judge(
  connection: Connection,
  verifier: VerifierReward,
  completions: readonly string[],
  golds: readonly (string | null)[],
): Promise<Judgement> {
  const asTrl = verifier === "accuracy" || verifier === "reasoning_accuracy";
  const asked: number[] = [];
  const items: Item[] = [];
  const pairs: (readonly Verdict[] | null)[] = golds.map(() => null);
  for (const [i, gold] of golds.entries()) {
    if (gold === null || (asTrl && !isMathematical(gold))) continue;
    const response = answerPart(verifier, completions[i]!);
    if (response === undefined) {
      pairs[i] = [UNPARSED, UNPARSED];
      continue;
    }
    asked.push(i);
    const item = { gold, response };
    items.push(verifier === "auto" ? item : { ...item, verifier: verifier === "gsm8k" ? "gsm8k" : "math" });
  }
  const found = await verdicts(connection, items, ["lenient", "strict"]);
  for (const [k, i] of asked.entries()) pairs[i] = found[k]!.length > 0 ? found[k]! : [TIMEOUT, TIMEOUT];
  const [lenient, strict] = [0, 1].map((extraction) => pairs.map((pair) => pair?.[extraction]));
  return {
    rewards: lenient!.map((verdict) => verdict?.reward ?? null),
    strict: strict!.map((verdict) => verdict?.reward ?? null),
    reasons: lenient!.map((verdict) => verdict?.reason ?? null),
  };
}

/** The verdicts of each item, one per extraction, or none if it could not be finished. */
export async function verdicts(
  connection: Connection,
  items: readonly Item[],
  extractions: readonly Extraction[],
): Promise<readonly (readonly Verdict[])[]> {
  if (items.length === 0) return [];
  const answer = await connection.ask({ kind: "verify", items, extractions });
  if (answer.kind !== "verdicts") return items.map(() => []);
  return answer.results.map((result) => {
    if (!("cause" in result)) return result;
    if (result.cause === "start") throw new RunError(result.message);
    return [];
  });
}
