/**
 * Whether two numbers, or two expressions in variables, are the same. Expressions are compared by their values at fixed
 * points, which simplifies nothing symbolically: a false match of two polynomials would need all points to be roots of
 * their difference (Schwartz–Zippel).
 */
import { cAbs, cSub } from "./complex.ts";
import { evaluate, toComplex, type Value, type Variables } from "./evaluate.ts";
import { ratAbs, ratEquals, rational, ratMul, ratSub } from "./rational.ts";
import { type Expression, variablesOf } from "./tree.ts";

/** Relative difference under which two floats, or a rounded decimal and a fraction, are the same number. */
const RELATIVE = 1e-9;
const ABSOLUTE = 1e-12;

/** Two floats that are the same number; infinities only equal themselves. */
export function near(a: number, b: number): boolean {
  if (a === b || !Number.isFinite(a) || !Number.isFinite(b)) return a === b;
  return Math.abs(a - b) <= Math.max(ABSOLUTE, RELATIVE * Math.max(Math.abs(a), Math.abs(b)));
}

/** 1 for ∞, -1 for -∞, 0 for everything else. */
export function infinityOf(x: Expression): -1 | 0 | 1 {
  if (x.kind === "infinity") return 1;
  return x.kind === "negative" && x.of.kind === "infinity" ? -1 : 0;
}

/** All names of both. */
export const allNames = (a: ReadonlySet<string>, b: ReadonlySet<string>): ReadonlySet<string> => new Set([...a, ...b]);

/** Whether two expressions without structure (no tuple, list or equation in them) have the same value. */
export function equalScalars(a: Expression, b: Expression): boolean {
  const [x, y] = [infinityOf(a), infinityOf(b)];
  if (x !== 0 || y !== 0) return x === y;
  if (a.kind === "percent" && b.kind === "percent") return equalScalars(a.of, b.of);
  // 28% may be written 28 (the question asked for a percentage) or 0.28.
  if (a.kind === "percent") return equalScalars(a.of, b) || equalValues(a, b);
  if (b.kind === "percent") return equalScalars(a, b.of) || equalValues(a, b);
  return equalValues(a, b);
}

/** How many points two expressions in variables are compared at; at least half must be in both domains. */
export const POINTS = 6;
/** Numerators over 7: no two variables share a value, none is 0 or ±1, signs are mixed after the first point. */
const SEEDS = [8, 11, 16, 23, 29, 37, 44, 53, 59, 67, 79, 86, 93, 101, 109, 121];

/** The values of the variables at one of the points. */
export function at(names: ReadonlySet<string>, point: number): Variables {
  const order = [...names].sort();
  return (name) => {
    const i = order.indexOf(name);
    const seed = SEEDS[(i * 5 + point * 3) % SEEDS.length]! + Math.floor((i * 5 + point * 3) / SEEDS.length) * 128;
    const negative = point > 0 && ((point >> (i % 3)) & 1) === 1;
    return i < 0 ? null : rational(BigInt(negative ? -seed : seed), 7n);
  };
}

function equalValues(a: Expression, b: Expression): boolean {
  const names = allNames(variablesOf(a), variablesOf(b));
  if (names.size === 0) {
    const [x, y] = [evaluate(a, () => null), evaluate(b, () => null)];
    return x !== null && y !== null && sameNumber(x, y);
  }
  if (names.size > 12) return false;
  let agreed = 0;
  for (let k = 0; k < POINTS; k++) {
    const variables = at(names, k);
    const [x, y] = [evaluate(a, variables), evaluate(b, variables)];
    if (x === null || y === null) continue;
    if (!sameNumber(x, y)) return false;
    agreed++;
  }
  return agreed * 2 >= POINTS;
}

function sameNumber(a: Value, b: Value): boolean {
  if (a.kind === "exact" && b.kind === "exact") {
    if (ratEquals(a.value, b.value)) return true;
    if (!a.rounded && !b.rounded) return false;
    const difference = ratSub(a.value, b.value);
    if (difference === null) return false;
    // Only the last digits of a long decimal may differ: 0.3333333333 for 1/3, never 5.001 for 5.
    const scaled = ratMul(ratAbs(difference), { n: 1_000_000_000n, d: 1n });
    const larger = ratSub(ratAbs(a.value), ratAbs(b.value));
    const most = larger !== null && larger.n >= 0n ? ratAbs(a.value) : ratAbs(b.value);
    const slack = scaled && ratSub(most, scaled);
    return slack !== null && slack.n >= 0n;
  }
  const [x, y] = [toComplex(a), toComplex(b)];
  const scale = Math.max(cAbs(x), cAbs(y));
  return cAbs(cSub(x, y)) <= Math.max(ABSOLUTE, RELATIVE * scale);
}
