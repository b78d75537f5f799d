/**
 * Equations and inequalities as a whole: mirrored, as intervals, as multiples of each other. Leaves out comparing them
 * side by side (compare.ts).
 */
import { evaluate, toComplex } from "./evaluate.ts";
import { type Rational, ratDiv, ratEquals } from "./rational.ts";
import { allNames, at, infinityOf, POINTS } from "./scalars.ts";
import { type Expression, type Relation, variablesOf } from "./tree.ts";

export type Tuple = Extract<Expression, { kind: "tuple" }>;

export const isEquation = (x: Expression): x is Relation => x.kind === "relation" && x.operators[0] === "=";

const MIRRORED: Readonly<Record<string, string>> = { "<": ">", ">": "<", "≤": "≥", "≥": "≤", "=": "=", "≠": "≠" };

/** The relation read from its other end: b > a for a < b. */
export const mirrored = (x: Relation): Relation => ({
  kind: "relation",
  operators: x.operators.toReversed().map((op) => MIRRORED[op] ?? op),
  parts: x.parts.toReversed(),
});

/** a ≤ x ≤ b as [a, b] and x > a as (a, ∞), for bounds that are not numbers. */
export function boundsOf(x: Relation): Tuple | null {
  const { operators, parts } = ">≥".includes(x.operators[0]!) ? mirrored(x) : x;
  if (!operators.every((op) => op === "<" || op === "≤")) return null;
  const infinity: Expression = { kind: "infinity" };
  const tuple = (low: Expression, open: boolean, high: Expression, close: boolean): Tuple => ({
    kind: "tuple",
    open: open ? "(" : "[",
    close: close ? ")" : "]",
    items: [low, high],
  });
  const isUnknown = (part: Expression): boolean => part.kind === "symbol" && /^[n-z]|^theta/.test(part.name);
  if (parts.length === 3) {
    return isUnknown(parts[1]!) ? tuple(parts[0]!, operators[0] === "<", parts[2]!, operators[1] === "<") : null;
  }
  if (parts.length !== 2 || parts.some((part) => infinityOf(part) !== 0)) return null;
  const [low, high] = [parts[0]!, parts[1]!];
  if (isUnknown(high) && !isUnknown(low)) return tuple(low, operators[0] === "<", infinity, true);
  return isUnknown(low) && !isUnknown(high)
    ? tuple({ kind: "negative", of: infinity }, true, high, operators[0] === "<")
    : null;
}

/** l = r and l' = r' with l - r a constant multiple of l' - r'; for inequalities the multiple must be positive. */
export function proportional(a: Relation, b: Relation): boolean {
  const [op, other] = [a.operators[0]!, b.operators[0]!];
  const turned = op !== other;
  if (turned && MIRRORED[op] !== other) return false;
  const names = allNames(variablesOf(a), variablesOf(b));
  if (names.size === 0) return false;
  const difference = (x: Relation): Expression => ({
    kind: "sum",
    items: [x.parts[0]!, { kind: "negative", of: x.parts[1]! }],
  });
  let ratio: number | null = null;
  let exact: Rational | null = null;
  let points = 0;
  for (let k = 0; k < POINTS; k++) {
    const p = evaluate(difference(a), at(names, k));
    const q = evaluate(difference(b), at(names, k));
    if (p === null || q === null) continue;
    const [x, y] = [toComplex(p), toComplex(q)];
    if (x.im !== 0 || y.im !== 0 || y.re === 0) continue;
    const r = x.re / y.re;
    if (r === 0 || !Number.isFinite(r) || (ratio !== null && Math.abs(r - ratio) > 1e-10 * Math.abs(ratio)))
      return false;
    if (p.kind === "exact" && q.kind === "exact" && !p.rounded && !q.rounded) {
      const quotient = ratDiv(p.value, q.value);
      if (exact !== null && quotient !== null && !ratEquals(exact, quotient)) return false;
      exact = quotient;
    }
    ratio = r;
    points++;
  }
  if (ratio === null || points < 3) return false;
  return op === "=" || op === "≠" ? true : turned ? ratio < 0 : ratio > 0;
}
