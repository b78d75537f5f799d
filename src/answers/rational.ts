/**
 * Exact fractions over BigInt, bounded in size so that no answer can make them expensive:
 * an operation whose result would exceed `MAX_BITS` returns null, and the caller continues in floating point.
 * No parsing here (parse.ts, gsm8k.ts) and nothing irrational (complex.ts).
 */

/** A reduced fraction; `d` is positive. */
export interface Rational {
  readonly n: bigint;
  readonly d: bigint;
}

/** The largest numerator or denominator, in bits: about 1,200 decimal digits. */
const MAX_BITS = 4096;
const LIMIT = 1n << BigInt(MAX_BITS);

const abs = (x: bigint): bigint => (x < 0n ? -x : x);

function gcd(a: bigint, b: bigint): bigint {
  let x = abs(a);
  let y = abs(b);
  while (y !== 0n) [x, y] = [y, x % y];
  return x;
}

/** n/d reduced; null for a zero denominator or a result past `MAX_BITS`. */
export function rational(n: bigint, d = 1n): Rational | null {
  if (d === 0n) return null;
  const g = gcd(n, d);
  const sign = d < 0n ? -1n : 1n;
  const num = (sign * n) / g;
  const den = (sign * d) / g;
  return abs(num) > LIMIT || den > LIMIT ? null : { n: num, d: den };
}

/** An already reduced n/d, or null past `MAX_BITS`. */
const bounded = (n: bigint, d: bigint): Rational | null => (abs(n) > LIMIT || d > LIMIT ? null : { n, d });

// As in Knuth, TAOCP 2, 4.5.1: common divisors are taken out of the operands, which is cheap if one of them is small,
// instead of out of the large result.

export function ratMul(a: Rational, b: Rational): Rational | null {
  const g = gcd(a.n, b.d);
  const h = gcd(b.n, a.d);
  return bounded((a.n / g) * (b.n / h), (a.d / h) * (b.d / g));
}

export function ratAdd(a: Rational, b: Rational): Rational | null {
  const g = gcd(a.d, b.d);
  if (g === 1n) return bounded(a.n * b.d + b.n * a.d, a.d * b.d);
  const sum = a.n * (b.d / g) + b.n * (a.d / g);
  const h = gcd(sum, g);
  return bounded(sum / h, (a.d / g) * (b.d / h));
}

export const ratSub = (a: Rational, b: Rational): Rational | null => ratAdd(a, { n: -b.n, d: b.d });
export const ratDiv = (a: Rational, b: Rational): Rational | null =>
  b.n === 0n ? null : ratMul(a, b.n < 0n ? { n: -b.d, d: -b.n } : { n: b.d, d: b.n });
export const ratNeg = (a: Rational): Rational => ({ n: -a.n, d: a.d });
export const ratAbs = (a: Rational): Rational => ({ n: abs(a.n), d: a.d });
export const ratEquals = (a: Rational, b: Rational): boolean => a.n === b.n && a.d === b.d;

/** Bits of |x|, to within four. */
const bits = (x: bigint): number => abs(x).toString(16).length * 4;

/** a^e for an integer exponent; null if the result is too large or 0 is raised to a negative power. */
export function ratPow(a: Rational, e: bigint): Rational | null {
  const size = abs(e);
  if (a.d === 1n && abs(a.n) <= 1n) {
    if (a.n === 0n) return e < 0n ? null : rational(e === 0n ? 1n : 0n);
    return rational(a.n === 1n || size % 2n === 0n ? 1n : -1n);
  }
  if (size > BigInt(MAX_BITS) || (Math.max(bits(a.n), bits(a.d)) - 4) * Number(size) > MAX_BITS) return null;
  return e < 0n ? rational(a.d ** size, a.n ** size) : rational(a.n ** size, a.d ** size);
}

/** floor(√x) by Newton's method, for x ≥ 0. */
function isqrt(x: bigint): bigint {
  if (x < 2n) return x;
  let r = 1n << BigInt(Math.ceil(bits(x) / 2));
  for (;;) {
    const next = (r + x / r) >> 1n;
    if (next >= r) return r;
    r = next;
  }
}

/** √a if it is itself rational, else null. */
export function ratSqrt(a: Rational): Rational | null {
  if (a.n < 0n) return null;
  const n = isqrt(a.n);
  const d = isqrt(a.d);
  return n * n === a.n && d * d === a.d ? { n, d } : null;
}

/** The greatest integer not greater than a. */
export function ratFloor(a: Rational): Rational {
  const q = a.n / a.d;
  return { n: a.n < 0n && q * a.d !== a.n ? q - 1n : q, d: 1n };
}

/** The nearest float; scaled first, so that huge numerators and denominators do not become Infinity/Infinity. */
export function ratToNumber(a: Rational): number {
  const excess = Math.min(bits(a.n), bits(a.d)) - 900;
  if (excess <= 0) return Number(a.n) / Number(a.d);
  const shift = BigInt(excess);
  return Number(a.n >> shift) / Number(a.d >> shift);
}

/**
 * A plain decimal numeral (`-12.50`, `.5`, `3e-4`) as a fraction; null for anything else or a numeral that is too long.
 * `text` may be hostile: its length is checked before any work.
 */
export function ratFromDecimal(text: string): Rational | null {
  if (text.length > 1200) return null;
  const match = /^([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,4}))?$/.exec(text);
  if (match === null) return null;
  const [, sign = "", whole = "", fraction = "", exponent = "0"] = match;
  if (whole === "" && fraction === "") return null;
  const scale = Number(exponent) - fraction.length;
  if (Math.abs(scale) > 1200) return null;
  const digits = BigInt(`${whole}${fraction}`);
  const n = sign === "-" ? -digits : digits;
  return scale >= 0 ? rational(n * 10n ** BigInt(scale)) : rational(n, 10n ** BigInt(-scale));
}
