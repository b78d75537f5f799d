/**
 * Mechanical rewritings of gold answers, which must stay equal, and changes, which must not, and the MATH verifier's verdict on
 * each. As a program it takes golds from a file, one JSON object per line with "gold" or "answer", and prints the share that
 * was judged right and the first failures of each rule:
 *
 *   bun test/unit/rewritings.ts GOLDS.jsonl [--seed 1] [--show 3]
 *
 * A rule returns null if it does not apply. It works on text, not mathematics: a failure may be the rule's fault.
 */
import { parseArgs } from "node:util";
import { equalAnswers } from "../../src/answers/compare.ts";

type Random = (below: number) => number;
type Rule = (gold: string, random: Random) => string | null;

const NUMBER = /^-?\d+(?:\.\d+)?$/;
const FRACTION = /^(-?)\\frac\{(\d+)\}\{(\d+)\}$/;
const MATRIX = /^\\begin\{pmatrix\}.*\\end\{pmatrix\}$/s;
const HAS_WORDS = /\\(?:text|mbox|begin)/;

const when = (test: RegExp, gold: string, rewrite: (match: RegExpExecArray) => string): string | null => {
  const match = test.exec(gold);
  return match && rewrite(match);
};

/** The items of a list without brackets. */
const itemsOf = (gold: string): readonly string[] =>
  /[()[\]{}=\\]|\d,\d{3}/.test(gold.replace(/\\(?:frac|sqrt)|[{}]/g, ""))
    ? []
    : gold.split(",").map((item) => item.trim());

/** "[a, b)" with at least one finite bound, as inequalities for x. */
function inequality(gold: string): string | null {
  const bound = String.raw`(-?[\d.]+|-?\\frac\{\d+\}\{\d+\}|-?\\infty)`;
  return when(new RegExp(String.raw`^([([])\s*${bound},\s*${bound}\s*([)\]])$`), gold, ([, open, low, high, close]) => {
    const [from, to] = [open === "[" ? "\\le" : "<", close === "]" ? "\\le" : "<"];
    if (low === "-\\infty") return high === "\\infty" ? "\\mathbb{R}" : `x ${to} ${high}`;
    return high === "\\infty" ? `x ${open === "[" ? "\\ge" : ">"} ${low}` : `${low} ${from} x ${to} ${high}`;
  });
}

export const EQUAL_RULES: Readonly<Record<string, Rule>> = {
  dfrac: (gold) => (gold.includes("\\frac") ? gold.replaceAll("\\frac", "\\dfrac") : null),
  dollars: (gold) => `$${gold}$`,
  "a slash": (gold) => when(FRACTION, gold, ([, sign, top, below]) => `${sign}${top}/${below}`),
  "beside its decimal": (gold) =>
    when(
      FRACTION,
      gold,
      ([, sign, top, below]) => `${gold} \\approx ${sign}${(Number(top) / Number(below)).toFixed(4)}`,
    ),
  "a decimal as a fraction": (gold) =>
    when(
      /^(-?\d+)\.(\d{1,9})$/,
      gold,
      ([, whole, part]) => `\\frac{${BigInt(whole! + part!)}}{1${"0".repeat(part!.length)}}`,
    ),
  "a name": (gold) => when(NUMBER, gold, () => `x = ${gold}`),
  "a chain": (gold) => when(/^-?\d{1,9}$/, gold, () => `x = ${Number(gold) - 3} + 3 = ${gold}`),
  "what follows": (gold) => when(/^-?\d{1,9}$/, gold, () => `2x = ${2 * Number(gold)} \\implies x = ${gold}`),
  units: (gold) => when(NUMBER, gold, () => `${gold} \\text{ units}`),
  words: (gold) => when(NUMBER, gold, () => `${gold} possible values`),
  thousands: (gold) => when(/^\d{4,9}$/, gold, () => Number(gold).toLocaleString("en-US").replaceAll(",", "{,}")),
  "a bracket matrix": (gold) => (gold.includes("pmatrix") ? gold.replaceAll("pmatrix", "bmatrix") : null),
  "a multiple of a matrix": (gold) => when(MATRIX, gold, () => `2 \\cdot \\frac{1}{2} ${gold}`),
  "a list in reverse": (gold) => (itemsOf(gold).length > 1 ? itemsOf(gold).toReversed().join(", ") : null),
  "a list with and": (gold) =>
    itemsOf(gold).length > 1 ? `${itemsOf(gold).slice(0, -1).join(", ")} \\text{ and } ${itemsOf(gold).at(-1)}` : null,
  semicolons: (gold) => when(/^\(([^()[\]]*,[^()[\]]*)\)$/, gold, ([, inner]) => `(${inner!.replaceAll(",", ";")})`),
  inequality,
  "roots as powers": (gold) =>
    /\\sqrt\{\d+\}/.test(gold) && !HAS_WORDS.test(gold) ? gold.replace(/\\sqrt\{(\d+)\}/g, "($1)^{1/2}") : null,
  pct: (gold) => when(/^(\d+(?:\.\d+)?)\s*\\%$/, gold, ([, value]) => `${value} pct`),
  "without its unit": (gold) => when(/^(-?\d+)\s*\\text\s*\{ ?[a-z]{3,}\}$/, gold, ([, value]) => value!),
};

export const DIFFERENT_RULES: Readonly<Record<string, Rule>> = {
  "another digit": (gold, random) => {
    const places = [...gold.matchAll(/[1-9]/g)].map(({ index }) => index);
    const at = places[random(places.length)];
    if (at === undefined) return null;
    return gold.slice(0, at) + ((Number(gold[at]) + 1 + random(8)) % 10) + gold.slice(at + 1);
  },
  "the other sign": (gold) =>
    when(/^-?(?:[1-9]\d*(?:\.\d+)?|\\frac\{[1-9]\d*\}\{\d+\}|[1-9]\d*\\pi)$/, gold, () =>
      gold.startsWith("-") ? gold.slice(1) : `-${gold}`,
    ),
  "a fraction upside down": (gold) =>
    when(FRACTION, gold, ([, sign, top, below]) =>
      top === below || top === "0" ? `${gold} + 1` : `${sign}\\frac{${below}}{${top}}`,
    ),
  "coordinates swapped": (gold) =>
    when(/^\(([^()[\],]*),([^()[\],]*)\)$/, gold, ([, x, y]) =>
      x!.trim() === y!.trim() ? `(${x}, ${y}, 0)` : `(${y},${x})`,
    ),
  "the other bracket": (gold) =>
    when(
      /^([([][^()[\],]*,[^()[\],]*\d\s*)([)\]])$/,
      gold,
      ([, inner, close]) => `${inner}${close === ")" ? "]" : ")"}`,
    ),
  "an item less": (gold) => (itemsOf(gold).length > 1 ? itemsOf(gold).slice(0, -1).join(", ") : null),
  "an item more": (gold) => when(/^[-\d.]+(?:,\s[-\d.]+)*$/, gold, () => `${gold}, 98765`),
  "a percentage": (gold) => when(/^[1-9]\d*(?:\.\d+)?$/, gold, () => `${gold}\\%`),
  "a bound": (gold) => when(NUMBER, gold, () => `x \\ge ${gold}`),
  "or more": (gold) => when(NUMBER, gold, () => `${gold} \\text{ or more}`),
  "another word": (gold) => when(/^\\text\{([A-Za-z]{3,})\}$/, gold, ([, word]) => `\\text{not ${word}}`),
  "twice a matrix": (gold) => (MATRIX.test(gold) && /[1-9]/.test(gold) ? `2${gold}` : null),
};

export interface Outcome {
  readonly rule: string;
  readonly equal: boolean;
  readonly count: number;
  readonly failures: readonly (readonly [gold: string, rewritten: string])[];
}

/** Each rule on each gold that it applies to; the same seed gives the same changes. */
export function rewriteAll(golds: readonly string[], seed: number): readonly Outcome[] {
  let state = seed >>> 0;
  // Numerical Recipes' linear congruential generator.
  const random: Random = (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const outcome = (rules: Readonly<Record<string, Rule>>, equal: boolean): readonly Outcome[] =>
    Object.entries(rules).map(([rule, rewrite]) => {
      const pairs = golds.flatMap((gold) => {
        const rewritten = rewrite(gold, random);
        return rewritten === null ? [] : [[gold, rewritten] as const];
      });
      return { rule, equal, count: pairs.length, failures: pairs.filter(([a, b]) => equalAnswers(a, b) !== equal) };
    });
  return [...outcome(EQUAL_RULES, true), ...outcome(DIFFERENT_RULES, false)];
}

if (import.meta.main) {
  const options = { seed: { type: "string", default: "1" }, show: { type: "string", default: "3" } } as const;
  const { values, positionals } = parseArgs({ allowPositionals: true, options });
  const lines = (await Bun.file(positionals[0]!).text()).trim().split("\n");
  const golds = new Set(lines.map((line) => JSON.parse(line)).map(({ gold, answer }) => String(gold ?? answer)));
  const outcomes = rewriteAll(
    [...golds].filter((gold) => gold.trim() !== ""),
    Number(values.seed),
  );
  for (const { rule, equal, count, failures } of outcomes) {
    console.log(`${equal ? "equal" : "different"}, ${rule}: ${count - failures.length} of ${count}`);
    for (const [gold, rewritten] of failures.slice(0, Number(values.show))) console.log(`    ${gold}   ${rewritten}`);
  }
}
