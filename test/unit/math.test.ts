/** The verifier for mathematical answers: what counts as equal, what does not, and where the answer is found. */
import { describe, expect, test } from "bun:test";
import { equalAnswers } from "../../src/answers/compare.ts";
import { normalizeMath } from "../../src/answers/normalize.ts";
import { type Extraction, type Verdict, verify } from "../../src/answers/verify.ts";

const judge = (gold: string, response: string, extraction: Extraction = "lenient"): Verdict =>
  verify({ gold, response, extraction, verifier: "math" });

/** [gold, another notation of it] */
const EQUAL: Record<string, readonly (readonly [string, string])[]> = {
  numbers: [
    ["12", "12.0"],
    ["\\frac{3}{8}", "3/8"],
    ["\\frac{3}{8}", "0.375"],
    ["\\dfrac38", "\\tfrac{3}{8}"],
    ["\\frac{3}8", "\\frac 38"],
    ["-\\frac{5}{7}", "\\frac{-5}{7}"],
    ["-\\frac{5}{7}", "\\frac{5}{-7}"],
    ["\\frac{1}{3}", "0.333333333333"],
    ["0.1\\overline{6}", "\\frac16"],
    ["2\\frac{3}{4}", "2.75"],
    ["2\\frac{3}{4}", "2 3/4"],
    ["-2\\frac34", "-\\frac{11}{4}"],
    ["\\frac{12}{18}", "\\frac23"],
    ["2^{100}", "1267650600228229401496703205376"],
    ["3.2 \\times 10^{-5}", "0.000032"],
    ["5!", "120"],
    ["\\binom{6}{2}", "15"],
    ["|-7|", "7"],
    ["\\lfloor 3.7 \\rfloor", "3"],
    ["1 - \\frac{1}{e}", "1 - e^{-1}"],
  ],
  "thousands, money, units": [
    ["12,345", "12345"],
    ["12{,}345", "12\\,345"],
    ["12,\\!345,\\!678", "12345678"],
    ["12 345", "12345"],
    ["\\frac{1}{1,234}", "\\frac{1}{1234}"],
    ["\\$42", "42"],
    ["42", "$42$"],
    ["42", "42 dollars"],
    ["42\\text{ cm}^2", "42"],
    ["42", "42\\,\\mathrm{cm}"],
    ["42", "42 square units"],
    ["42", "42m"],
    ["42", "42 miles per hour"],
    ["42^\\circ", "42"],
    ["42", "42^{\\circ}"],
    ["42°", "42 degrees"],
    ["42\\%", "0.42"],
    ["42\\%", "42 percent"],
  ],
  "roots, π, functions": [
    ["\\sqrt{12}", "2\\sqrt3"],
    ["\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}"],
    ["\\sqrt[3]{-8}", "-2"],
    ["\\sqrt{50}", "5√2"],
    ["sqrt(5)/2", "\\frac{\\sqrt 5}{2}"],
    ["\\frac{3\\pi}{4}", "0.75π"],
    ["\\sin 30^\\circ", "\\frac12"],
    ["2\\cos\\frac{\\pi}{4}", "\\sqrt2"],
    ["\\log_2 32", "5"],
    ["\\ln e^3", "3"],
    ["3 + 4i", "4i+3"],
    ["(1+i)^2", "2i"],
  ],
  expressions: [
    ["x^2 - 1", "(x-1)(x+1)"],
    ["2(a+b)", "2a + 2b"],
    ["\\frac{x}{2} + \\frac{x}{3}", "\\frac{5x}{6}"],
    ["\\sin^2 t", "1 - \\cos^2(t)"],
    ["a_1 + a_2", "a_2 + a_{1}"],
    ["\\sqrt{x^2}", "|x|"],
    ["x^{-1}", "\\frac1x"],
    ["-y+x", "-(y - x)"],
    ["xy", "y x"],
    ["2^{x+1}", "2 \\cdot 2^x"],
  ],
  "names and equations": [
    ["x = 7", "7"],
    ["7", "x=7"],
    ["f(x) = x+1", "x + 1"],
    ["f(x) = x+1", "y = 1 + x"],
    ["x \\in [1, 2]", "[1,2]"],
    ["(a,b) = (1,2)", "(1,2)"],
    ["x + 2y = 4", "2x + 4y - 8 = 0"],
    ["y = 2x + 3", "2x - y = -3"],
    ["7", "3 + 4 = 7"],
    ["\\sqrt{2}", "\\sqrt{2} \\approx 1.414"],
  ],
  "tuples, intervals, sets": [
    ["(1, -\\frac{1}{2})", "\\left(1, -0.5\\right)"],
    ["(1,2)", "1, 2"],
    ["[0, \\infty)", "[0,+\\infty)"],
    ["[0, \\infty)", "x \\ge 0"],
    ["(2, 5]", "2 < x \\le 5"],
    ["x < 3", "3 > x"],
    ["x < 3", "-2x > -6"],
    ["(-\\infty,1) \\cup (4,\\infty)", "(4,\\infty)\\cup(-\\infty,1)"],
    ["(-\\infty,1) \\cup (4,\\infty)", "x < 1 \\text{ or } x > 4"],
    ["\\{1, 2, 3\\}", "3, 2, 1"],
    ["1, 2", "1 \\text{ and } 2"],
    ["-2, 3", "x=3 \\text{ or } x=-2"],
    ["\\pm 4", "4, -4"],
    ["2 \\pm \\sqrt{3}", "2-\\sqrt3, 2+\\sqrt3"],
    ["1,234", "1, 234"],
    ["3:4", "3 : 4"],
    ["\\emptyset", "\\{\\}"],
    ["\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{bmatrix}1&2\\\\3&\\frac{8}{2}\\end{bmatrix}"],
    ["\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "(1,2)"],
  ],
  words: [
    ["\\text{east}", "East"],
    ["\\text{(C)}", "C"],
    ["C", "\\textbf{(C)}"],
    ["\\text{Monday}", "monday."],
    ["\\text{red, blue}", "blue and red"],
  ],
};

const DIFFERENT: readonly (readonly [string, string])[] = [
  ["12", "12.001"],
  ["12", "13"],
  ["12", "-12"],
  ["12", ""],
  ["\\frac{1}{3}", "0.33"],
  ["\\sqrt{2}", "1.41"],
  ["2", "2\\sqrt{2}"],
  ["2", "2x"],
  ["2x", "2"],
  ["2", "2i"],
  ["x+1", "x-1"],
  ["x^2", "x"],
  ["|x|", "x"],
  ["x", "y"],
  ["A", "B"],
  ["x = 7", "y = 7"],
  ["x + y = 4", "4"],
  ["x + y = 4", "x + y = 5"],
  ["(1,2)", "(2,1)"],
  ["(1,2)", "2, 1"],
  ["(1,2)", "(1,2,3)"],
  ["(0,1)", "[0,1)"],
  ["x < 3", "x \\le 3"],
  ["x < 3", "x > 3"],
  ["x < 3", "-x < -3"],
  ["1, 2", "1"],
  ["1, 2", "1, 2, 3"],
  ["\\pm 4", "4"],
  ["12:00", "1:00"],
  ["101_2", "101"],
  ["101_2", "101_3"],
  ["2^{100}", "1267650600228229401496703205377"],
  ["42\\%", "4.2"],
  ["\\text{east}", "\\text{seat}"],
  ["\\text{ABCD}", "\\text{ABDC}"],
  ["\\begin{pmatrix} 1 & 2 \\end{pmatrix}", "\\begin{pmatrix} 1 & 3 \\end{pmatrix}"],
  ["0", "\\emptyset"],
  ["\\infty", "-\\infty"],
  ["9^{9^{9^9}}", "9^{9^{9^8}}"],
  ["\\frac{1}{0}", "\\frac{2}{0}"],
  ["5", "5, 6"],
];

for (const [kind, pairs] of Object.entries(EQUAL)) {
  describe(`equal: ${kind}`, () => {
    test.each(pairs)("%p and %p", (gold, pred) => expect(equalAnswers(gold, pred)).toBe(true));
  });
}

describe("different", () => {
  test.each(DIFFERENT)("%p and %p", (gold, pred) => expect(equalAnswers(gold, pred)).toBe(false));
});

test("equality holds in both directions, and each answer equals itself however it is spaced", () => {
  for (const [gold, pred] of Object.values(EQUAL).flat()) {
    // A gold tuple accepts an answer without brackets; the order of a list is not that of a tuple.
    if (!/^\(1,2\)|^\(-|^x \\in|^\(a|^42$|pmatrix/.test(gold))
      expect([gold, pred, equalAnswers(pred, gold)]).toEqual([gold, pred, true]);
    const spaced = `  ${gold.replaceAll("=", " = ").replaceAll("+", " + ").replaceAll("(", "( ")} `;
    expect([spaced, equalAnswers(gold, spaced)]).toEqual([spaced, true]);
  }
});

test("normalization leaves one notation", () => {
  expect(normalizeMath("\\left\\{ \\dfrac{1}{2},\\; -\\sqrt{3} \\right\\}.")).toBe("⦃ \\frac{1}{2}, -\\sqrt{3} ⦄");
  expect(normalizeMath("\\\\frac{1}{2}")).toBe("\\frac{1}{2}");
  expect(normalizeMath("15\\mbox{ cm}^2")).toBe("15");
});

describe("extraction", () => {
  test.each([
    ["So $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"],
    ["\\boxed{3} is wrong, so \\boxed{\\frac12}", "\\frac12"],
    ["so \\boxed{0.5}, as expected", "0.5"],
    ["\\fbox{1/2}", "1/2"],
  ])("strict: %p", (response, answer) => {
    expect(judge("\\frac12", response!, "strict")).toEqual({ reward: 1, answer: answer!, reason: "equal" });
  });

  test.each(["The answer is $\\frac12$.", "1/2", "\\boxed{\\frac12", ""])("strict: %p is unparsed", (response) => {
    expect(judge("\\frac12", response, "strict").reason).toBe("unparsed");
  });

  test.each([
    ["The answer is $\\frac12$.", "\\frac12"],
    ["Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.", "\\frac{1}{2}"],
    ["Therefore the probability of $A$ is 0.5. The answer is 1/2.", "1/2"],
    ["Since $x > 0$, we get \\(x = \\frac12\\).", "x = \\frac12"],
    ["Thus\n\\[ x = \\frac{1}{2} \\]", "x = \\frac{1}{2}"],
    ["Thus it costs $3 more and the share is **0.5**", "0.5"],
    ["so x = 1/2", "1/2"],
    ["which gives 0.5", "0.5"],
    ["#### 1/2", "1/2"],
    ["The answer is $\\frac12$.<|im_end|>", "\\frac12"],
  ])("lenient: %p", (response, answer) => {
    expect(judge("\\frac12", response)).toEqual({ reward: 1, answer, reason: "equal" });
  });

  test("boxes joined by a connective are one answer; the last of them alone counts too", () => {
    const response = "The roots are $\\boxed{-2}$ and $\\boxed{1}$.";
    expect(judge("1, -2", response)).toEqual({ reward: 1, answer: "-2, 1", reason: "equal" });
    expect(judge("1", response).reward).toBe(1);
    expect(judge("-2", response).reward).toBe(0);
    expect(judge("3, 1", "First \\boxed{3}. Then we find that it is \\boxed{1}").reward).toBe(0);
  });

  test("a gold that is a complete solution is reduced to its box", () => {
    expect(judge("We get $x = 3$, so the area is $\\boxed{9\\pi}$.", "$\\boxed{9 \\pi}$", "strict").reward).toBe(1);
  });

  test("an answer given on its own may still be a sentence", () => {
    const pred = (gold: string, text: string) => verify({ gold, pred: text, extraction: "lenient" }).reward;
    expect(pred("-3", "Therefore the answer is -3")).toBe(1);
    expect(pred("x > 5", "Hence we have $x \\gt 5$ for all of them")).toBe(1);
    expect(pred("\\frac23", "answer: \\frac{2}{3}")).toBe(1);
    expect(pred("\\frac23", "\\frac{2}{3}")).toBe(1);
    expect(pred("\\frac23", "\\frac{3}{2}")).toBe(0);
  });
});

describe("hostile answers end quickly", () => {
  const fill = (unit: string, length: number): string => unit.repeat(Math.ceil(length / unit.length)).slice(0, length);
  const MIB = 1 << 20;
  const texts: Record<string, string> = {
    braces: fill("{", MIB),
    digits: fill("7", MIB),
    spaces: fill(" ", MIB),
    "line ends": fill("\n", MIB),
    dollars: fill("$", MIB),
    stars: fill("*", MIB),
    commas: fill("1,", MIB),
    "open boxes": fill("\\boxed{", MIB),
    "joined boxes": fill("\\boxed{1}, ", MIB),
    hashes: fill("#### ", MIB),
    announcements: fill("answer is ", MIB),
    "nested fractions": `${"\\frac{1+".repeat(10_000)}1${"}{2}".repeat(10_000)}`,
    "short nested fractions": `\\boxed{${"\\frac{1+".repeat(120)}1${"}{2}".repeat(120)}}`,
    parentheses: `\\boxed{${fill("(", 1900)}}`,
    signs: `\\boxed{${fill("-", 1900)}1}`,
    choices: `\\boxed{${fill("±1", 1900)}}`,
    powers: "\\boxed{9^9^9^9^9^9}",
    "long power": "\\boxed{10^{-100000000}}",
    factorials: "\\boxed{((((9!)!)!)!)!}",
    variables: `\\boxed{${fill("a_1b_2c_3", 1900)}}`,
    fractions: `\\boxed{${fill("1/997+", 1900)}1}`,
  };
  test.each(Object.keys(texts))("%s", (name) => {
    const text = texts[name]!;
    for (const gold of ["18", "\\frac{1}{2}", "x^2+1", text]) {
      for (const extraction of ["strict", "lenient"] as const) {
        const before = performance.now();
        const verdict = verify({ gold, response: text, extraction });
        verify({ gold, pred: text, extraction });
        expect(performance.now() - before).toBeLessThan(1500);
        expect(["equal", "different", "unparsed"]).toContain(verdict.reason);
        if (gold.length < 10) expect(verdict.reward).toBe(0);
        expect(verdict.answer?.length ?? 0).toBeLessThan(1100);
      }
    }
  });

  test("every short text over the notation's characters has a verdict", () => {
    const alphabet = [
      "\\frac",
      "{",
      "}",
      "(",
      ")",
      "[",
      "]",
      "|",
      "^",
      "_",
      "1",
      "x",
      ",",
      "±",
      "\\sqrt",
      "=",
      "<",
      "%",
      "\\{",
      "\\begin{pmatrix}",
      "&",
      "\\\\",
      "\\end{pmatrix}",
      "!",
      "/",
      "°",
      "\\cup",
      ";",
      ":",
      ".",
    ];
    let state = 7;
    const next = (n: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * n);
    };
    for (let round = 0; round < 5000; round++) {
      const text = Array.from({ length: 1 + next(9) }, () => alphabet[next(alphabet.length)]).join("");
      expect(typeof equalAnswers(text, "\\frac{1}{2}+x")).toBe("boolean");
      if (text.trim() !== "") expect(equalAnswers(text, text)).toBe(true);
    }
  });
});
