/**
 * Left sides of equations that name the right side: x, x_1, f(x), AB, |AB|, P(X = 2), sin θ. Such a name may be left
 * out of an answer, but not be replaced by the name of another quantity.
 */
import { matrixOf } from "./matrices.ts";
import { CONSTANTS, type Expression, renamed, variablesOf } from "./tree.ts";

/** Whether the expression names a quantity: x, x_1, f(x), AB, |AB|, A:B, (p, q, r). */
export function isName(x: Expression): boolean {
  switch (x.kind) {
    case "symbol":
      return true;
    case "ratio":
    case "tuple":
    case "union":
    case "intersection":
      return x.items.every(isName);
    case "call":
      return x.name === "abs" && x.args.every(isName);
    case "product":
      if (isProbability(x.items)) return true;
      return (
        x.items[0]!.kind === "symbol" &&
        x.items.every((item) => isName(item) || isSignedNumber(item) || isSegmentPower(item))
      );
    default:
      return false;
  }
}

/** P(X = 2), P(X ≥ 1), which the parser reads as a product. */
const isProbability = ([p, event, ...others]: readonly Expression[]): boolean =>
  p?.kind === "symbol" && /^P/.test(p.name) && event?.kind === "relation" && others.length === 0;

const TRIGONOMETRIC: ReadonlySet<string> = new Set(["sin", "cos", "tan", "sec", "csc", "cot"]);

/** Left sides that are names only for such a value, and else belong to an equation: sin θ = 3/5, A⁻¹ or Aᵀ of a matrix. */
export function isNameOf(x: Expression, value: Expression): boolean {
  if (x.kind === "call") return TRIGONOMETRIC.has(x.name) && x.args.every(isName) && variablesOf(value).size === 0;
  return x.kind === "power" && x.base.kind === "symbol" && matrixOf(value) !== null;
}

/** a + b + c, x/y: compound quantities that a question may ask for. Not 2x or x + 1, whose value is not the answer. */
export function isCompound(x: Expression): boolean {
  if (x.kind !== "sum" && x.kind !== "product") return false;
  return x.items.every((item) => isSymbols(item.kind === "negative" || item.kind === "inverse" ? item.of : item));
}

/** x, AB, ∠A: symbols without any number. */
const isSymbols = (x: Expression): boolean =>
  x.kind === "symbol" || (x.kind === "product" && x.items.every((item) => item.kind === "symbol"));

/** The 2 of AB²: a power of a segment's length, which stands for itself in "AB² = 34". */
const isSegmentPower = (x: Expression): boolean =>
  x.kind === "power" && x.base.kind === "symbol" && /^[A-Z]$/.test(x.base.name) && x.exponent.kind === "number";

const isSignedNumber = (x: Expression): boolean =>
  x.kind === "number" || (x.kind === "negative" && x.of.kind === "number");

/** Two equations for differently named single unknowns are different, whatever their values. */
export function namesAgree(a: Expression | null, b: Expression | null): boolean {
  if (a === null || b === null) return true;
  if (a.kind === "symbol" && b.kind === "symbol") return a.name.toLowerCase() === b.name.toLowerCase();
  // sin θ and cos θ, A⁻¹ and A.
  const exact = [a, b].some((x) => x.kind === "power" || (x.kind === "call" && x.name !== "abs"));
  return !exact || keyOf(a) === keyOf(b);
}

/** The letters of f(x), which is parsed as a product. */
function application(name: Expression | null): { readonly of: string; readonly argument: string } | null {
  if (name?.kind !== "product" || name.items.length !== 2) return null;
  const [f, x] = name.items as readonly [Expression, Expression];
  if (f.kind !== "symbol" || x.kind !== "symbol" || CONSTANTS.has(x.name) || f.name === x.name) return null;
  return { of: f.name, argument: x.name };
}

/** The value of f(t) = t² in terms of another name's argument, f(x): x²; null if it has an x that is not the argument. */
export function inArgumentOf(
  name: Expression | null,
  other: { readonly name: Expression | null; readonly value: Expression },
): Expression | null {
  const [f, g] = [application(name), application(other.name)];
  if (f === null || g === null || f.of !== g.of || f.argument === g.argument) return other.value;
  return variablesOf(other.value).has(f.argument) ? null : renamed(other.value, g.argument, f.argument);
}

export const keyOf = (x: Expression): string =>
  JSON.stringify(x, (_, value) => (typeof value === "bigint" ? value.toString() : value));
