/**
 * The value of an expression: an exact fraction as long as every step gives one, else a complex float.
 * Variables get their values from the caller. Null means that there is no single finite value (an unknown function,
 * a tuple inside a sum, a division by zero, an overflow). Never throws, and does a bounded amount of work.
 */
import * as C from "./complex.ts";
import * as R from "./rational.ts";
import type { Expression } from "./tree.ts";

export type Value =
  /** `rounded`: a decimal numeral was involved, so the last digits may be rounded. */
  | { readonly kind: "exact"; readonly value: R.Rational; readonly rounded: boolean }
  /**
   * `scale`: the size of what the rounding errors are relative to, at least |value|; far above it after a cancellation.
   * `rounded` as above.
   */
  | { readonly kind: "float"; readonly value: C.Complex; readonly scale: number; readonly rounded: boolean };

export type Variables = (name: string) => R.Rational | null;

const exact = (value: R.Rational | null, rounded = false): Value | null =>
  value === null ? null : { kind: "exact", value, rounded };

/** Also null if the scale says that no correct digit is left. */
function float(value: C.Complex, scale: number, rounded: boolean): Value | null {
  if (!C.cFinite(value) || !(scale < MAX_SCALE)) return null;
  return { kind: "float", value, scale: Math.max(scale, C.cAbs(value)), rounded };
}
const MAX_SCALE = 1e300;
/** Beyond this, the argument of a sine has lost the digits that its value depends on. */
const MAX_ANGLE = 1e6;

/** The magnitude that its rounding errors are relative to. */
export const scaleOf = (v: Value): number => (v.kind === "float" ? v.scale : C.cAbs(toComplex(v)));
const isZero = (v: Value): boolean => (v.kind === "exact" ? v.value.n === 0n : v.value.re === 0 && v.value.im === 0);
/** Whether a float can hold it: an exact number may be too large or too small. */
export function hasFloat(v: Value): boolean {
  const size = C.cAbs(toComplex(v));
  return Number.isFinite(size) && (size > 0 || isZero(v));
}
/** How much larger the scale is than the value: the relative error, in units of the last digit. */
const amplification = (v: Value): number => (isZero(v) ? 1 : Math.max(1, scaleOf(v) / C.cAbs(toComplex(v))));

/** The value as a complex float. */
export const toComplex = (v: Value): C.Complex => (v.kind === "exact" ? C.cx(R.ratToNumber(v.value)) : v.value);

type Exact2 = (a: R.Rational, b: R.Rational) => R.Rational | null;
type Float2 = (a: C.Complex, b: C.Complex) => C.Complex;

/** Exact if both are and the result is small enough, else float. */
function combine(a: Value | null, b: Value | null, rational: Exact2, complex: Float2): Value | null {
  if (a === null || b === null) return null;
  if (rational === R.ratDiv && isZero(b)) return null;
  if (a.kind === "exact" && b.kind === "exact") {
    const result = exact(rational(a.value, b.value), a.rounded || b.rounded);
    if (result !== null) return result;
  }
  const result = complex(toComplex(a), toComplex(b));
  const rounded = a.rounded || b.rounded;
  if (rational === R.ratAdd) return float(result, Math.max(scaleOf(a), scaleOf(b)), rounded);
  // A product of nonzero factors is not 0: an underflow has no value here.
  if (C.cAbs(result) === 0 && !isZero(a) && !isZero(b)) return null;
  return float(result, C.cAbs(result) * Math.max(amplification(a), amplification(b)), rounded);
}

const SPECIAL: Readonly<Record<string, C.Complex>> = { pi: C.cx(Math.PI), e: C.cx(Math.E), i: C.cx(0, 1) };

/** `trig`: inside a sine or its like, where 30° is π/6. `real`: null if any part of it is not a real number. */
export function evaluate(x: Expression, variables: Variables, trig = false, real = false): Value | null {
  const value = evaluateNode(x, variables, trig, real);
  return real && value?.kind === "float" && value.value.im !== 0 ? null : value;
}

function evaluateNode(x: Expression, variables: Variables, trig: boolean, real: boolean): Value | null {
  const of = (e: Expression): Value | null => evaluate(e, variables, trig, real);
  switch (x.kind) {
    case "number":
      return exact(x.value, x.rounded);
    case "symbol": {
      const constant = SPECIAL[x.name];
      return constant === undefined ? exact(variables(x.name)) : float(constant, 1, false);
    }
    case "sum":
      return fold(x.items, of, R.ratAdd, C.cAdd);
    case "product":
      return product(x.items, of);
    case "negative": {
      const v = of(x.of);
      if (v === null) return null;
      return v.kind === "exact" ? exact(R.ratNeg(v.value), v.rounded) : float(C.cNeg(v.value), v.scale, v.rounded);
    }
    case "inverse":
      return combine(exact(R.rational(1n)), of(x.of), R.ratDiv, C.cDiv);
    case "percent":
      if (x.of.kind === "percent") return null;
      return combine(of(x.of), exact(R.rational(100n)), R.ratDiv, C.cDiv);
    case "degrees": {
      const v = of(x.of);
      return trig && v !== null ? float(C.cMul(toComplex(v), C.cx(Math.PI / 180)), scaleOf(v) / 57, v.rounded) : v;
    }
    case "power":
      return power(of(x.base), of(x.exponent));
    case "call":
      return call(x.name, x.args, variables, trig, real);
    case "ratio":
      return x.items.length === 2 ? combine(of(x.items[0]!), of(x.items[1]!), R.ratDiv, C.cDiv) : null;
    default:
      return null;
  }
}

function fold(items: readonly Expression[], of: (e: Expression) => Value | null, r: Exact2, c: Float2): Value | null {
  let total: Value | null = of(items[0]!);
  for (let i = 1; i < items.length && total !== null; i++) total = combine(total, of(items[i]!), r, c);
  return total;
}

/** Divides by an inverse instead of multiplying with it, so that 1/49·49 in floats stays what the writer meant. */
function product(items: readonly Expression[], of: (e: Expression) => Value | null): Value | null {
  let total: Value | null = exact(R.rational(1n));
  for (const item of items) {
    if (total === null) return null;
    if (item.kind === "inverse") total = combine(total, of(item.of), R.ratDiv, C.cDiv);
    else total = combine(total, of(item), R.ratMul, C.cMul);
  }
  return total;
}

function power(base: Value | null, exponent: Value | null): Value | null {
  if (base === null || exponent === null) return null;
  if (base.kind === "exact" && exponent.kind === "exact") {
    const rounded = base.rounded || exponent.rounded;
    const { n, d } = exponent.value;
    if (d === 1n) {
      const whole = exact(R.ratPow(base.value, n), rounded);
      if (whole !== null) return whole;
    }
    const root = d === 2n ? R.ratSqrt(base.value) : null;
    const half = root === null ? null : exact(R.ratPow(root, n), rounded);
    if (half !== null) return half;
  }
  if (!hasFloat(base) || !hasFloat(exponent)) return null;
  const [a, b] = [toComplex(base), toComplex(exponent)];
  const result = C.cPow(a, b);
  if (C.cAbs(result) === 0 && !isZero(base)) return null;
  const condition =
    amplification(base) * Math.max(1, C.cAbs(b)) + scaleOf(exponent) * Math.abs(Math.log(C.cAbs(a) || 1));
  return float(result, C.cAbs(result) * condition, base.rounded || exponent.rounded);
}

const FLOAT_FUNCTIONS: Readonly<Record<string, (a: C.Complex) => C.Complex>> = {
  sin: C.cSin,
  cos: C.cCos,
  tan: (a) => C.cDiv(C.cSin(a), C.cCos(a)),
  sec: (a) => C.cDiv(C.cx(1), C.cCos(a)),
  csc: (a) => C.cDiv(C.cx(1), C.cSin(a)),
  cot: (a) => C.cDiv(C.cCos(a), C.cSin(a)),
  arcsin: (a) => C.onReals(Math.asin, a),
  arccos: (a) => C.onReals(Math.acos, a),
  arctan: (a) => C.onReals(Math.atan, a),
  sinh: (a) => C.onReals(Math.sinh, a),
  cosh: (a) => C.onReals(Math.cosh, a),
  tanh: (a) => C.onReals(Math.tanh, a),
  exp: C.cExp,
  ln: C.cLog,
  cbrt: (a) => C.onReals(Math.cbrt, a),
  sqrt: C.cSqrt,
  abs: (a) => C.cx(C.cAbs(a)),
  cis: (a) => C.cExp(C.cMul(C.cx(0, 1), a)),
};
const ANGLES = new Set(["sin", "cos", "tan", "sec", "csc", "cot", "cis"]);

function call(
  name: string,
  args: readonly Expression[],
  variables: Variables,
  trig: boolean,
  real: boolean,
): Value | null {
  const [a, b] = args.map((arg) => evaluate(arg, variables, trig || ANGLES.has(name), real));
  if (a === null || a === undefined || b === null) return null;
  if (a.kind === "exact") {
    const result = exactCall(name, a.value, b, a.rounded);
    if (result !== null) return result;
  }
  if (!hasFloat(a) || (b !== undefined && !hasFloat(b))) return null;
  if (name === "log") {
    const base = b === undefined ? C.cx(10) : toComplex(b);
    const result = C.cDiv(C.cLog(toComplex(a)), C.cLog(base));
    return float(result, Math.max(C.cAbs(result), amplification(a)), a.rounded || (b?.rounded ?? false));
  }
  if (name === "root") {
    if (b === undefined) return null;
    const z = toComplex(a);
    const n = toComplex(b);
    // An odd root of a negative real is real to the people who write \sqrt[3]{-8}.
    if (z.im === 0 && z.re < 0 && n.im === 0 && Math.abs(n.re % 2) === 1) {
      return float(C.cx(-((-z.re) ** (1 / n.re))), scaleOf(a) ** (1 / n.re), a.rounded);
    }
    const result = C.cPow(z, C.cDiv(C.cx(1), n));
    return float(result, C.cAbs(result) * amplification(a), a.rounded || b.rounded);
  }
  const f = FLOAT_FUNCTIONS[name];
  if (f === undefined) return null;
  const z = f(toComplex(a));
  const size = C.cAbs(z);
  if (ANGLES.has(name)) {
    // Near a pole or far out, the value is all rounding error.
    if (scaleOf(a) > MAX_ANGLE || size > 1e12) return null;
    return float(z, Math.max(size, scaleOf(a) * Math.max(1, size * size)), a.rounded);
  }
  if (name === "exp") return size === 0 ? null : float(z, size * Math.max(1, scaleOf(a)), a.rounded);
  if (name === "ln") return float(z, Math.max(size, amplification(a)), a.rounded);
  if (name === "sqrt" && !isZero(a)) return float(z, size * amplification(a), a.rounded);
  return float(z, Math.max(size, scaleOf(a)), a.rounded);
}

function exactCall(name: string, a: R.Rational, b: Value | undefined, rounded: boolean): Value | null {
  switch (name) {
    case "sqrt":
      return exact(R.ratSqrt(a), rounded);
    case "abs":
      return exact(R.ratAbs(a), rounded);
    case "floor":
      return exact(R.ratFloor(a));
    case "ceil":
      return exact(R.ratNeg(R.ratFloor(R.ratNeg(a))));
    case "factorial":
      return a.d === 1n && a.n >= 0n && a.n <= 400n ? exact(fallingProduct(a.n, a.n)) : null;
    case "binomial": {
      if (b?.kind !== "exact" || a.d !== 1n || b.value.d !== 1n) return null;
      const n = a.n;
      const k = b.value.n;
      if (k < 0n || n < k || k > 400n) return null;
      const top = fallingProduct(n, k);
      const bottom = fallingProduct(k, k);
      return top === null || bottom === null ? null : exact(R.ratDiv(top, bottom));
    }
    default:
      return null;
  }
}

/** n(n-1)…(n-k+1), or null once it is too large. */
function fallingProduct(n: bigint, k: bigint): R.Rational | null {
  let result: R.Rational | null = { n: 1n, d: 1n };
  for (let i = 0n; i < k && result !== null; i++) result = R.ratMul(result, { n: n - i, d: 1n });
  return result;
}
