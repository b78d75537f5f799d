/** maj@k compared with the actual vote over every subset in every order; the grouping of equal answers. */
import { describe, expect, test } from "bun:test";
import { verify } from "../../src/answers/verify.ts";
import { majAtK, type Votes } from "../../src/eval/maj-at-k.ts";
import { type Ballot, countVotes, type Judge } from "../../src/eval/votes.ts";

/** Labels of n answers: "right", "wrong0" …, and null for those without a vote. */
function labels({ samples, right, wrong }: Votes): (string | null)[] {
  const voting = [...Array(right).fill("right"), ...wrong.flatMap((size, i) => Array(size).fill(`wrong${i}`))];
  return [...voting, ...Array(samples - voting.length).fill(null)];
}

/** Whether these answers, in this order, vote for the right one: the largest group wins, the first on a tie. */
function elects(answers: readonly (string | null)[]): number {
  const sizes = new Map<string, number>();
  for (const answer of answers) if (answer !== null) sizes.set(answer, (sizes.get(answer) ?? 0) + 1);
  const most = Math.max(0, ...sizes.values());
  return [...sizes].find(([, size]) => size === most)?.[0] === "right" ? 1 : 0;
}

/** The mean of the vote over every ordered choice of k of the answers. */
function counted(votes: Votes, k: number): number {
  const all = labels(votes);
  let [sum, choices] = [0, 0];
  const choose = (chosen: readonly number[]): void => {
    if (chosen.length === k) {
      sum += elects(chosen.map((i) => all[i]!));
      choices++;
      return;
    }
    for (let i = 0; i < all.length; i++) if (!chosen.includes(i)) choose([...chosen, i]);
  };
  choose([]);
  return sum / choices;
}

/** Every way to write n as a sum of positive numbers that do not increase. */
function partitions(n: number, largest = n): number[][] {
  if (n === 0) return [[]];
  return Array.from({ length: Math.min(n, largest) }, (_, i) => i + 1).flatMap((first) =>
    partitions(n - first, first).map((rest) => [first, ...rest]),
  );
}

describe("majAtK", () => {
  test("equals the vote over all subsets and orders, for every way six answers can agree", () => {
    for (let samples = 1; samples <= 6; samples++)
      for (let right = 0; right <= samples; right++)
        for (let voting = 0; voting <= samples - right; voting++)
          for (const wrong of partitions(voting))
            for (let k = 1; k <= samples; k++) {
              const votes = { samples, right, wrong };
              expect(majAtK(votes, k), `${JSON.stringify(votes)} k ${k}`).toBeCloseTo(counted(votes, k), 12);
            }
  });

  test("k = 1 is the share of right answers, k = n the vote of all", () => {
    expect(majAtK({ samples: 8, right: 3, wrong: [2, 2] }, 1)).toBeCloseTo(3 / 8, 14);
    expect(majAtK({ samples: 8, right: 3, wrong: [2, 2] }, 8)).toBe(1);
    expect(majAtK({ samples: 8, right: 3, wrong: [4] }, 8)).toBe(0);
    expect(majAtK({ samples: 8, right: 3, wrong: [3] }, 8)).toBeCloseTo(1 / 2, 14);
    expect(majAtK({ samples: 4, right: 0, wrong: [] }, 2)).toBe(0);
  });

  test("stays exact for many answers: a majority of two groups is a hypergeometric tail", () => {
    const value = majAtK({ samples: 1000, right: 480, wrong: [520] }, 101);
    const log = (n: number, k: number) => {
      let sum = 0;
      for (let i = 1; i <= k; i++) sum += Math.log((n - k + i) / i);
      return sum;
    };
    let tail = 0;
    for (let x = 51; x <= 101; x++) tail += Math.exp(log(480, x) + log(520, 101 - x) - log(1000, 101));
    expect(value).toBeCloseTo(tail, 10);
  });

  test("refuses meaningless arguments", () => {
    for (const [votes, k] of [
      [{ samples: 4, right: 2, wrong: [3] }, 1],
      [{ samples: 4, right: 2, wrong: [] }, 5],
      [{ samples: 4, right: 2, wrong: [] }, 0],
      [{ samples: 4, right: -1, wrong: [] }, 1],
    ] as const)
      expect(() => majAtK(votes, k)).toThrow(RangeError);
  });
});

describe("countVotes", () => {
  const judge: Judge = async (items) => items.map((item) => verify({ ...item, extraction: "lenient" }));
  const ballot = (verifier: Ballot["verifier"], gold: string, answers: readonly (string | null)[]): Ballot => ({
    verifier,
    answers: answers.map((answer) => ({
      answer,
      right: answer !== null && verify({ gold, pred: answer, verifier, extraction: "lenient" }).reward === 1,
    })),
  });

  test("answers that the verifier calls equal are one group; answers that were not found do not vote", async () => {
    const ballots = [
      ballot("gsm8k", "12", ["12", "7", "7.0", "$7", "12.00", null, "1,000", "1000"]),
      ballot("math", "\\frac{1}{2}", ["0.5", "\\frac{2}{3}", "2/3", "\\frac{4}{6}", "3", "x"]),
      ballot("gsm8k", "1", [null, null]),
    ];
    expect(await countVotes(ballots, judge)).toEqual([
      { samples: 8, right: 2, wrong: [3, 2] },
      { samples: 6, right: 1, wrong: [3, 1, 1] },
      { samples: 2, right: 0, wrong: [] },
    ]);
  });

  test("equal texts are not compared again", async () => {
    const asked: number[] = [];
    const counting: Judge = (items) => {
      asked.push(items.length);
      return judge(items);
    };
    const answers = [...Array(50).fill("3"), ...Array(30).fill("4"), ...Array(20).fill("5")];
    const [votes] = await countVotes([ballot("gsm8k", "9", answers)], counting);
    expect(votes!.wrong).toEqual([50, 30, 20]);
    expect(asked).toEqual([2, 1]);
  });
});
