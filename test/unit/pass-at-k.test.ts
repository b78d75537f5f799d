import { describe, expect, test } from "bun:test";
import { meanOverProblems, meanPassAtK, passAtK, wilson } from "../../src/eval/pass-at-k.ts";

/** The share of all k-subsets of n answers (c of them right) that contain a right one: by counting them. */
function counted(n: number, c: number, k: number): number {
  let subsets = 0;
  let hits = 0;
  for (let bits = 0; bits < 2 ** n; bits++) {
    const members = Array.from({ length: n }, (_, i) => i).filter((i) => bits & (1 << i));
    if (members.length !== k) continue;
    subsets++;
    if (members.some((i) => i < c)) hits++;
  }
  return hits / subsets;
}

describe("passAtK", () => {
  test("equals the share of subsets with a right answer", () => {
    for (let n = 1; n <= 7; n++) {
      for (let c = 0; c <= n; c++) {
        for (let k = 1; k <= n; k++) {
          expect(passAtK({ samples: n, correct: c }, k), `${n} ${c} ${k}`).toBeCloseTo(counted(n, c, k), 13);
        }
      }
    }
  });

  test("doesn't overflow", () => {
    expect(passAtK({ samples: 100_000, correct: 1 }, 50_000)).toBeCloseTo(0.5, 9);
  });

  test("refuses meaningless arguments", () => {
    for (const [samples, correct, k] of [
      [4, 5, 1],
      [4, -1, 1],
      [4, 2, 5],
      [4, 2, 0],
      [4, 1.5, 1],
      [0, 0, 1],
    ] as const) {
      expect(() => passAtK({ samples, correct }, k)).toThrow(RangeError);
    }
  });
});

describe("wilson", () => {
  test("published example: 15 of 148 (Newcombe 1998, Table I)", () => {
    const { low, high } = wilson(15, 148);
    expect(low).toBeCloseTo(0.0624, 4);
    expect(high).toBeCloseTo(0.1605, 4);
  });

  test("has a width at 0 and at 1, stays in [0, 1], and mirrors", () => {
    const none = wilson(0, 20);
    const all = wilson(20, 20);
    expect(none.low).toBe(0);
    expect(none.high).toBeCloseTo(0.1611, 4);
    expect(all.high).toBe(1);
    expect(all.low).toBeCloseTo(1 - none.high, 14);
  });

  test("refuses no trials and impossible counts", () => {
    for (const [successes, n] of [
      [0, 0],
      [3, 2],
      [-1, 2],
      [Number.NaN, 2],
    ] as const) {
      expect(() => wilson(successes, n)).toThrow(RangeError);
    }
  });
});

test("meanPassAtK: accuracy for one answer each, the mean over problems otherwise", () => {
  const single = [1, 0, 1, 1].map((correct) => ({ samples: 1, correct }));
  expect(meanPassAtK(single, 1)).toEqual(wilson(3, 4));
  const problems = [
    { samples: 4, correct: 2 },
    { samples: 4, correct: 0 },
    { samples: 8, correct: 8 },
  ];
  expect(meanPassAtK(problems, 2).value).toBeCloseTo((5 / 6 + 0 + 1) / 3, 14);
  expect(() => meanPassAtK(problems, 5)).toThrow(RangeError);
  expect(() => meanPassAtK([], 1)).toThrow(RangeError);
});

describe("meanOverProblems", () => {
  test("only right or wrong: Wilson's interval of a share", () => {
    expect(meanOverProblems([1, 0, 1, 1, 0], 8)).toEqual(wilson(3, 5));
    expect(meanOverProblems([1, 1], 8)).toEqual(wilson(2, 2));
  });

  test("values that vary less have a narrower interval, but still a width", () => {
    const spread = meanOverProblems([0, 1, 0, 1], 16);
    const close = meanOverProblems([0.4, 0.6, 0.4, 0.6], 16);
    const same = meanOverProblems([0.5, 0.5, 0.5, 0.5], 16);
    expect(close.high - close.low).toBeLessThan(spread.high - spread.low);
    expect(same).toEqual(wilson(32, 64));
    expect(close.value).toBeCloseTo(0.5, 14);
  });

  test("holds the true mean about 95 times in 100", () => {
    // Problems of difficulty u² (mean 1/3), 8 answers each, pass@1 over 60 problems; a fixed sequence of numbers.
    let state = 1;
    const draw = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
    let held = 0;
    for (let run = 0; run < 1000; run++) {
      const values = Array.from({ length: 60 }, () => {
        const p = draw() ** 2;
        return Array.from({ length: 8 }, () => (draw() < p ? 1 : 0)).reduce<number>((sum, x) => sum + x, 0) / 8;
      });
      const { low, high } = meanOverProblems(values, 8);
      if (low <= 1 / 3 && 1 / 3 <= high) held++;
    }
    expect(held).toBeGreaterThan(925);
    expect(held).toBeLessThan(975);
  });

  test("refuses no problems and values that are not shares", () => {
    for (const values of [[], [1.2], [-0.1], [Number.NaN]])
      expect(() => meanOverProblems(values, 1)).toThrow(RangeError);
  });
});
