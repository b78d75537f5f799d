/**
 * Sets of real numbers as unions of intervals, so that inequalities, intervals, unions and "all but 2" can be compared:
 * linear and quadratic inequalities and |linear| in one unknown, x ≠ a, finite sets, ∪, ∩ and ∖. Bounds are numbers.
 * Nothing beyond that is solved.
 */
import { cSub } from "./complex.ts";
import { evaluate, hasFloat, toComplex, type Variables } from "./evaluate.ts";
import { rational } from "./rational.ts";
import { infinityOf, near } from "./scalars.ts";
import { chooseSign, type Expression, hasPlusMinus, type Relation, variablesOf } from "./tree.ts";

interface Interval {
  readonly low: number;
  readonly high: number;
  readonly lowClosed: boolean;
  readonly highClosed: boolean;
}

/** Disjoint, in order, none empty, no two touching. */
type RealSet = readonly Interval[];

/** Most intervals in a set. */
const MAX_INTERVALS = 64;
const LINE: Interval = { low: -Infinity, high: Infinity, lowClosed: false, highClosed: false };

/** A set, and the unknown of its inequalities; `named` null: none, or several names for one quantity. */
interface Solutions {
  readonly set: RealSet;
  readonly name: string | null;
}

/** The real numbers that the expression stands for; null if it is not such a set or its bounds are not numbers. */
function solutionsOf(x: Expression): Solutions | null {
  switch (x.kind) {
    case "tuple": {
      const interval = bounded(x);
      return interval && { set: normal([interval]), name: null };
    }
    case "set": {
      const points = x.items.map(pointOf);
      return points.every((point) => point !== null) ? { set: normal(points.map(single)), name: null } : null;
    }
    case "union":
      return joined(x.items, (sets) => normal(sets.flat()));
    case "intersection":
      return joined(x.items, (sets) => sets.reduce(intersect));
    case "difference":
      return joined(x.items, without);
    case "sum": {
      // ℝ - {3}: a difference with the sign of a subtraction.
      const [first, ...others] = x.items;
      if (!others.every((item) => item.kind === "negative" && item.of.kind === "set")) return null;
      return joined([first!, ...others.map((item) => (item as { of: Expression }).of)], without);
    }
    case "list":
    case "groups":
      return ofList(x.items);
    case "relation":
      return ofRelation(x);
    default:
      return null;
  }
}

/** Whether two sets are the same; null if one of the two is not a set, or neither must be read as one. */
export function equalSolutions(a: Expression, b: Expression): boolean | null {
  if (!mayBeSet(a) || !mayBeSet(b) || !(isCertain(a) || isCertain(b))) return null;
  const left = solutionsOf(a);
  const right = left && solutionsOf(b);
  if (left === null || right === null) return null;
  if (left.name !== null && right.name !== null && left.name.toLowerCase() !== right.name.toLowerCase()) return false;
  return (
    left.set.length === right.set.length &&
    left.set.every((x, i) => {
      const y = right.set[i]!;
      return near(x.low, y.low) && near(x.high, y.high) && x.lowClosed === y.lowClosed && x.highClosed === y.highClosed;
    })
  );
}

const KINDS: ReadonlySet<string> = new Set([
  "tuple",
  "set",
  "union",
  "intersection",
  "difference",
  "list",
  "groups",
  "relation",
]);
const mayBeSet = (x: Expression): boolean => KINDS.has(x.kind) || isDifference(x);

const isDifference = (x: Expression): boolean => x.kind === "sum" && KINDS.has(x.items[0]!.kind);

/** Whether its outermost form shows that it is a set of numbers, which (1, 2) and {1, 2} alone do not. */
function isCertain(x: Expression): boolean {
  if (x.kind === "relation") return x.operators[0] !== "=";
  if (x.kind === "list" || x.kind === "groups")
    return x.items.some((item) => item.kind === "relation" && isCertain(item));
  return x.kind !== "tuple" && x.kind !== "set";
}

function joined(items: readonly Expression[], join: (sets: readonly RealSet[]) => RealSet): Solutions | null {
  if (items.length > MAX_INTERVALS) return null;
  const parts: Solutions[] = [];
  for (const item of items) {
    const part = solutionsOf(item);
    if (part === null) return null;
    parts.push(part);
  }
  const name = oneName(parts);
  if (name === undefined) return null;
  const set = join(parts.map((part) => part.set));
  return set.length > MAX_INTERVALS ? null : { set, name };
}

/** The one unknown of all parts, null if they have none, undefined if they have several. */
function oneName(parts: readonly Solutions[]): string | null | undefined {
  const names = new Set(parts.map((part) => part.name).filter((name) => name !== null));
  return names.size > 1 ? undefined : ([...names][0] ?? null);
}

/**
 * Inequalities in a row are alternatives (normalize.ts turns "or" into a comma), except that ≠ restricts the others:
 * `x ≥ -1, x ≠ 2`; `x ≠ -1, 1` excludes both.
 */
function ofList(items: readonly Expression[]): Solutions | null {
  if (items.length > MAX_INTERVALS || !items.some((item) => item.kind === "relation" || item.kind === "tuple"))
    return null;
  const alternatives: Solutions[] = [];
  const excluded: Solutions[] = [];
  let afterUnequal = false;
  for (const item of items) {
    const unequal = item.kind === "relation" && item.operators.length === 1 && item.operators[0] === "≠";
    const point = item.kind === "relation" ? null : pointOf(item);
    if (point !== null) {
      if (!afterUnequal) return null;
      excluded.push({ set: complement([single(point)]), name: null });
      continue;
    }
    const part = item.kind === "relation" && item.operators[0] !== "∈" ? ofRelation(item) : null;
    if (part === null) return null;
    (unequal ? excluded : alternatives).push(part);
    afterUnequal = unequal;
  }
  const name = oneName([...alternatives, ...excluded]);
  if (name === undefined) return null;
  const from = alternatives.length === 0 ? [LINE] : normal(alternatives.flatMap((part) => part.set));
  return { set: excluded.reduce<RealSet>((set, part) => intersect(set, part.set), from), name };
}

function ofRelation(x: Relation): Solutions | null {
  const first = x.parts[0]!;
  if (x.operators.length === 1 && x.operators[0] === "∈") {
    const name = nameOf(first);
    const of = name === null ? null : solutionsOf(x.parts[1]!);
    return of && { ...of, name: of.name ?? name };
  }
  if (x.operators.length === 1 && x.operators[0] === "≠") {
    const name = nameOf(first);
    if (name === null) return null;
    const right = x.parts[1]!;
    const values = hasPlusMinus(right) ? [chooseSign(right, 1), chooseSign(right, -1)] : [right];
    const points = values.map(pointOf);
    if (!points.every((point) => point !== null)) return null;
    return { set: complement(normal(points.map(single))), name };
  }
  if (!x.operators.every((op) => "<>≤≥".includes(op))) return null;
  // A chain runs in one direction: nobody writes 1 < x > 2.
  if (new Set(x.operators.map((op) => "<≤".includes(op))).size > 1) return null;
  const unknown = unknownOf(x);
  if (unknown === null || (x.parts.length === 2 && x.parts.some((part) => infinityOf(part) !== 0))) return null;
  let set: RealSet = [LINE];
  for (const [i, op] of x.operators.entries()) {
    const half = halfLine(unknown.parts[i]!, op, unknown.parts[i + 1]!);
    if (half === null) return null;
    set = intersect(set, half);
  }
  return { set, name: unknown.name };
}

const nameOf = (x: Expression): string | null => (x.kind === "symbol" ? x.name : null);

/** The sides with the one unknown as a symbol: x itself, or f(x) as a whole, which has no name of its own. */
function unknownOf(x: Relation): { readonly parts: readonly Expression[]; readonly name: string | null } | null {
  const names = variablesOf(x);
  if (names.size === 1) return { parts: x.parts, name: [...names][0]! };
  if (names.size !== 2) return null;
  const parts = x.parts.map((part): Expression => (isValueOfFunction(part) ? { kind: "symbol", name: "f" } : part));
  return parts.some((part) => variablesOf(part).size > 0 && part.kind !== "symbol") ? null : { parts, name: null };
}

/** f(x), which is parsed as a product of two symbols. */
const isValueOfFunction = (x: Expression): boolean =>
  x.kind === "product" &&
  x.items.length === 2 &&
  x.items.every((item) => item.kind === "symbol") &&
  /^[fghpqFGHPQ]'*$/.test((x.items[0] as { name: string }).name);

/** The solutions of `left op right` if left - right is linear in its one variable, or |linear| and a number. */
function halfLine(left: Expression, op: string, right: Expression): RealSet | null {
  for (const [side, bound, below] of [
    [left, right, op === "<" || op === "≤"],
    [right, left, op === ">" || op === "≥"],
  ] as const) {
    if (side.kind !== "call" || side.name !== "abs" || variablesOf(bound).size > 0) continue;
    const inner = side.args[0]!;
    if (inner.kind === "call" || (pointOf(bound) ?? -1) < 0) return null;
    const strict = op === "<" || op === ">";
    const under = halfLine(inner, strict ? "<" : "≤", below ? bound : { kind: "negative", of: bound });
    const over = halfLine(inner, strict ? ">" : "≥", below ? { kind: "negative", of: bound } : bound);
    if (under === null || over === null) return null;
    return below ? intersect(under, over) : normal([...under, ...over]);
  }
  const f = (top: bigint, below = 1n): number | null => {
    const variables: Variables = () => rational(top, below);
    const l = evaluate(left, variables);
    const r = evaluate(right, variables);
    if (l === null || r === null || !hasFloat(l) || !hasFloat(r)) return null;
    const d = cSub(toComplex(l), toComplex(r));
    return d.im === 0 ? d.re : null;
  };
  if (infinityOf(left) !== 0 || infinityOf(right) !== 0) return ofInfinity(left, op, right);
  const [f0, f1, f2, f3] = [f(0n), f(1n), f(2n), f(-7n)];
  if (f0 === null || f1 === null || f2 === null || f3 === null) return null;
  const slope = f1 - f0;
  const isLinear = slope !== 0 && near(f2, f0 + 2 * slope) && near(f3, f0 - 7 * slope);
  if (!isLinear) return quadratic(f, [f0, f1, f2, f3], op);
  const root = -f0 / slope;
  if (!Number.isFinite(root)) return null;
  const closed = op === "≤" || op === "≥";
  const under = (op === "<" || op === "≤") === slope > 0;
  return under
    ? [{ low: -Infinity, high: root, lowClosed: false, highClosed: closed }]
    : [{ low: root, high: Infinity, lowClosed: closed, highClosed: false }];
}

/** Where ax² + bx + c has the sign that `op` says; a, b and c come from the values at 0, 1 and 2, checked at others. */
function quadratic(
  f: (top: bigint, below?: bigint) => number | null,
  [f0, f1, f2, f3]: readonly [number, number, number, number],
  op: string,
): RealSet | null {
  const a = (f2 - 2 * f1 + f0) / 2;
  const b = f1 - f0 - a;
  const at = (x: number): number => (a * x + b) * x + f0;
  const others = [f(-1n), f(5n, 3n), f(29n, 7n)];
  if (a === 0 || !near(f3, at(-7)) || !near(others[0] ?? Number.NaN, at(-1))) return null;
  if (!near(others[1] ?? Number.NaN, at(5 / 3)) || !near(others[2] ?? Number.NaN, at(29 / 7))) return null;
  const discriminant = b * b - 4 * a * f0;
  const closed = op === "≤" || op === "≥";
  const root = (side: 1 | -1): number => (-b + side * Math.sign(a) * Math.sqrt(Math.max(discriminant, 0))) / (2 * a);
  // Without roots it has one sign everywhere.
  const between = (ends: boolean): RealSet =>
    discriminant < 0 ? [] : normal([{ low: root(-1), high: root(1), lowClosed: ends, highClosed: ends }]);
  return (op === "<" || op === "≤") === a > 0 ? between(closed) : complement(between(!closed));
}

/** `x < ∞` and `-∞ < x`: all numbers, but only if both are given. */
function ofInfinity(left: Expression, op: string, right: Expression): RealSet | null {
  const [low, high] = op === "<" ? [left, right] : op === ">" ? [right, left] : [null, null];
  if (low === null || high === null) return null;
  if (low.kind === "symbol" && infinityOf(high) === 1) return [LINE];
  return high.kind === "symbol" && infinityOf(low) === -1 ? [LINE] : null;
}

function bounded(x: Extract<Expression, { kind: "tuple" }>): Interval | null {
  if (x.items.length !== 2) return null;
  const [low, high] = [boundOf(x.items[0]!), boundOf(x.items[1]!)];
  if (low === null || high === null || low > high) return null;
  return { low, high, lowClosed: x.open === "[", highClosed: x.close === "]" };
}

function boundOf(x: Expression): number | null {
  const sign = infinityOf(x);
  return sign !== 0 ? sign * Infinity : pointOf(x);
}

function pointOf(x: Expression): number | null {
  if (KINDS.has(x.kind) || variablesOf(x).size > 0) return null;
  const value = evaluate(x, () => null);
  if (value === null) return null;
  const z = toComplex(value);
  return z.im === 0 && hasFloat(value) ? z.re : null;
}

const single = (at: number): Interval => ({ low: at, high: at, lowClosed: true, highClosed: true });

/** Sorted, and merged where they overlap or touch. */
function normal(intervals: readonly Interval[]): RealSet {
  const order = intervals
    .filter(({ low, high, lowClosed, highClosed }) => low < high || (low === high && lowClosed && highClosed))
    .sort((a, b) => a.low - b.low || Number(b.lowClosed) - Number(a.lowClosed));
  const result: Interval[] = [];
  for (const next of order) {
    const last = result.at(-1);
    const apart =
      last === undefined ||
      (!near(last.high, next.low) && last.high < next.low) ||
      (near(last.high, next.low) && !last.highClosed && !next.lowClosed);
    if (apart) result.push(next);
    else if (next.high > last.high || (next.high === last.high && next.highClosed)) {
      result[result.length - 1] = { ...last, high: next.high, highClosed: next.highClosed };
    }
  }
  return result;
}

function intersect(a: RealSet, b: RealSet): RealSet {
  const result: Interval[] = [];
  for (const x of a) {
    for (const y of b) {
      const [low, lowClosed] = later(x.low, x.lowClosed, y.low, y.lowClosed);
      const [minus, highClosed] = later(-x.high, x.highClosed, -y.high, y.highClosed);
      result.push({ low, high: -minus, lowClosed, highClosed });
    }
  }
  return normal(result);
}

/** The greater of two lower bounds; of equal ones the open one. */
function later(a: number, aClosed: boolean, b: number, bClosed: boolean): [number, boolean] {
  if (near(a, b)) return [a, aClosed && bClosed];
  return a > b ? [a, aClosed] : [b, bClosed];
}

/** The first of the sets minus all others. */
const without = ([first, ...others]: readonly RealSet[]): RealSet =>
  others.reduce((rest, other) => intersect(rest, complement(other)), first!);

function complement(set: RealSet): RealSet {
  const result: Interval[] = [];
  let low = -Infinity;
  let lowClosed = false;
  for (const x of set) {
    result.push({ low, high: x.low, lowClosed, highClosed: !x.lowClosed && Number.isFinite(x.low) });
    [low, lowClosed] = [x.high, !x.highClosed && Number.isFinite(x.high)];
  }
  result.push({ low, high: Infinity, lowClosed, highClosed: false });
  return normal(result);
}
