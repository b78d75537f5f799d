/** The seeded order: a permutation per epoch, evenly distributed, the same for the same seed, resumed from one integer. */
import { describe, expect, test } from "bun:test";
import { createSampler, rowAt } from "../../src/data/order.ts";
import { InputError } from "../../src/errors.ts";

const order = (seed: number, epoch: number, numRows: number) =>
  Array.from({ length: numRows }, (_, position) => rowAt(seed, epoch, position, numRows));

/** Pearson's statistic: about `counts.length − 1` for even counts. */
function chiSquare(counts: readonly number[]): number {
  const expected = counts.reduce((a, b) => a + b, 0) / counts.length;
  return counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
}

/** A correct order stays below this except with a chance of one in a million (5 standard deviations above the mean). */
const bound = (cells: number) => cells - 1 + 5 * Math.sqrt(2 * (cells - 1)) + 10;

describe("rowAt", () => {
  test("each row once, whatever the number of rows", () => {
    for (const numRows of [1, 2, 3, 7, 255, 256, 257, 1000, 4096, 7473]) {
      const rows = order(42, 3, numRows);
      expect(rows.toSorted((a, b) => a - b)).toEqual(Array.from({ length: numRows }, (_, i) => i));
    }
  });

  test("another order for another seed or epoch, the same for the same", () => {
    const first = order(1, 0, 500);
    expect(order(1, 0, 500)).toEqual(first);
    for (const [seed, epoch] of [
      [1, 1],
      [2, 0],
      [0, 1],
      [2 ** 32 + 1, 0],
      [1, 2 ** 32],
    ] as const) {
      const other = order(seed, epoch, 500);
      expect(other.filter((row, i) => row === first[i]).length).toBeLessThan(12); // 1 by chance
    }
  });

  test("exactly these rows, so that a run of an older version resumes in its order", () => {
    expect(order(42, 0, 10)).toEqual([1, 3, 9, 4, 6, 5, 2, 7, 0, 8]);
  });

  test("every order of a few rows is equally likely", () => {
    for (const [numRows, orders] of [
      [2, 2],
      [3, 6],
      [4, 24],
    ] as const) {
      const counts = new Map<string, number>();
      for (let seed = 0; seed < 250 * orders; seed++) {
        const key = order(seed, 0, numRows).join();
        counts.set(key, (counts.get(key) ?? 0) + 1);
      }
      expect(counts.size).toBe(orders);
      expect(chiSquare([...counts.values()])).toBeLessThan(bound(orders));
    }
  });

  test("each row is equally likely to come first, or later", () => {
    const numRows = 100;
    for (const position of [0, 57, 99]) {
      const counts: number[] = Array(numRows).fill(0);
      for (let epoch = 0; epoch < 10_000; epoch++) counts[rowAt(7, epoch, position, numRows)]!++;
      expect(chiSquare(counts)).toBeLessThan(bound(numRows));
    }
  });

  test("neighbours in the file are not neighbours in the order", () => {
    let close = 0;
    for (let epoch = 0; epoch < 50; epoch++) {
      const rows = order(3, epoch, 1000);
      close += rows.filter((row, i) => i > 0 && Math.abs(row - rows[i - 1]!) === 1).length;
    }
    expect(close).toBeGreaterThan(50); // 100 by chance
    expect(close).toBeLessThan(160);
  });

  test("a large set costs no memory and no time", () => {
    const numRows = 3_000_000_007;
    const seen = new Set<number>();
    for (let position = 0; position < 10_000; position++) seen.add(rowAt(1, 0, position, numRows));
    expect(seen.size).toBe(10_000);
    expect(Math.max(...seen)).toBeGreaterThan(2_900_000_000);
    expect(Math.max(...seen)).toBeLessThan(numRows);
  });

  test("an invalid position is refused", () => {
    for (const [position, numRows] of [
      [-1, 5],
      [5, 5],
      [0, 0],
      [0, 2.5],
    ] as const)
      expect(() => rowAt(1, 0, position, numRows)).toThrow(RangeError);
  });
});

describe("createSampler", () => {
  test("shuffled: every epoch has every row, in a different order", () => {
    const sampler = createSampler({ numRows: 30, seed: 9, shuffle: true });
    const draws = Array.from({ length: 90 }, () => sampler.next());
    const epochs = [0, 1, 2].map((epoch) => draws.filter((draw) => draw.epoch === epoch).map(({ row }) => row));
    for (const rows of epochs) expect(new Set(rows).size).toBe(30);
    expect(epochs[0]).not.toEqual(epochs[1]!);
    expect(draws.map(({ position }) => position)).toEqual(Array.from({ length: 90 }, (_, i) => i));
  });

  test("in file order without shuffling", () => {
    const sampler = createSampler({ numRows: 3, seed: 9, shuffle: false });
    expect(Array.from({ length: 7 }, () => sampler.next().row)).toEqual([0, 1, 2, 0, 1, 2, 0]);
  });

  test("resumes from its position", () => {
    const options = { numRows: 13, seed: 5, shuffle: true };
    const whole = createSampler(options);
    const draws = Array.from({ length: 40 }, () => whole.next());
    const begun = createSampler(options);
    for (let i = 0; i < 17; i++) begun.next();
    expect(begun.position).toBe(17);
    const resumed = createSampler({ ...options, position: begun.position });
    expect(Array.from({ length: 23 }, () => resumed.next())).toEqual(draws.slice(17));
    expect(resumed.position).toBe(40);
  });

  test("no rows, or no position, is bad input", () => {
    expect(() => createSampler({ numRows: 0, seed: 1, shuffle: true })).toThrow(InputError);
    for (const position of [-1, 0.5, Number.NaN])
      expect(() => createSampler({ numRows: 3, seed: 1, shuffle: true, position })).toThrow(InputError);
  });
});
