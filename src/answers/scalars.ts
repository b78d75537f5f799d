/**
 * Whether two numbers, or two expressions in variables, are the same. Expressions are compared by their values at
 * pseudo-random points (fixed, so that a verdict never changes), without any symbolic simplification: a false match of
 * two polynomials would need all points to be roots of their difference (Schwartz–Zippel). The points are fractions over
 * different primes, so that no short formula with a period or a rounding function is 0 at all of them.
 *
 * Tolerances: fractions are equal exactly. A decimal numeral may differ by the relative 1e-12 (a float's printed noise)
 * from a number that is itself a short decimal, and by 1e-9 (rounding) from any other. Irrational values are equal
 * within 1e-12 of the largest term that was added, so that 0 equals sin π but not 10^-13.
 */
import { cAbs, cSub } from "./complex.ts";
import { evaluate, hasFloat, scaleOf, toComplex, type Value, type Variables } from "./evaluate.ts";
import { type Rational, ratAbs, ratEquals, rational, ratMul, ratSub } from "./rational.ts";
import { callsOf, type Expression, variablesOf } from "./tree.ts";

/** Relative difference below which a rounded decimal and a number without a short decimal are the same. */
const RELATIVE = 1e-9;
/** The same for numbers that no one needs to round. */
const NOISE = 1e-12;

/** Two floats that are the same number; infinities only equal themselves. */
export function near(a: number, b: number): boolean {
  if (a === b || !Number.isFinite(a) || !Number.isFinite(b)) return a === b;
  return Math.abs(a - b) <= NOISE * Math.max(Math.abs(a), Math.abs(b));
}

/** 1 for ∞, -1 for -∞, 0 for everything else. */
export function infinityOf(x: Expression): -1 | 0 | 1 {
  if (x.kind === "infinity") return 1;
  return x.kind === "negative" && x.of.kind === "infinity" ? -1 : 0;
}

/** The names of both. */
export const allNames = (a: ReadonlySet<string>, b: ReadonlySet<string>): ReadonlySet<string> => new Set([...a, ...b]);

/** Whether two expressions without structure (no tuple, list or equation) have the same value; `a` is the gold. */
export function equalScalars(a: Expression, b: Expression): boolean {
  const [x, y] = [infinityOf(a), infinityOf(b)];
  if (x !== 0 || y !== 0) return x === y;
  // 3:2 may be written 3/2; a time of day is not a quotient, and 2:1 is not the number 2.
  if ((a.kind === "ratio") !== (b.kind === "ratio")) {
    const [ratio, other] = a.kind === "ratio" ? [a, b] : [b, a];
    if (!isQuotient(other) || looksLikeTime(ratio)) return false;
  }
  if (a.kind === "percent" && b.kind === "percent") return equalScalars(a.of, b.of);
  // A gold of 28% matches 28, since units may be left out, and 0.28; a gold of 28 does not match 28%.
  if (a.kind === "percent") return equalScalars(a.of, b) || equalValues(a, b);
  return equalValues(a, b);
}

const isQuotient = (x: Expression): boolean => x.kind === "product" && x.items.some((item) => item.kind === "inverse");

function looksLikeTime(x: Expression): boolean {
  const minutes = x.kind === "ratio" && x.items.length === 2 ? x.items[1] : undefined;
  return minutes?.kind === "number" && minutes.value.d === 1n && minutes.value.n >= 10n && minutes.value.n < 60n;
}

/** How many points two expressions in variables are compared at; at least `ENOUGH` must be in both domains. */
export const POINTS = 8;
const ENOUGH = 3;
/** Most variables in both expressions together. */
const MAX_NAMES = 30;

const PRIMES = [1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049, 1051, 1061, 1063, 1069, 1087, 1091, 1093, 1097];
/** Per point: the range of the variables' sizes, and which of them are negative. */
const RANGES = [
  { low: 0.1, high: 0.9, negative: 0 },
  { low: 0.1, high: 0.9, negative: 0 },
  { low: 0.05, high: 0.95, negative: 0b0101 },
  { low: 1.1, high: 3, negative: 0 },
  { low: 2, high: 7, negative: 0 },
  { low: 0.3, high: 4, negative: 0b1011 },
  { low: 1.1, high: 6, negative: 0b0110 },
  { low: 0.2, high: 9, negative: 0b1111 },
] as const;

/** A number in [0, 1) that is a fixed function of k (the finalizer of MurmurHash3). */
function scrambled(k: number): number {
  let h = Math.imul(k + 1, 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32;
}

/** The values of the variables at one of the points. */
export function at(names: ReadonlySet<string>, point: number): Variables {
  const order = [...names].sort();
  return (name) => {
    const i = order.indexOf(name);
    if (i < 0) return null;
    const { low, high, negative } = RANGES[point % RANGES.length]!;
    const k = point * 64 + i;
    const prime = PRIMES[(point * 3 + i * 5) % PRIMES.length]!;
    const size = Math.round((low + (high - low) * scrambled(k)) * prime);
    return rational(BigInt((negative >> (i % 4)) & 1 ? -size : size), BigInt(prime));
  };
}

/** Whole numbers, for expressions with factorials; they rise with the alphabetical order of names, so that C(n, k) is not 0. */
function atIntegers(names: ReadonlySet<string>, point: number): Variables {
  const order = [...names].sort();
  return (name) => {
    const i = order.indexOf(name);
    return i < 0 ? null : rational(BigInt(2 + 3 * i + Math.floor(scrambled(point * 64 + i) * 3) + point));
  };
}

/** Calls that have a value only at whole numbers, and those allowed together with them (sin πn would be 0 there). */
const DISCRETE = new Set(["factorial", "binomial"]);
const BESIDE_DISCRETE = new Set([...DISCRETE, "sqrt"]);

function equalValues(a: Expression, b: Expression): boolean {
  const names = allNames(variablesOf(a), variablesOf(b));
  if (names.size === 0) {
    const [x, y] = [evaluate(a, () => null), evaluate(b, () => null)];
    return x !== null && y !== null && sameNumber(x, y);
  }
  if (names.size > MAX_NAMES) return false;
  const calls = allNames(callsOf(a), callsOf(b));
  if ([...calls].some((name) => DISCRETE.has(name))) {
    if (![...calls].every((name) => BESIDE_DISCRETE.has(name))) return false;
    return agree(a, b, (k) => atIntegers(names, k), false) === "everywhere";
  }
  // For expressions over the reals, only points where both are real count: √x·√y is √(xy) there. Otherwise over ℂ.
  const points = (k: number): Variables => at(names, k);
  const overReals = agree(a, b, points, true);
  return overReals === "unknown" ? agree(a, b, points, false) === "everywhere" : overReals === "everywhere";
}

function agree(
  a: Expression,
  b: Expression,
  points: (k: number) => Variables,
  real: boolean,
): "everywhere" | "not" | "unknown" {
  let agreed = 0;
  for (let k = 0; k < POINTS; k++) {
    const variables = points(k);
    const [x, y] = [evaluate(a, variables, false, real), evaluate(b, variables, false, real)];
    if (x === null || y === null) continue;
    if (!sameNumber(x, y)) return "not";
    agreed++;
  }
  return agreed >= ENOUGH ? "everywhere" : "unknown";
}

/** Whether it is a decimal that nobody would round: at most 12 places. */
const isShortDecimal = (x: Rational): boolean => 10n ** 12n % x.d === 0n;

function sameNumber(a: Value, b: Value): boolean {
  if (a.kind === "exact" && b.kind === "exact") {
    if (ratEquals(a.value, b.value)) return true;
    if (!a.rounded && !b.rounded) return false;
    // Only the last digits of a long decimal may differ: 0.3333333333 for 1/3, never 5.001 for 5.
    const noise = (a.rounded || isShortDecimal(a.value)) && (b.rounded || isShortDecimal(b.value));
    const difference = ratSub(a.value, b.value);
    const scaled = difference && ratMul(ratAbs(difference), { n: noise ? 10n ** 12n : 10n ** 9n, d: 1n });
    const larger = ratSub(ratAbs(a.value), ratAbs(b.value));
    const most = larger !== null && larger.n >= 0n ? ratAbs(a.value) : ratAbs(b.value);
    const slack = scaled && ratSub(most, scaled);
    return slack !== null && slack.n >= 0n;
  }
  const [x, y] = [toComplex(a), toComplex(b)];
  // An exact number may be outside the floats' range, where everything would be within the tolerance.
  if (!hasFloat(a) || !hasFloat(b)) return false;
  const size = Math.max(cAbs(x), cAbs(y));
  const scale = Math.max(scaleOf(a), scaleOf(b));
  return cAbs(cSub(x, y)) <= Math.max(NOISE * scale, a.rounded || b.rounded ? RELATIVE * size : 0);
}
