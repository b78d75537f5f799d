/**
 * Exact floating point for expected values: a number is an integer times a power of two, arithmetic on it is exact, and
 * rounding to a format happens once, in any of the four directions. Slow and independent of the machine.
 */

export interface Format {
  readonly bits: number;
  /** Stored bits of the significand. */
  readonly fraction: number;
  readonly bias: number;
}

export const formats = {
  f16: { bits: 16, fraction: 10, bias: 15 },
  bf16: { bits: 16, fraction: 7, bias: 127 },
  f32: { bits: 32, fraction: 23, bias: 127 },
  f64: { bits: 64, fraction: 52, bias: 1023 },
} as const satisfies Record<string, Format>;

/** To nearest even, towards zero, down, up. */
export type Rounding = "rn" | "rz" | "rm" | "rp";

/** ± magnitude · 2^exponent, an infinity, or NaN. */
export type Value =
  | { readonly kind: "finite"; readonly negative: boolean; readonly magnitude: bigint; readonly exponent: number }
  | { readonly kind: "infinite"; readonly negative: boolean }
  | { readonly kind: "nan" };

export const nan: Value = { kind: "nan" };

export function finite(negative: boolean, magnitude: bigint, exponent = 0): Value {
  return { kind: "finite", negative, magnitude, exponent };
}

export function isNoNumber(format: Format, bits: bigint): boolean {
  const magnitude = bits & ((1n << BigInt(format.bits - 1)) - 1n);
  return magnitude > infinity(format);
}

function infinity(format: Format): bigint {
  return BigInt(2 * format.bias + 1) << BigInt(format.fraction);
}

/** The NaN that instructions produce: all ones except the sign. */
export function canonicalNaN(format: Format): bigint {
  return (1n << BigInt(format.bits - 1)) - 1n;
}

export function isSubnormal(format: Format, bits: bigint): boolean {
  const magnitude = bits & ((1n << BigInt(format.bits - 1)) - 1n);
  return magnitude > 0n && magnitude < 1n << BigInt(format.fraction);
}

/** Subnormal numbers become zeros of the same sign. */
export function flush(format: Format, bits: bigint): bigint {
  return isSubnormal(format, bits) ? bits & (1n << BigInt(format.bits - 1)) : bits;
}

export function decode(format: Format, bits: bigint): Value {
  const negative = ((bits >> BigInt(format.bits - 1)) & 1n) === 1n;
  const fraction = bits & ((1n << BigInt(format.fraction)) - 1n);
  const exponent = Number((bits >> BigInt(format.fraction)) & BigInt(2 * format.bias + 1));
  if (exponent === 2 * format.bias + 1) return fraction === 0n ? { kind: "infinite", negative } : nan;
  const least = 1 - format.bias - format.fraction;
  if (exponent === 0) return finite(negative, fraction, least);
  return finite(negative, fraction | (1n << BigInt(format.fraction)), least + exponent - 1);
}

/** magnitude · 2^exponent as an integer, rounded. */
function integral(negative: boolean, magnitude: bigint, exponent: number, mode: Rounding): bigint {
  if (exponent >= 0) return magnitude << BigInt(exponent);
  const shift = BigInt(-exponent);
  const floor = magnitude >> shift;
  const rest = magnitude - (floor << shift);
  if (rest === 0n) return floor;
  const half = 1n << (shift - 1n);
  const up =
    mode === "rn"
      ? rest > half || (rest === half && (floor & 1n) === 1n)
      : mode === "rz"
        ? false
        : negative === (mode === "rm");
  return up ? floor + 1n : floor;
}

/** An integer in the same representation, as `cvt.rni` and similar define it. */
export function toInteger(value: Value, mode: Rounding): Value {
  if (value.kind !== "finite") return value;
  return finite(value.negative, integral(value.negative, value.magnitude, value.exponent, mode));
}

/** The bits of a value in a format, rounded once; beyond the largest number, the mode decides. */
export function encode(format: Format, value: Value, mode: Rounding = "rn"): bigint {
  if (value.kind === "nan") return canonicalNaN(format);
  const sign = value.negative ? 1n << BigInt(format.bits - 1) : 0n;
  if (value.kind === "infinite") return sign | infinity(format);
  if (value.magnitude === 0n) return sign;
  const least = 1 - format.bias - format.fraction;
  const length = value.magnitude.toString(2).length;
  // Exponent of the last place: that of the leading bit minus the fraction bits, but at least the subnormals'.
  const place = Math.max(least, value.exponent + length - 1 - format.fraction);
  const rounded = integral(value.negative, value.magnitude, value.exponent - place, mode);
  // Carrying into the next binade needs no special case, since exponent and fraction are adjacent.
  const field = rounded < 1n << BigInt(format.fraction) ? 0n : BigInt(place - least);
  const bits = rounded + (field << BigInt(format.fraction));
  if (bits < infinity(format)) return sign | bits;
  const towardsZero = mode === "rz" || (mode === "rm" && !value.negative) || (mode === "rp" && value.negative);
  return sign | (towardsZero ? infinity(format) - 1n : infinity(format));
}

export function negate(value: Value): Value {
  return value.kind === "nan" ? value : { ...value, negative: !value.negative };
}

/** The exact sum. An exact zero from opposite signs is +0, but −0 when rounding down. */
export function add(a: Value, b: Value, mode: Rounding = "rn"): Value {
  if (a.kind === "nan" || b.kind === "nan") return nan;
  if (a.kind === "infinite") return b.kind === "infinite" && a.negative !== b.negative ? nan : a;
  if (b.kind === "infinite") return b;
  const exponent = Math.min(a.exponent, b.exponent);
  const term = (v: typeof a) => (v.negative ? -1n : 1n) * (v.magnitude << BigInt(v.exponent - exponent));
  const sum = term(a) + term(b);
  if (sum === 0n) return finite(a.negative === b.negative ? a.negative : mode === "rm", 0n);
  return finite(sum < 0n, sum < 0n ? -sum : sum, exponent);
}

export function multiply(a: Value, b: Value): Value {
  if (a.kind === "nan" || b.kind === "nan") return nan;
  const negative = a.negative !== b.negative;
  if (a.kind === "infinite" || b.kind === "infinite") {
    const zero = (v: Value) => v.kind === "finite" && v.magnitude === 0n;
    return zero(a) || zero(b) ? nan : { kind: "infinite", negative };
  }
  return finite(negative, a.magnitude * b.magnitude, a.exponent + b.exponent);
}

/** The quotient to 200 bits plus a sticky bit, which rounds like the exact one. */
export function divide(a: Value, b: Value): Value {
  if (a.kind === "nan" || b.kind === "nan") return nan;
  const negative = a.negative !== b.negative;
  if (a.kind === "infinite") return b.kind === "infinite" ? nan : { kind: "infinite", negative };
  if (b.kind === "infinite") return finite(negative, 0n);
  if (b.magnitude === 0n) return a.magnitude === 0n ? nan : { kind: "infinite", negative };
  const shifted = a.magnitude << 200n;
  const quotient = shifted / b.magnitude;
  const sticky = quotient * b.magnitude === shifted ? 0n : 1n;
  return finite(negative, (quotient << 1n) | sticky, a.exponent - b.exponent - 201);
}

/** The square root to 150 bits plus a sticky bit; NaN for negative numbers, −0 for −0. */
export function squareRoot(a: Value): Value {
  if (a.kind === "nan") return nan;
  if (a.kind === "finite" && a.magnitude === 0n) return a;
  if (a.negative) return nan;
  if (a.kind === "infinite") return a;
  const odd = a.exponent % 2 === 0 ? 0 : 1;
  const n = a.magnitude << BigInt(300 + odd);
  let root = 1n << BigInt(Math.ceil(n.toString(2).length / 2));
  for (let next = (root + n / root) >> 1n; next < root; next = (root + n / root) >> 1n) root = next;
  return finite(false, (root << 1n) | (root * root === n ? 0n : 1n), (a.exponent - odd) / 2 - 151);
}

/** −1, 0, 1, or undefined if either is NaN. */
export function compare(a: Value, b: Value): number | undefined {
  if (a.kind === "nan" || b.kind === "nan") return undefined;
  const rank = (v: typeof a) => (v.kind === "infinite" ? (v.negative ? -1 : 1) : 0);
  if (rank(a) !== rank(b)) return rank(a) < rank(b) ? -1 : 1;
  if (a.kind === "infinite" || b.kind === "infinite") return 0;
  const difference = add(a, negate(b));
  if (difference.kind !== "finite" || difference.magnitude === 0n) return 0;
  return difference.negative ? -1 : 1;
}

/** As a double, only for error bounds. */
export function toNumber(value: Value): number {
  if (value.kind === "nan") return Number.NaN;
  if (value.kind === "infinite") return value.negative ? -Infinity : Infinity;
  const bits = encode(formats.f64, value);
  return new Float64Array(new BigUint64Array([bits]).buffer)[0]!;
}
