/**
 * Whether a gold answer contains mathematics that could be parsed. TRL's `accuracy_reward` gives no reward if it can't
 * parse the gold (`math_verify.parse` finds nothing), and neither do `accuracy` and `reasoning_accuracy` here, since
 * nobody knows what would equal bare words. The other verifiers compare words as words.
 */

/** Anything between dollars or LaTeX brackets, or marked as the answer, counts as mathematics. */
const MARKS: readonly (readonly [opening: RegExp, closing: string])[] = [
  [/\$[^$\s]/, "$"],
  [/\\\(\s*(?!\\\))\S/, "\\)"],
  [/\\\[\s*(?!\\\])\S/, "\\]"],
  [/\\(?:boxed|fbox)\s*\{\s*[^\s}]/, "}"],
];
/** Words in LaTeX, and empty boxes. */
const WORDS = /\\(?:text|textbf|textit|textrm|mathrm|mbox|operatorname)\s*\{[^{}]*\}|\\(?:boxed|fbox)\s*\{\s*\}/g;
/** A digit, a LaTeX command, or an operator that prose does not use. */
const MATHEMATICS = /\d|\\[a-zA-Z]|[=+*^<>√π∞±×÷≤≥∪∩∅¼½¾⅓⅔]/;

/** In time linear in the text's length. */
export function isMathematical(gold: string): boolean {
  if (!balanced(gold)) return false;
  return isMarked(gold) || MATHEMATICS.test(gold.replace(WORDS, " "));
}

function isMarked(gold: string): boolean {
  return MARKS.some(([opening, closing]) => {
    const found = opening.exec(gold);
    return found !== null && gold.includes(closing, found.index + found[0].length);
  });
}

/** Text with unbalanced braces cannot be parsed. */
function balanced(text: string): boolean {
  let open = 0;
  for (const [brace] of text.matchAll(/\\[{}]|[{}]/g)) {
    if (brace === "{") open++;
    else if (brace === "}" && --open < 0) return false;
  }
  return open === 0;
}
