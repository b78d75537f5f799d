/** The built-in reward functions against values computed by hand, and their time on adversarial texts. */
import { describe, expect, test } from "bun:test";
import { builtInRewards, isVerifier, type LibraryReward } from "../../src/config/reward-names.ts";
import { answerFormat, reasoningSteps, tagCount, thinkFormat } from "../../src/rewards/library/format.ts";
import { cosineScaled, groupLength, softOverlong } from "../../src/rewards/library/length.ts";
import { defaultParameters, scoreByLibrary } from "../../src/rewards/library/library.ts";
import { repetitionPenalty } from "../../src/rewards/library/repetition.ts";

const whole = "<think>\n1 + 1\n</think>\n<answer>\n2\n</answer>";

describe("a thought that the prompt opened", () => {
  const end = "<|im_start|>assistant\n<think>\n";
  const score = (name: LibraryReward, completion: string, promptEnd: string) =>
    scoreByLibrary(
      name,
      { completions: [completion], completionIds: [[1]], correct: [null], promptEnds: [promptEnd] },
      defaultParameters,
    )[0];
  test.each<[LibraryReward, string, string, number]>([
    ["think_format", "I add.\n</think>\nThe answer is 4.", end, 1],
    ["think_format", "I add.\n</think>\nThe answer is 4.", "<think>", 1],
    ["think_format", "I add.\n</think>\nThe answer is 4.", "<think>\n\n</think>\n\n", 0],
    ["think_format", "I add.\n</think>\nThe answer is 4.", "", 0],
    ["think_format", "I add. 4", end, 0],
    ["think_format", "<think>I add.</think> 4", end, 0],
    ["think_format", "<think>I add.</think> 4", "<|im_start|>assistant\n", 1],
    ["format", "I add.\n</think>\n<answer>\n4\n</answer>", end, 1],
    ["format", "I add.\n</think>\n<answer>\n4\n</answer>", "assistant\n", 0],
    ["format", "\nI add.\n</think>\n<answer>\n4\n</answer>", "<think>", 1],
    ["tag_count", "I add.\n</think>\n<answer>\n4\n</answer>", end, 1],
    ["tag_count", "I add.\n</think>\n<answer>\n4\n</answer>", "", 0.75],
  ])("%s of %j after %j", (name, completion, promptEnd, reward) => {
    expect(score(name, completion, promptEnd)).toBe(reward);
  });
});

describe("think_format", () => {
  test.each([
    ["<think>\nthought\n</think>\nanswer", 1],
    ["<think></think>", 1],
    ["<think>a</think>b</think>c", 1],
    ["<think>thought without end", 0],
    ["<think>a</think><think>b</think>", 0],
    ["<think><think>a</think>", 0],
    [" <think>a</think>", 0],
    ["a</think>", 0],
    ["</think><think>", 0],
    ["", 0],
  ] as const)("%j: %d", (text, reward) => expect(thinkFormat(text)).toBe(reward));
});

describe("format", () => {
  test.each([
    [whole, 1],
    ["<think>\n\n</think>\n<answer>\n\n</answer>", 1],
    [`${whole}\nand more`, 1],
    [`${whole} and more`, 0],
    [`${whole} and more\n</answer>`, 1], // the second closing tag ends its line
    [`so ${whole}`, 0],
    ["<think>\n</think>\n<answer>\n2\n</answer>", 0], // one line break cannot count both after and before
    ["<think>1 + 1</think>\n<answer>\n2\n</answer>", 0],
    ["<think>\n1 + 1\n</think>\n\n<answer>\n2\n</answer>", 0],
    ["<think>\n1 + 1\n</think>\n<answer>\n2</answer>", 0],
    ["", 0],
  ] as const)("%j: %d", (text, reward) => expect(answerFormat(text)).toBe(reward));

  test("agrees with the pattern of open-r1 on any mixture of the parts", () => {
    const pattern = /^<think>\n.*?\n<\/think>\n<answer>\n.*?\n<\/answer>(?=\n|$)/s;
    const parts = ["<think>", "</think>", "<answer>", "</answer>", "\n", "\n", "x"];
    let seed = 1;
    const next = (n: number) => {
      seed = (seed * 48271) % 2147483647;
      return seed % n;
    };
    let matched = 0;
    for (let i = 0; i < 20_000; i++) {
      // Half of them start in the right form, so that the rest is tested too.
      const start = ["", "<think>\nx\n</think>\n<answer>\n"][next(2)]!;
      const text = start + Array.from({ length: next(8) }, () => parts[next(parts.length)]!).join("");
      const expected = pattern.test(text) ? 1 : 0;
      matched += expected;
      expect({ text, reward: answerFormat(text) }).toEqual({ text, reward: expected });
    }
    expect(matched).toBeGreaterThan(100);
  });
});

test.each([
  [whole, 1],
  ["<think>\na\n</think>\n", 0.5],
  [`${whole}\n</answer>`, 0.75],
  ["<think>a</think><answer>b</answer>", 0],
  ["\n</answer>", 0.25],
  ["<think>\n<think>\n", 0],
  ["", 0],
] as const)("tag_count of %j: %d", (text, reward) => expect(tagCount(text)).toBe(reward));

test.each([
  ["1. a\n2. b\n3. c", 1 / 3], // numbers count only at the very beginning, as in open-r1
  ["Step 1: a Step 2: b", 2 / 3],
  ["First, a. Next, b. Finally, c.", 1],
  ["- a\n- b\n* c", 2 / 3],
  ["Step 1: a\n- b\n- c\n- d\n* e", 1],
  ["Step one: a, first, b", 0],
  ["", 0],
] as const)("reasoning_steps of %j: %d", (text, reward) => expect(reasoningSteps(text)).toBe(reward));

describe("cosine", () => {
  const of = (length: number, correct: boolean) =>
    cosineScaled(length, correct, {
      minValueWrong: -1,
      maxValueWrong: -0.5,
      minValueCorrect: 0.5,
      maxValueCorrect: 1,
      maxLength: 120,
    });
  // cos(π/3) = 1/2, cos(π/2) = 0, cos(2π/3) = −1/2.
  test.each([
    [0, 1, -1],
    [40, 0.5 + 0.25 * 1.5, -0.5 - 0.25 * 1.5],
    [60, 0.75, -0.75],
    [80, 0.5 + 0.25 * 0.5, -0.5 - 0.25 * 0.5],
    [120, 0.5, -0.5],
    [240, 0.5, -0.5], // the cosine would be back at its start
  ])("%d tokens of 120: right %d, wrong %d", (length, right, wrong) => {
    expect(of(length, true)).toBeCloseTo(right, 12);
    expect(of(length, false)).toBeCloseTo(wrong, 12);
  });
});

describe("length", () => {
  test("spreads right answers over ±½, and never rewards a wrong one", () => {
    expect(groupLength([10, 20, 30, 40, 50], [true, true, true, true, true])).toEqual([0.5, 0.25, 0, -0.25, -0.5]);
    expect(groupLength([10, 20, 30, 40, 50], [false, false, false, false, false])).toEqual([0, 0, 0, -0.25, -0.5]);
  });
  test("the shortest and longest are those of the whole group", () => {
    expect(groupLength([10, 20, 50], [null, true, false])).toEqual([null, 0.25, -0.5]);
  });
  test("one length: nothing to reward", () => {
    expect(groupLength([7, 7, 7], [true, false, null])).toEqual([0, 0, null]);
    expect(groupLength([7], [true])).toEqual([0]);
    expect(groupLength([], [])).toEqual([]);
  });
});

// DAPO, equation 13, with L_max = 100 and L_cache = 20.
test.each([
  [0, 0],
  [80, 0],
  [81, -0.05],
  [90, -0.5],
  [100, -1],
  [101, -1],
])("soft_overlong of %d tokens: %d", (length, reward) => expect(softOverlong(length, 100, 20)).toBe(reward));

test("soft_overlong without a cache punishes only what is too long", () => {
  expect([99, 100, 101].map((length) => softOverlong(length, 100, 0))).toEqual([0, 0, -1]);
});

describe("repetition", () => {
  test.each([
    [[1, 2, 3, 4], 2, 0], // 12 23 34
    [[5, 5, 5, 5, 5], 2, -0.75], // 55 four times
    [[1, 2, 1, 2, 1], 2, -0.5], // 12 21 12 21
    [[1, 2, 3, 1, 2, 3, 1], 3, -2 / 5], // 123 231 312 123 231
    [[1, 1, 2, 3], 1, -0.25],
    [[1, 2], 3, 0],
    [[1, 2, 3], 3, 0],
    [[], 1, 0],
  ] as const)("%j, runs of %d: %d", (ids, n, reward) =>
    expect(repetitionPenalty([...ids], n, -1)).toBeCloseTo(reward, 12),
  );

  test("counts as a set of whole runs does, for any length", () => {
    const ids = Array.from({ length: 400 }, (_, i) => ((i * i * 7 + (i >> 2)) % 11 === 0 ? 151_000 + (i % 3) : i % 5));
    for (const n of [1, 2, 3, 7, 40]) {
      const runs = ids.slice(0, ids.length - n + 1).map((_, i) => ids.slice(i, i + n).join());
      expect(repetitionPenalty(ids, n, -2)).toBeCloseTo(-2 * (1 - new Set(runs).size / runs.length), 12);
    }
  });

  test("a penalty of 0 is 0, not -0", () => {
    expect(Object.is(repetitionPenalty([1, 2, 3], 2, -1), 0)).toBe(true);
    expect(repetitionPenalty([1, 1, 1], 2, -0.5)).toBe(-0.25);
  });
});

describe("by name", () => {
  const score = (name: LibraryReward, rest: Partial<Parameters<typeof scoreByLibrary>[1]> = {}, settings = {}) =>
    scoreByLibrary(
      name,
      { completions: ["a", "b"], completionIds: [[1, 1, 1], [1]], correct: [true, false], ...rest },
      { ...defaultParameters, ...settings },
    );

  test("the defaults are those of the settings", () => {
    expect(defaultParameters).toEqual({
      cosineMinValueWrong: -1,
      cosineMaxValueWrong: -0.5,
      cosineMinValueCorrect: 0.5,
      cosineMaxValueCorrect: 1,
      cosineMaxLen: null,
      repetitionNGrams: 3,
      repetitionMaxPenalty: -1,
      softPunishMaxLen: null,
      softPunishCache: null,
      maxCompletionLength: 512,
    });
  });

  test("every parameter has an effect", () => {
    expect(score("cosine", {}, { maxCompletionLength: 2 })).toEqual([0.5, expect.closeTo(-0.75, 12)]);
    expect(score("cosine", {}, { cosineMaxLen: 2, cosineMinValueCorrect: 3, cosineMaxValueWrong: 1 })).toEqual([
      3,
      expect.closeTo(0, 12),
    ]);
    expect(score("cosine", { completionIds: [[], []] }, { cosineMaxValueCorrect: 4, cosineMinValueWrong: -4 })).toEqual(
      [4, -4],
    );
    expect(score("repetition", {}, { repetitionNGrams: 1, repetitionMaxPenalty: -3 })).toEqual([
      expect.closeTo(-2, 12),
      0,
    ]);
    expect(score("soft_overlong", {}, { maxCompletionLength: 4, softPunishCache: 2 })).toEqual([-0.5, 0]);
  });

  test("get_soft_overlong_punishment has the numbers of TRL's script, however completions are limited", () => {
    const completionIds = [1024, 1025, 1152, 1280, 1281].map((length) => new Array(length).fill(1));
    const rest = { completions: ["", "", "", "", ""], correct: Array(5).fill(null), completionIds };
    const theirs = score("get_soft_overlong_punishment", rest, { maxCompletionLength: 4096 });
    expect(theirs).toEqual([0, -1 / 256, -0.5, -1, -1]);
    const given = { maxCompletionLength: 4096, softPunishMaxLen: 1280, softPunishCache: 256 };
    expect(score("soft_overlong", rest, given)).toEqual(theirs);
    expect(score("get_soft_overlong_punishment", rest, { softPunishMaxLen: 2000, softPunishCache: 10 })).toEqual([
      ...[0, 0, 0, 0, 0],
    ]);
  });

  test("soft_overlong's cache is a fifth by default", () => {
    const completionIds = [80, 90, 100].map((length) => new Array(length).fill(1));
    const rest = { completions: ["", "", ""], correct: [null, null, null], completionIds };
    expect(score("soft_overlong", rest, { maxCompletionLength: 100 })).toEqual([0, -0.5, -1]);
  });

  test("length compares within a group, even if groups are not contiguous", () => {
    const rest = {
      completions: ["", "", "", ""],
      completionIds: [[1], [1, 1, 1], [1, 1], [1]],
      correct: [true, true, true, true],
    };
    expect(score("length", { ...rest, groups: [0, 1, 0, 1] })).toEqual([0.5, -0.5, -0.5, 0.5]);
    expect(score("length", rest)).toEqual([0.5, -0.5, 0, 0.5]);
  });

  test("completions that nothing can judge are not scored; those that need no judging are", () => {
    for (const name of builtInRewards) {
      if (isVerifier(name)) continue;
      const rewards = score(name, { correct: [null, null] });
      if (name === "cosine" || name === "length") expect(rewards).toEqual([null, null]);
      else expect(rewards.every((reward) => typeof reward === "number")).toBe(true);
    }
  });

  test("takes linear time on adversarial text", () => {
    const n = 1 << 18;
    const texts = [
      "<think>\n".repeat(n / 8),
      `<think>\n${"\n</think>\n<answer>\n".repeat(n / 19)}`,
      `${whole.slice(0, -9)}${"\n</answer>x".repeat(n / 11)}`,
      `Step ${"1".repeat(n)}`,
      "Step 1".repeat(n / 6),
      "\n".repeat(n),
    ];
    const completionIds = texts.map((_, k) =>
      Array.from({ length: 1 << 16 }, (_, i) => (k % 2 === 0 ? 7 : (i * i) % 97)),
    );
    const before = performance.now();
    for (const name of ["format", "think_format", "tag_count", "reasoning_steps", "repetition"] as const) {
      score(name, { completions: texts, completionIds, correct: texts.map(() => null) });
    }
    expect(performance.now() - before).toBeLessThan(2000);
  });
});
