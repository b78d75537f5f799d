// Which golds are mathematical: TRL's accuracy_reward gives no reward if math_verify 0.9 cannot parse the gold.
import { expect, test } from "bun:test";
import { isMathematical } from "../../src/answers/mathematical.ts";

test.each([
  ...["", "yes", "Evelyn", "blue whale", "x", "(A)", "C", "no solution", "n/a", "?", "-", "$", "$$", "\\boxed{}"],
  ...["\\text{Evelyn}", "\\text{(C)}", "\\frac{", "The answer is x.", "a}b"],
])("%j is not", (gold) => expect(isMathematical(gold)).toBe(false));

test.each([
  ...[
    "5",
    "12 apples",
    "3:30",
    "\\frac{1}{2}",
    "$x$",
    "\\boxed{C}",
    "\\boxed{\\text{Tuesday}}",
    "$\\text{Evelyn}$",
    "$?$",
  ],
  // math_verify requires dollars around these; here they work without.
  ...["\\sqrt{2}", "\\pi", "x^2+1", "[1,2)", "½", "x = y", "\\{1\\}", "\\(x\\)"],
])("%j is", (gold) => expect(isMathematical(gold)).toBe(true));

test("hostile texts take no time", () => {
  const started = performance.now();
  for (const part of ["$", "\\(", "\\[ ", "\\text{", "{", "\\boxed{ "]) isMathematical(part.repeat(50_000));
  expect(performance.now() - started).toBeLessThan(1000);
});
