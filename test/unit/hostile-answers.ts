/** A hundred answers made to hang, crash or fool a grader, by name; none of them equals 18, \frac{1}{2} or x^2+1. */

const MIB = 1 << 20;
const fill = (unit: string, length: number): string => unit.repeat(Math.ceil(length / unit.length)).slice(0, length);
const boxed = (answer: string): string => `The answer is \\boxed{${answer}}`;
const nested = (open: string, middle: string, close: string, depth: number): string =>
  open.repeat(depth) + middle + close.repeat(depth);
const list = (count: number, item: (i: number) => string, separator = ","): string =>
  Array.from({ length: count }, (_, i) => item(i)).join(separator);

/** The longest answers that are still parsed have 2,000 characters; the ones below try that length as well. */
const SHORT = 1900;

export function hostileAnswers(): Readonly<Record<string, string>> {
  const texts: Record<string, string> = {};
  // A mebibyte of repetition: as the whole text, in a box, and at the longest length that is parsed.
  const units = {
    digits: "7",
    braces: "{",
    "closing braces": "}",
    parentheses: "(",
    brackets: "[",
    backslashes: "\\",
    dollars: "$",
    stars: "*",
    spaces: " ",
    "line ends": "\n",
    commas: "1,",
    carets: "2^",
    underscores: "x_",
    minus: "-",
    "plus or minus": "±1",
    factorials: "3!",
    percents: "1%",
    bars: "|x|",
    equations: "x=",
    inequalities: "1<",
    "NUL bytes": "\0",
    "lone surrogates": "\ud800",
    "right-to-left marks": "\u202e1",
    "combining marks": "e\u0301",
    emoji: "😀",
    fractions: "\\frac{1}{7}+",
    unions: "(1,2)\\cup",
  };
  for (const [name, unit] of Object.entries(units)) {
    texts[`${name}, a mebibyte`] = fill(unit, MIB);
    texts[`${name}, a boxed mebibyte`] = boxed(fill(unit, MIB));
    texts[`${name}, short`] = boxed(fill(unit, SHORT));
  }
  return {
    ...texts,
    // Words, and what could be split in many ways
    "a long word behind a value": boxed(`1 ${fill("a", SHORT)}`),
    "short words behind a value": boxed(`1 ${fill("of the ", SHORT)}`),
    "words cut anywhere, a mebibyte": `1${fill("about ", MIB)}`,
    "text after text": boxed(`1${fill("\\text{ and }", SHORT)}`),
    approximations: boxed(fill("x \\approx 1.5, ", SHORT)),
    "residues of residues": boxed(fill("1 (mod 2", SHORT)),
    "boxes with words between": fill("x=\\boxed{1} for one and ", MIB),
    // Sets and matrices
    "bars in bars": boxed(`${"|".repeat(40)}x${"|".repeat(40)}<1`),
    "many excluded numbers": boxed(list(400, (i) => `x\\ne${i}`)),
    differences: boxed(`(0,1)${fill("\\setminus\\{1\\}", SHORT)}`),
    intersections: boxed(`(0,1)${fill("\\cap(0,1)", SHORT)}`),
    "determinants in determinants": boxed(
      nested("\\begin{vmatrix}1&", "2\\\\3&4\\end{vmatrix}", "\\\\3&4\\end{vmatrix}", 20),
    ),
    "a product of matrices": boxed(fill("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", SHORT)),
    "a power of a matrix": boxed("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}^{1000000000}"),
    // Towers
    "power tower": boxed("9^{9^{9^9}}"),
    "power tower of tens": boxed("10^{10^{10}}"),
    "tower in the exponent of a fraction": boxed("\\left(\\frac{1}{3}\\right)^{10^{10^{10}}}"),
    "root of a tower": boxed("\\sqrt{9^{9^{9^9}}}"),
    "negative tower": boxed("2^{-10^{10^{10}}}"),
    "factorial tower": boxed("((((9!)!)!)!)!"),
    "large factorial": boxed("(10^{10})!"),
    "large binomial": boxed("\\binom{10^{12}}{10^{11}}"),
    "powers of long numbers": boxed(list(60, () => `${fill("9", 25)}^{400}`, "+")),
    "exponent of a numeral": boxed("1e999999999"),
    "huge denominators": boxed(list(250, (i) => `1/${10_007 + 2 * i}`, "+")),
    "power of a sum": boxed(`(${list(20, (i) => `x_{${i}}`, "+")})^{500}`),
    // Nesting
    "nested braces": boxed(nested("{", "1", "}", 100_000)),
    "nested parentheses": boxed(nested("(", "1", ")", 100_000)),
    "nested parentheses, short": boxed(nested("(", "1", ")", 900)),
    "nested fractions": boxed(nested("\\frac{1+", "1", "}{2}", 50_000)),
    "nested fractions, short": boxed(nested("\\frac{1+", "1", "}{2}", 130)),
    "nested roots": boxed(nested("\\sqrt{", "2", "}", 270)),
    "nested sets": boxed(nested("\\{", "1", "\\}", 450)),
    "nested texts": boxed(nested("\\text{", "1", "}", 250)),
    "nested absolute values": boxed(nested("|", "1", "|", 900)),
    "nested matrices": boxed(nested("\\begin{pmatrix}", "1", "\\end{pmatrix}", 60)),
    // Boxes
    "open boxes": fill("\\boxed{", MIB),
    "empty boxes": fill("\\boxed{}", MIB),
    "joined boxes": fill("\\boxed{1}, ", MIB),
    "box in boxes": nested("\\boxed{", "1", "}", 100_000),
    "box never closed": `\\boxed{${fill("x+", MIB)}`,
    hashes: fill("#### ", MIB),
    "hashes without end": `#### ${fill("1", MIB)}`,
    announcements: fill("the answer is ", MIB),
    "bold text": fill("**1** ", MIB),
    // Sizes
    "a million items": boxed(`\\{${list(1_000_000, String)}\\}`),
    "many items": boxed(`\\{${list(480, String)}\\}`),
    "many tuples": boxed(list(300, (i) => `(${i},1)`)),
    "many intervals": boxed(list(150, (i) => `(${2 * i},${2 * i + 1})`, "\\cup")),
    "many choices": boxed(list(200, (i) => `\\pm ${i}`)),
    "choices in a sum": boxed(list(400, (i) => `\\pm ${i}`, "")),
    "large matrix": boxed(`\\begin{pmatrix}${fill("1&2&3\\\\", SHORT)}\\end{pmatrix}`),
    "huge matrix": boxed(`\\begin{pmatrix}${fill("1&2&3\\\\", MIB)}\\end{pmatrix}`),
    "matrix never closed": boxed(`\\begin{pmatrix}${fill("1&", SHORT)}`),
    "many variables": boxed(list(400, (i) => `x_{${i}}`, "+")),
    "long product": boxed(fill("a_1b_2c_3", SHORT)),
    // Bait for patterns
    "words and spaces": boxed(`${fill("a ", MIB)}!`),
    "units without end": boxed(`5 ${fill("square feet per ", SHORT)}`),
    "digits and commas": boxed(`${fill("1,234", SHORT)}x`),
    "digits and spaces": boxed(`${fill("1 234 ", SHORT)}x`),
    "equals and spaces": `${fill("= ", MIB)}x.`,
    "unbalanced formulas": fill("$x \\( \\[ $$ ", MIB),
    "broken commands": fill("\\frac{\\sqrt{\\left(", MIB),
    "unfinished command": boxed("\\frac{1}{\\sqrt["),
    "no value at all": boxed("\\frac{0}{0} + \\ln 0 + \\infty - \\infty"),
    "no value at any point": boxed("\\sqrt{-1-x^2}/0"),
  };
}
