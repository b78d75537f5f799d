/**
 * The tree of an answer, as parse.ts makes it, and the few walks over it that comparing needs.
 */
import type { Rational } from "./rational.ts";

export type Expression =
  | { readonly kind: "number"; readonly value: Rational; readonly rounded: boolean }
  | { readonly kind: "symbol"; readonly name: string }
  | { readonly kind: "infinity" }
  | { readonly kind: "sum" | "product"; readonly items: readonly Expression[] }
  | { readonly kind: "negative" | "inverse" | "percent" | "degrees"; readonly of: Expression }
  /** ± (sign 1) or ∓ (sign -1) in front of a term. */
  | { readonly kind: "plusminus"; readonly sign: 1 | -1; readonly of: Expression }
  | { readonly kind: "power"; readonly base: Expression; readonly exponent: Expression }
  | { readonly kind: "call"; readonly name: string; readonly args: readonly Expression[] }
  | { readonly kind: "tuple"; readonly open: string; readonly close: string; readonly items: readonly Expression[] }
  | { readonly kind: "set" | "list" | "groups" | "union" | "ratio"; readonly items: readonly Expression[] }
  /** `difference`: the first minus all others. */
  | { readonly kind: "intersection" | "difference"; readonly items: readonly Expression[] }
  | { readonly kind: "relation"; readonly operators: readonly string[]; readonly parts: readonly Expression[] }
  | { readonly kind: "matrix"; readonly rows: readonly (readonly Expression[])[] };

export type Relation = Extract<Expression, { kind: "relation" }>;

/** Names that stand for constants, not variables. */
export const CONSTANTS: ReadonlySet<string> = new Set(["pi", "e", "i"]);

function childrenOf(x: Expression): readonly Expression[] {
  switch (x.kind) {
    case "number":
    case "symbol":
    case "infinity":
      return [];
    case "negative":
    case "inverse":
    case "percent":
    case "degrees":
    case "plusminus":
      return [x.of];
    case "power":
      return [x.base, x.exponent];
    case "call":
      return x.args;
    case "relation":
      return x.parts;
    case "matrix":
      return x.rows.flat();
    default:
      return x.items;
  }
}

/** The names of the variables in it, without e, i and π. */
export function variablesOf(x: Expression): ReadonlySet<string> {
  const names = new Set<string>();
  const stack = [x];
  for (let e = stack.pop(); e !== undefined; e = stack.pop()) {
    if (e.kind === "symbol" && !CONSTANTS.has(e.name)) names.add(e.name);
    stack.push(...childrenOf(e));
  }
  return names;
}

/** The names of the functions called in it. */
export function callsOf(x: Expression): ReadonlySet<string> {
  const names = new Set<string>();
  const stack = [x];
  for (let e = stack.pop(); e !== undefined; e = stack.pop()) {
    if (e.kind === "call") names.add(e.name);
    stack.push(...childrenOf(e));
  }
  return names;
}

export const hasPlusMinus = (x: Expression): boolean =>
  x.kind === "plusminus" || (isScalarNode(x) && childrenOf(x).some(hasPlusMinus));

const isScalarNode = (x: Expression): boolean =>
  ["sum", "product", "negative", "inverse", "power", "call", "percent", "degrees"].includes(x.kind);

/** The expression with + (side 1) or - (side -1) for every ±, and the opposite for every ∓. */
export function chooseSign(x: Expression, side: 1 | -1): Expression {
  if (x.kind !== "plusminus") return mapScalar(x, (e) => chooseSign(e, side));
  const of = chooseSign(x.of, side);
  return x.sign * side > 0 ? of : { kind: "negative", of };
}

/** A scalar expression with a variable renamed; anything else unchanged. */
export const renamed = (x: Expression, from: string, to: string): Expression =>
  x.kind === "symbol" && x.name === from ? { kind: "symbol", name: to } : mapScalar(x, (e) => renamed(e, from, to));

/** The expression with its parts mapped, if it is built by arithmetic and functions; anything else unchanged. */
function mapScalar(x: Expression, of: (part: Expression) => Expression): Expression {
  switch (x.kind) {
    case "sum":
    case "product":
      return { kind: x.kind, items: x.items.map(of) };
    case "negative":
    case "inverse":
    case "percent":
    case "degrees":
      return { kind: x.kind, of: of(x.of) };
    case "power":
      return { kind: "power", base: of(x.base), exponent: of(x.exponent) };
    case "call":
      return { kind: "call", name: x.name, args: x.args.map(of) };
    default:
      return x;
  }
}
