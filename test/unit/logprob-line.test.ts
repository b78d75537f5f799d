/** The limit for bfloat16's logprobs: a case on the limit, and each way to exceed it. */
import { describe, expect, test } from "bun:test";
import { bfloat16Line, logprobsApart, overBfloat16Line } from "../e2e/logprob-line.ts";

/** Differences as one completion against zeros. */
const over = (...differences: readonly number[]) =>
  overBfloat16Line(logprobsApart([differences], [differences.map(() => 0)]));
const many = (count: number, value: number) => new Array<number>(count).fill(value);

describe("difference", () => {
  test("is counted over all completions, with either sign", () => {
    const apart = logprobsApart([Float32Array.of(-1, -2), [-3]], [[-1.5, -2], Float32Array.of(-2.875)]);
    expect(apart).toEqual({ tokens: 3, mean: 0.625 / 3, beyond: 2, worst: 0.5 });
  });

  test("a difference of exactly a tenth is not beyond it", () => {
    expect(logprobsApart([[bfloat16Line.most]], [[0]]).beyond).toBe(0);
    expect(logprobsApart([[bfloat16Line.most + 1e-9]], [[0]]).beyond).toBe(1);
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])("%d is infinitely far", (x) => {
    const infinite = { tokens: 1, mean: Number.POSITIVE_INFINITY, beyond: 1, worst: Number.POSITIVE_INFINITY };
    expect(logprobsApart([[x]], [[-1]])).toEqual(infinite);
    expect(logprobsApart([[-1]], [[x]])).toEqual(infinite);
    expect(over(x)).toHaveLength(3);
  });

  test("different completions or lengths cannot be compared", () => {
    expect(() => logprobsApart([[0]], [[0], [0]])).toThrow("1 completions, the reference has 2");
    expect(() => logprobsApart([[0, 0]], [[0]])).toThrow("completion 0 has 2 tokens, the reference 1");
  });
});

describe("the limit", () => {
  test("is inclusive", () => {
    expect(over(...many(999, 0.019), 0.249)).toEqual([]);
    expect(over(...many(10, bfloat16Line.mean))).toEqual([]);
  });

  test("is not met without tokens", () => expect(over()).toEqual(["no tokens were compared"]));

  test("the mean", () => {
    expect(over(...many(8, 0.03125))).toEqual(["the mean is 0.03125, allowed is 0.02"]);
  });

  test("999 of 1000 tokens; of fewer, all", () => {
    expect(over(...many(1998, 0.001), 0.2, 0.2)).toEqual([]);
    expect(over(...many(1997, 0.001), 0.2, 0.2, 0.2)).toEqual(["3 of 2000 tokens are more than 0.1 apart"]);
    expect(over(...many(998, 0.001), 0.2)).toEqual(["1 of 999 tokens are more than 0.1 apart"]);
  });

  test("any token", () => {
    expect(over(...many(4999, 0.001), 0.251)).toEqual(["one token is 0.251 apart, allowed is 0.25"]);
  });
});
