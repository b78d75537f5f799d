import { describe, expect, test } from "bun:test";
import { bundledProblems, warmStartProblems } from "../../data/make.ts";
import { alwaysWorked, generateMixed, workedShare } from "../../data/mixed-answers.ts";
import { drawProblem, generateProblems, largestNumber } from "../../data/problems.ts";
import { integerIn, nearlyNormal, seededSource, xoshiro128 } from "../../data/random.ts";
import { names, templates, things } from "../../data/templates.ts";

describe("seeded numbers", () => {
  test("xoshiro128** gives its published sequence from a known state", () => {
    // The output of the authors' C program from the state {1, 2, 3, 4}.
    const next = xoshiro128(new Uint32Array([1, 2, 3, 4]));
    expect(Array.from({ length: 6 }, next)).toEqual([11520, 0, 5927040, 70819200, 2031721883, 1637235492]);
  });

  test("a seed always gives the same numbers, another seed others", () => {
    const draw = (seed: number) => Array.from({ length: 8 }, seededSource(seed));
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
    expect(new Set(draw(0)).size).toBe(8);
  });

  test("integers include both ends, and nearly normal ones have mean 0 and variance 1", () => {
    const next = seededSource(1);
    const integers = Array.from({ length: 500 }, () => integerIn(next, -1, 3));
    expect(new Set(integers)).toEqual(new Set([-1, 0, 1, 2, 3]));
    const count = 20_000;
    const values = Array.from({ length: count }, () => nearlyNormal(next));
    const mean = values.reduce((sum, x) => sum + x, 0) / count;
    const variance = values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / count;
    expect(Math.abs(mean)).toBeLessThan(0.03);
    expect(Math.abs(variance - 1)).toBeLessThan(0.03);
  });
});

describe("word problems", () => {
  test("the same options give the same problems, another seed gives others", () => {
    const problems = generateProblems({ count: 50, seed: 3 });
    expect(generateProblems({ count: 50, seed: 3 })).toEqual(problems);
    expect(generateProblems({ count: 60, seed: 3 }).slice(0, 50)).toEqual(problems);
    expect(generateProblems({ count: 50, seed: 4 })).not.toEqual(problems);
  });

  test("every line of a worked answer holds, and the last one is the result", () => {
    for (const { answer, result } of generateProblems({ count: 2000, seed: 5 })) {
      const lines = answer.split("\n");
      expect(lines.pop()).toBe(`#### ${result}`);
      let last = Number.NaN;
      for (const line of lines) {
        const [, x, operator, y, z] = /^(\d+)([-+*/])(\d+)=(\d+)$/.exec(line)!;
        const exact = { "+": Number(x) + Number(y), "-": Number(x) - Number(y), "*": Number(x) * Number(y) };
        last = operator === "/" ? Number(x) / Number(y) : exact[operator as "+" | "-" | "*"];
        expect(Number(z)).toBe(last);
        expect(last).toBeGreaterThanOrEqual(1);
        expect(last).toBeLessThanOrEqual(largestNumber);
      }
      expect(last).toBe(result);
      expect(lines.length).toBeGreaterThanOrEqual(2);
    }
  });

  test("each number of the first step is in the question", () => {
    for (const { question, answer } of generateProblems({ count: 300, seed: 6 })) {
      const given = new Set(question.match(/\d+/g));
      const [, x, y] = /^(\d+)\D(\d+)=/.exec(answer)!;
      expect(given.has(x!) && given.has(y!)).toBe(true);
    }
  });

  test("every story can be told, without an unfilled place and with two different names", () => {
    expect(templates.length).toBeGreaterThanOrEqual(20);
    const next = seededSource(9);
    for (const [story, template] of templates.entries()) {
      const { question } = drawProblem(next, story);
      expect(question).not.toMatch(/[{}]|undefined|NaN/);
      const told = new Set(names.filter((name) => question.split(/\W+/).includes(name)));
      const asked = ["{N}", "{M}"].filter((place) => template.text.includes(place));
      expect(told.size).toBe(asked.length);
      if (template.text.includes("{o}")) expect(things.some((thing) => question.includes(thing))).toBe(true);
    }
  });

  test("a hundred thousand different ones exist, and excluded ones do not appear", () => {
    const problems = generateProblems({ count: 100_000, seed: 10 });
    const questions = new Set(problems.map(({ question }) => question));
    expect(questions.size).toBe(100_000);
    const again = generateProblems({ count: 1000, seed: 10, exclude: questions });
    expect(again.some(({ question }) => questions.has(question))).toBe(false);
  });

  test("training, warm start and held-out problems are disjoint by text", () => {
    const { train, held } = bundledProblems();
    const heldOut = new Set(held.map(({ question }) => question));
    expect(heldOut.size).toBe(held.length);
    expect(held.length).toBeGreaterThanOrEqual(300);
    expect(train.filter(({ question }) => heldOut.has(question))).toEqual([]);
    const { worked, mixed } = warmStartProblems();
    expect([...worked, ...mixed].filter(({ question }) => heldOut.has(question))).toEqual([]);
  });
});

describe("mixed answers", () => {
  test("three stories of eight are always worked out, the others one time in twenty", () => {
    const problems = generateMixed({ count: 6000, seed: 11 });
    const isWorked = (answer: string) => answer.includes("=");
    const [always, seldom] = [true, false].map((kind) => problems.filter(({ story }) => alwaysWorked(story) === kind));
    expect(always!.every(({ answer }) => isWorked(answer))).toBe(true);
    const share = seldom!.filter(({ answer }) => isWorked(answer)).length / seldom!.length;
    expect(Math.abs(share - workedShare)).toBeLessThan(0.015);
    for (const { answer, result } of seldom!) expect(answer.split("\n").at(-1)).toBe(`#### ${result}`);
  });
});
