/** The verifier for numbers: numerals, strict and lenient extraction. */
import { describe, expect, test } from "bun:test";
import { parseNumeral } from "../../src/answers/gsm8k.ts";
import { type Extraction, type Verdict, verify } from "../../src/answers/verify.ts";

const judge = (gold: string, response: string, extraction: Extraction = "lenient"): Verdict =>
  verify({ gold, response, extraction, verifier: "gsm8k" });

describe("numerals", () => {
  test.each([
    ["18", "18"],
    ["18.0", "18"],
    ["18.", "18"],
    ["$1,234.50", "1234.5"],
    ["1,234,567", "1234567"],
    ["−7", "-7"],
    ["-$7", "-7"],
    ["3/4", "0.75"],
    ["6 / 8", "0.75"],
    ["15%", "15"],
    ["\\$20", "20"],
    ["10{,}000", "10000"],
    ["1.2e3", "1200"],
    [".5", "1/2"],
    ["0.1", "1/10"],
  ])("%s is %s", (text, same) => {
    expect(parseNumeral(text)).not.toBeNull();
    expect(parseNumeral(text)).toEqual(parseNumeral(same));
  });

  test.each(["", "-", ".", ",", "1,2", "1,23,4", "12 apples", "1/0", "x", "1.2.3", "--1", "1e99999", "0x10", "٣"])(
    "%p is not a numeral",
    (text) => expect(parseNumeral(text)).toBeNull(),
  );

  test("are exact", () => {
    expect(judge("0.3", "#### 0.30000000000000001").reward).toBe(1); // the digits of a float are a rounding
    expect(judge("9007199254740993", "#### 9007199254740992").reward).toBe(0);
    expect(judge("5", "#### 5.001").reward).toBe(0);
    expect(judge("0.333", "#### 1/3").reward).toBe(0);
  });
});

describe("strict extraction", () => {
  test.each([
    ["so 9 + 9 = 18\n#### 18", "equal"],
    ["#### $18.00", "equal"],
    ["#### 17\n#### 18", "equal"],
    ["#### 18\n#### 17", "different"],
    ["It is \\boxed{18}.", "equal"],
    ["\\boxed{17} or rather #### 18", "equal"],
    ["#### 17 or rather \\boxed{18}", "equal"],
    ["\\boxed{18 \\text{ eggs}}", "equal"],
    ["The answer is 18.", "unparsed"],
    ["18", "unparsed"],
    ["####", "unparsed"],
    ["#### eighteen", "unparsed"],
    ["", "unparsed"],
  ] as const)("%p: %s", (response, reason) => expect(judge("18", response, "strict").reason).toBe(reason));
});

describe("lenient extraction", () => {
  test.each([
    ["17 was wrong.\n#### 18", "18"],
    ["A: 18", "18"],
    ["5 + 5 = 10\nA: 18 dollars\n", "18"],
    ["**Answer:** 18", "18"],
    ["The answer is 18. I used 3 steps.", "18"],
    ["The answer is $18.00 per day, from 9 eggs.", "18.00"],
    ["The final answer is: **18**", "18"],
    ["So the answer to the question is 9 * 2 = 18.", "18"],
    ["She makes **$18** every day, for 7 days", "18"],
    ["16 - 3 - 4 = 9, and 9 * 2 = 18", "18"],
    ["She has 18.", "18"],
    ["She has 10-3+11, so 18!", "18"],
    ["It costs 1,018 - 1,000 = 18 dollars", "18"],
    ["Answer: 18<|im_end|>", "18"],
    ["She sells 18 clips", "18"],
    ["#### 18 clips", "18 clips"],
    ["\\boxed{18\\text{ dollars}}", "18\\text{ dollars}"],
    ["\\boxed{9 \\times 2}", "9 \\times 2"],
    ["\\boxed{x = 18}", "x = 18"],
  ])("%p has %p", (response, answer) => {
    expect(judge("18", response)).toEqual({ reward: 1, answer, reason: "equal" });
  });

  test.each([
    ["#### 17\nThe answer is 18", "17"],
    ["\\boxed{18x}", "18x"],
    ["\\boxed{18\\sqrt{2}}", "18\\sqrt{2}"],
    ["\\boxed{1, 18}", "1, 18"],
    ["It went from 18 to 5", "5"],
  ])("%p is not 18 but %p", (response, answer) => {
    expect(judge("18", response)).toEqual({ reward: 0, answer, reason: "different" });
  });

  test.each([
    "#### 18 million",
    "#### 18 dozen",
    "#### 18 hundred",
    "#### 18 half",
    "#### 18 squared",
    "#### 18 19",
    "#### 17, 18",
    "#### 17 or 18",
    "#### 18 = 17",
    "#### 17 = 18",
    "#### 18 ± 1",
    "#### 18!",
    "#### 18 apples, 19 pears",
    "#### not 18",
  ])("%p is not 18, in either extraction", (response) => {
    for (const extraction of ["strict", "lenient"] as const) expect(judge("18", response, extraction).reward).toBe(0);
    expect(judge("1819", response).reward).toBe(0);
  });

  test.each(["#### 18 more apples", "#### 18 times", "#### 18 in all", "#### 18 minutes", "#### $18 each"])(
    "%p is 18",
    (response) => expect(judge("18", response).reward).toBe(1),
  );

  test("a dash between numbers is not a sign", () => expect(judge("18", "pages 10-18").reward).toBe(1));

  test("a fraction, a negative number and a thousand are found completely", () => {
    expect(judge("3/4", "so she ate 3/4").reward).toBe(1);
    expect(judge("-5", "It is now −5 degrees").reward).toBe(1);
    expect(judge("1,200,000", "In all 1200000.").reward).toBe(1);
    expect(judge("1200", "He paid $1,200.00, in full").reward).toBe(1);
  });

  test.each(["", "I do not know.", "\n\n", "####", "the answer is unknown"])("%p is unparsed", (response) => {
    expect(judge("18", response)).toEqual({ reward: 0, answer: null, reason: "unparsed" });
  });
});

describe("an answer given on its own", () => {
  const alone = (gold: string, pred: string, verifier?: "gsm8k"): number =>
    verify({ gold, pred, extraction: "lenient", verifier }).reward;

  test.each([
    "7%",
    "7\\%",
    "7 %",
    "7 percent",
    "7 per cent",
    "7 pct",
    "$7\\%$",
    "\\boxed{7\\%}",
    "\\boxed{7}\\%",
    "It grew by 7%.",
  ])("%p is not 7", (pred) => {
    expect([alone("7", pred), alone("7", pred, "gsm8k")]).toEqual([0, 0]);
    expect(alone("7%", pred)).toBe(1);
  });
  test("other notations of 7, and a percentage given as its value", () => {
    expect(["7", "$7", "7.0", "14/2", "7 apples", "\\boxed{7}"].map((pred) => alone("7", pred))).toEqual([
      1, 1, 1, 1, 1, 1,
    ]);
    expect([alone("7%", "7"), alone("0.07", "7%"), alone("0.7", "7%")]).toEqual([1, 1, 0]);
  });
  test("a remark after it is not part of the answer", () =>
    expect([alone("8", "9 (because 8 is too small)"), alone("9", "9 (because 8 is too small)")]).toEqual([0, 1]));
  test("a bound is not its number", () => expect([alone("7", "at most 7"), alone("7", "less than 7")]).toEqual([0, 0]));
  test("in a whole response the sign is a unit", () =>
    expect(["#### 7%", "So it grew by 7%.", "The answer is 7 percent."].map((text) => judge("7", text).reward)).toEqual(
      [1, 1, 1],
    ));
});

test("a gold that is a complete solution is reduced", () => {
  expect(judge("2 + 2 = <<2+2=4>>4\n#### 4", "A: 4").reward).toBe(1);
  expect(judge("2 + 2 = 4\n#### 1,004", "A: 1004").reward).toBe(1);
});
