/**
 * Which answers to a problem are equal, for the majority vote (maj-at-k.ts). Equality is the verifier's, under the
 * extraction that found the answers, and is computed in the reward processes, since the answers are model output.
 * Leaves out the vote itself.
 */

import type { Verdict } from "../answers/verify.ts";
import type { Item } from "../rewards/pool/protocol.ts";
import type { Votes } from "./maj-at-k.ts";

/** The answers found to one problem. */
export interface Ballot {
  /** Per response: the answer found (null: none) and whether it equals the gold answer. */
  readonly answers: readonly { readonly answer: string | null; readonly right: boolean }[];
  readonly verifier: "gsm8k" | "math";
}

/** Judges extracted answers, in order; `RewardPool.verify` with its extraction bound. */
export type Judge = (items: readonly Item[]) => Promise<readonly Verdict[]>;

/**
 * Counts the groups of equal answers to each problem. All answers that equal the gold answer are one group. Wrong ones
 * are first grouped by their text; then each remaining group absorbs those that the verifier calls equal to it, starting
 * with the one whose first answer came first. All problems are processed together, one round per group.
 */
export async function countVotes(ballots: readonly Ballot[], judge: Judge): Promise<Votes[]> {
  const groups = ballots.map(() => [] as number[]);
  let open = ballots.map((ballot) => wrongTexts(ballot));
  while (open.some((texts) => texts.length > 0)) {
    const items = open.flatMap(([leader, ...others], i) =>
      others.map(({ text }): Item => ({ gold: leader!.text, pred: text, verifier: ballots[i]!.verifier })),
    );
    const verdicts = items.length === 0 ? [] : await judge(items);
    let at = 0;
    open = open.map(([leader, ...others], i) => {
      if (leader === undefined) return [];
      let size = leader.count;
      const rest = others.filter(({ count }) => {
        const same = verdicts[at++]!.reward === 1;
        if (same) size += count;
        return !same;
      });
      groups[i]!.push(size);
      return rest;
    });
  }
  return ballots.map(({ answers }, i) => ({
    samples: answers.length,
    right: answers.filter(({ right }) => right).length,
    wrong: groups[i]!,
  }));
}

interface WrongText {
  readonly text: string;
  count: number;
}

/** The different texts of wrong answers with their counts, in order of first occurrence. */
function wrongTexts({ answers }: Ballot): WrongText[] {
  const texts = new Map<string, WrongText>();
  for (const { answer, right } of answers) {
    if (right || answer === null) continue;
    const known = texts.get(answer);
    if (known) known.count++;
    else texts.set(answer, { text: answer, count: 1 });
  }
  return [...texts.values()];
}
