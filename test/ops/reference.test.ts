/** The references for sampling, checked against published values. */
import { expect, test } from "bun:test";
import {
  chiSquare,
  chiSquareLimit,
  cumulative,
  philox,
  tokenAt,
  uniformOf,
} from "../../bench/ops/reference-sampling.ts";

test("the reference's Philox4x32-10 gives the known answers of Random123", () => {
  const ones = 0xffffffff;
  expect(philox([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  expect(philox([ones, ones, ones, ones], [ones, ones])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
  expect(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toEqual([
    0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
  ]);
});

test("53 bits become a number in [0, 1)", () => {
  expect(uniformOf([0, 0, 0, 0])).toBe(0);
  expect(uniformOf([0xffffffff, 0xffffffff, 0, 0])).toBe(1 - 2 ** -53);
  expect(uniformOf([0x80000000, 0, 0, 0])).toBe(0.5);
});

test("the token of a random number, and its distance from drawing another", () => {
  const sums = cumulative(Float64Array.of(0, 0.25, 0, 0.5, 0.25, 0));
  expect([0, 0.2, 0.25, 0.7499, 0.75, 0.9999].map((u) => tokenAt(sums, u).id)).toEqual([1, 1, 3, 3, 4, 4]);
  expect([0, 0.2, 0.25, 0.3125, 0.5, 0.875].map((u) => tokenAt(sums, u).margin)).toEqual(
    [0.25, 0.25 - 0.2, 0, 0.0625, 0.25, 0.125], // no token is below the first
  );
  expect(() => tokenAt(sums, 1)).toThrow("the probabilities sum to 1, not above 1");
});

test("χ² quantiles for the test of frequencies", () => {
  // tables give 23.5 for 4 and 161.3 for 100 degrees of freedom
  expect(Math.abs(chiSquareLimit(4) - 23.5)).toBeLessThan(0.7);
  expect(Math.abs(chiSquareLimit(100) - 161.3)).toBeLessThan(0.5);
  expect(chiSquare(Float64Array.of(50, 50), Float64Array.of(0.5, 0.5))).toEqual({ value: 0, freedom: 1 });
  expect(chiSquare(Float64Array.of(70, 30), Float64Array.of(0.5, 0.5)).value).toBeCloseTo(16, 10);
  expect(chiSquare(Float64Array.of(99, 1), Float64Array.of(1, 0)).value).toBe(Number.POSITIVE_INFINITY);
});
