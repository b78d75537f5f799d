/** The paired difference of two evaluations: the interval by hand, its limits, and the exact test by counting. */
import { describe, expect, test } from "bun:test";
import { pairedDifference, signTest } from "../../src/eval/paired.ts";

/** Pairs of right or wrong, with the given count of each kind. */
function pairs(both: number, gained: number, lost: number, neither: number): [number[], number[]] {
  const kinds = [
    [1, 1, both],
    [0, 1, gained],
    [1, 0, lost],
    [0, 0, neither],
  ] as const;
  return [
    kinds.flatMap(([before, , count]) => Array(count).fill(before)),
    kinds.flatMap(([, after, count]) => Array(count).fill(after)),
  ];
}

describe("pairedDifference", () => {
  test("is the adjusted Wald interval of the four cells", () => {
    const [before, after] = pairs(53, 16, 8, 23);
    const { value, low, high, better, worse } = pairedDifference(before, after);
    // n = 100; b = 16.5, c = 8.5 of 102 after half a pair in each cell
    const d = (16.5 - 8.5) / 102;
    const error = Math.sqrt(16.5 + 8.5 - (16.5 - 8.5) ** 2 / 102) / 102;
    expect(value).toBeCloseTo(0.08, 14);
    expect(low).toBeCloseTo(d - 1.96 * error, 4);
    expect(high).toBeCloseTo(d + 1.96 * error, 4);
    expect([better, worse]).toEqual([16, 8]);
  });

  test("mirrors, and has a width if nothing changed", () => {
    const [before, after] = pairs(5, 7, 2, 6);
    const there = pairedDifference(before, after);
    const back = pairedDifference(after, before);
    expect(back.value).toBeCloseTo(-there.value, 14);
    expect(back.low).toBeCloseTo(-there.high, 14);
    expect(back.pValue).toBe(there.pValue);
    const same = pairedDifference(before, before);
    expect(same).toMatchObject({ value: 0, better: 0, worse: 0, pValue: 1 });
    expect(same.high).toBeGreaterThan(0);
    expect(same.low).toBe(-same.high);
  });

  test("takes shares of several answers", () => {
    const { value, better, worse } = pairedDifference([0.25, 0.5, 1], [0.75, 0.5, 0.75]);
    expect(value).toBeCloseTo(0.25 / 3, 14);
    expect([better, worse]).toEqual([1, 1]);
  });

  test("refuses other problems", () => {
    expect(() => pairedDifference([1], [1, 0])).toThrow(RangeError);
    expect(() => pairedDifference([], [])).toThrow(RangeError);
  });
});

test("signTest counts the coin tosses that are at least as uneven", () => {
  for (let n = 0; n <= 10; n++) {
    for (let a = 0; a <= n; a++) {
      let extreme = 0;
      for (let bits = 0; bits < 2 ** n; bits++) {
        const heads = Array.from({ length: n }, (_, i) => (bits >> i) & 1).filter(Boolean).length;
        if (Math.abs(2 * heads - n) >= Math.abs(2 * a - n)) extreme++;
      }
      expect(signTest(a, n - a), `${a} of ${n}`).toBeCloseTo(extreme / 2 ** n, 12);
    }
  }
  expect(signTest(2000, 1)).toBeLessThan(1e-300 + Number.EPSILON);
});
