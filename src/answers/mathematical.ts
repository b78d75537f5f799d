/**
 * Whether a gold answer has mathematics in it that could be parsed. TRL's `accuracy_reward` gives no reward where it can't
 * parse the gold (`math_verify.parse` finds nothing), and so do `accuracy` and `reasoning_accuracy` here: of bare words
 * nobody knows what would equal them. The other verifiers compare words as words.
 */

/** What stands between dollars or in brackets of LaTeX, or is marked as the answer, is taken for mathematics whatever it is. */
const MARKS: readonly (readonly [opening: RegExp, closing: string])[] = [
  [/\$[^$\s]/, "$"],
  [/\\\(\s*(?!\\\))\S/, "\\)"],
  [/\\\[\s*(?!\\\])\S/, "\\]"],
  [/\\(?:boxed|fbox)\s*\{\s*[^\s}]/, "}"],
];
/** Words in LaTeX, and a box with nothing in it. */
const WORDS = /\\(?:text|textbf|textit|textrm|mathrm|mbox|operatorname)\s*\{[^{}]*\}|\\(?:boxed|fbox)\s*\{\s*\}/g;
/** A digit, a command of LaTeX, or an operator that prose has no use for. */
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

/** A brace that is never closed, or never opened, leaves nothing that can be parsed. */
function balanced(text: string): boolean {
  let open = 0;
  for (const [brace] of text.matchAll(/\\[{}]|[{}]/g)) {
    if (brace === "{") open++;
    else if (brace === "}" && --open < 0) return false;
  }
  return open === 0;
}
