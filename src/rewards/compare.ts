/**
 * Whether two answers, as written, mean the same: literally, by their words, by their value (scalars.ts), or element by
 * element for tuples, intervals, sets, lists, matrices, equations and inequalities. Where that is in doubt they are
 * different: a reward that says yes too often is what a policy learns to exploit.
 *
 * `@cortex-js/compute-engine` 0.140.0 was judged as the algebra behind this and left out. On 80 short pairs out of public
 * graders' tests, without the rewriting that normalize.ts does, it accepts 25 of 58 equal ones (here 54) and none of 22
 * others (here none), at 1.3 ms a pair warm (here 0.2 ms); of 363 adversarial pairs it accepts 33. It takes 0.8 s to start
 * and has no bound: 9^{9^{9^9}} does not return within 10 s, 10^{10^{10}} runs out of memory for a BigInt.
 */
import { cSub } from "./complex.ts";
import { evaluate, hasFloat, toComplex, type Variables } from "./evaluate.ts";
import { MAX_ANSWER_CHARS, normalizeMath } from "./normalize.ts";
import { type CommaReading, parseExpression } from "./parse.ts";
import { type Rational, ratDiv, ratEquals, rational } from "./rational.ts";
import { allNames, at, equalScalars, infinityOf, near, POINTS } from "./scalars.ts";
import { chooseSign, type Expression, hasPlusMinus, variablesOf } from "./tree.ts";
import { unitsDiffer } from "./units.ts";

/** Longest list or set compared without regard to order. */
const MAX_ITEMS = 200;

/** Whether `pred` says the same as `gold`. Total: never throws, bounded in time whatever the texts. */
export function equalAnswers(gold: string, pred: string): boolean {
  if (gold.trim() === "" || pred.trim() === "") return false;
  if (gold.trim() === pred.trim()) return true;
  if (gold.length > MAX_ANSWER_CHARS || pred.length > MAX_ANSWER_CHARS) return false;
  const a = normalizeMath(gold);
  const b = normalizeMath(pred);
  if (a === "" || b === "") return false;
  if (unitsDiffer(gold, pred)) return false;
  if (literalKey(a) === literalKey(b)) return true;
  const [letter, other] = /^[A-J]$/.test(a) ? [a, b] : [b, a];
  const choice = /^[A-J]$/.test(letter) ? chosen(other) : null;
  if (choice !== null) return letter === choice;
  if (isWords(a) || isWords(b)) return wordsKey(a) === wordsKey(b);
  if (equalParsed(a, b, "thousands")) return true;
  if (/\d,\d{3}(?!\d)/.test(a + b) && equalParsed(a, b, "lists")) return true;
  // "5m" beside a plain number is a length, not a product.
  const bare = /^([-+\d.,/ ]*\d)\s*(?:m|g|s|h|l|L|V|W|J|N|A|K|C|F)(?:\s*\^\s*\{?[23]\}?)?$/.exec(b)?.[1];
  return bare !== undefined && !/[a-zA-Z]/.test(a) && equalParsed(a, bare, "thousands");
}

function equalParsed(gold: string, pred: string, commas: CommaReading): boolean {
  const a = parseExpression(gold, commas);
  const b = a && parseExpression(pred, commas);
  return a !== null && b !== null && equal(a, b);
}

/** Without spaces, but those that keep two numbers apart. */
const literalKey = (text: string): string => text.replace(/(?<!\d)\s+|\s+(?!\d)/g, "").replace(/\s+/g, " ");

/** The letter of "(B) 12": one option and its text, with no other option named in it. */
function chosen(text: string): string | null {
  const match = /^\(([A-J])\)\s*(\S.*)$/.exec(text);
  return match === null || /\([A-J]\)|,|;|∪/.test(match[2]!) ? null : match[1]!;
}

/** An answer made of words (a name, a day, a sentence), for which letters are not variables. */
function isWords(text: string): boolean {
  if (!/^[a-zA-Z\s.,;'"()-]+$/.test(text)) return false;
  return /[a-z]{4}|[A-Z][A-Za-z]{2}|[a-z]{2,} [a-z]{2,}/.test(text) && !/^(?:sqrt|sin|cos|tan|log|ln|exp)\b/.test(text);
}

const wordsKey = (text: string): string =>
  text
    .toLowerCase()
    .split(/[^a-z]*,[^a-z]*/)
    .map((part) =>
      part
        .replace(/^(?:the|an?)\s+/, "")
        .replace(/[^a-z]+/g, " ")
        .trim(),
    )
    .sort()
    .join(",");

// Structure

/** `x = 5` and `x ∈ S` as a name and a value; `1 + 1 = 2` as its last part; anything else as it is. */
function unwrap(x: Expression): { readonly name: Expression | null; readonly value: Expression } {
  if (x.kind !== "relation") return { name: null, value: x };
  const first = x.parts[0]!;
  const last = x.parts.at(-1)!;
  if (x.operators.every((op) => op === "=")) {
    if (isName(first)) return { name: first, value: last };
    // 3 + 4 = 7 says 7; 3 = 2 says nothing.
    if (x.parts.every((part) => variablesOf(part).size === 0)) {
      return { name: null, value: x.parts.slice(1).every((part) => equalOne(part, first)) ? last : x };
    }
    if (x.parts.length === 2 && isName(last) && variablesOf(first).size === 0) return { name: last, value: first };
  }
  if (x.operators.length === 1 && x.operators[0] === "∈" && isName(first)) return { name: first, value: last };
  return { name: null, value: x };
}

/** Whether the expression names a quantity: x, x_1, f(x), AB, |AB|, A:B, (p, q, r). */
function isName(x: Expression): boolean {
  switch (x.kind) {
    case "symbol":
      return true;
    case "ratio":
    case "tuple":
      return x.items.every(isName);
    case "call":
      return x.name === "abs" && x.args.every(isName);
    case "product":
      return x.items[0]!.kind === "symbol" && x.items.every((item) => isName(item) || isSignedNumber(item));
    default:
      return false;
  }
}

const isSignedNumber = (x: Expression): boolean =>
  x.kind === "number" || (x.kind === "negative" && x.of.kind === "number");

/** Two equations for differently named single unknowns are different, whatever their values. */
function namesAgree(a: Expression | null, b: Expression | null): boolean {
  if (a?.kind === "symbol" && b?.kind === "symbol") return a.name.toLowerCase() === b.name.toLowerCase();
  return true;
}

/** The elements of a list, set or union; ± counts as two, and x ≠ 3 as x < 3 or x > 3. A set in a set or list is one. */
function elements(x: Expression): readonly Expression[] {
  const { value } = unwrap(x);
  if (value.kind === "groups") return value.items;
  if (value.kind === "union") return value.items.flatMap(elements);
  if (value.kind === "list" || value.kind === "set") {
    return value.items.flatMap((item) => (item.kind === "set" ? [item] : elements(item)));
  }
  if (hasPlusMinus(value)) return [chooseSign(value, 1), chooseSign(value, -1)];
  if (x.kind === "relation" && x.operators.length === 1) {
    const [left, right] = [x.parts[0]!, x.parts[1]!];
    if (x.operators[0] === "≠" && left.kind === "symbol" && variablesOf(right).size === 0) {
      return ["<", ">"].map((op): Expression => ({ kind: "relation", operators: [op], parts: x.parts }));
    }
    // (x, y) = (1, 2) is x = 1, y = 2.
    if (x.operators[0] === "=" && left.kind === "tuple" && right.kind === "tuple" && left.open + right.open === "((") {
      if (left.items.length !== right.items.length || !left.items.every((item) => item.kind === "symbol")) return [x];
      return left.items.map(
        (name, i): Expression => ({ kind: "relation", operators: ["="], parts: [name, right.items[i]!] }),
      );
    }
  }
  return [x];
}

/** Whether each item names another quantity (x = 1, y = 2), so that values alone must come in the same order. */
function nameDifferent(items: readonly Expression[]): boolean {
  const names = items.map((item) => unwrap(item).name);
  const stems = new Set(names.map((name) => (name?.kind === "symbol" ? name.name.replace(/_.*/, "") : "")));
  return items.length > 1 && stems.size === items.length && !stems.has("");
}

function equal(a: Expression, b: Expression): boolean {
  const left = elements(a);
  const right = elements(b);
  if (left.length === 1 && right.length === 1) return equalOne(left[0]!, right[0]!);
  if (left.length > MAX_ITEMS || right.length > MAX_ITEMS) return false;
  if (left.length === 0 || right.length === 0) return left.length === right.length;
  const [isSet, otherIsSet] = [unwrap(a).value.kind === "set", unwrap(b).value.kind === "set"];
  if ((isSet && isTuple(b)) || (otherIsSet && isTuple(a))) return false;
  // A tuple has an order, which a list beside it must keep; so have quantities with names, beside values without.
  const tuple = otherIsSet ? null : roundTuple(left);
  if (tuple !== null) return equalItems(tuple, right);
  const given = isSet ? null : roundTuple(right);
  if (given !== null) return equalItems(left, given);
  if (nameDifferent(left) !== nameDifferent(right)) return equalItems(left, right);
  return (
    left.every((x) => right.some((y) => equalMembers(x, y))) && right.every((y) => left.some((x) => equalMembers(x, y)))
  );
}

/** As `equalOne`, but a set is no element like its only element. */
const equalMembers = (x: Expression, y: Expression): boolean =>
  (x.kind === "set") === (y.kind === "set") && equalOne(x, y);

const isTuple = (x: Expression): boolean => unwrap(x).value.kind === "tuple";

/** The items of a list that is nothing but one tuple in round brackets. */
function roundTuple(items: readonly Expression[]): readonly Expression[] | null {
  const only = items.length === 1 ? items[0] : undefined;
  return only?.kind === "tuple" && only.open === "(" && only.close === ")" ? only.items : null;
}

function equalOne(a: Expression, b: Expression): boolean {
  const left = unwrap(a);
  const right = unwrap(b);
  if (!namesAgree(left.name, right.name)) {
    // y = x/2 and x = 2y.
    if (a.kind !== "relation" || b.kind !== "relation") return false;
    return variablesOf(left.value).size > 0 && variablesOf(right.value).size > 0 && equalRelations(a, b);
  }
  const [x, y] = [left.value, right.value];
  // y = 2x + 3 is also an equation.
  if (isEquation(y) && left.name !== null && a.kind === "relation") return equalRelations(a, y);
  if (isEquation(x) && right.name !== null && b.kind === "relation") return equalRelations(x, b);
  if (hasElements(x) || hasElements(y)) {
    // Inside groups ("p=5, q=2; p=7, q=2") a list stands for a tuple.
    if (x.kind === "list" && y.kind === "tuple") return equalItems(x.items, y.items);
    if (x.kind === "tuple" && y.kind === "list") return equalItems(x.items, y.items);
    if (x.kind === "list" && y.kind === "list") return equalItems(x.items, y.items);
    return equal(x, y);
  }
  if (x.kind === "matrix" || y.kind === "matrix") return equalMatrices(x, y);
  if (x.kind === "tuple" && y.kind === "tuple") return equalTuples(x, y);
  const interval = intervalOf(x);
  const given = interval && intervalOf(y);
  if (interval !== null && given !== null) return equalIntervals(interval, given);
  if (x.kind === "relation" || y.kind === "relation") {
    return x.kind === "relation" && y.kind === "relation" && equalRelations(x, y);
  }
  if (x.kind === "ratio" && y.kind === "ratio") return equalItems(x.items, y.items);
  return equalScalars(x, y);
}

const isEquation = (x: Expression): x is Relation => x.kind === "relation" && x.operators[0] === "=";

const hasElements = (x: Expression): boolean =>
  x.kind === "list" || x.kind === "set" || x.kind === "union" || x.kind === "groups" || hasPlusMinus(x);

function equalItems(a: readonly Expression[], b: readonly Expression[]): boolean {
  return a.length === b.length && a.every((x, i) => equalOne(x, b[i]!));
}

type Tuple = Extract<Expression, { kind: "tuple" }>;
type Relation = Extract<Expression, { kind: "relation" }>;

function equalTuples(a: Tuple, b: Tuple): boolean {
  // Round or square matters where the tuple can be an interval.
  if (a.items.length === 2 && (a.open !== b.open || a.close !== b.close)) return false;
  return equalItems(a.items, b.items);
}

/** Matrices by entries; a row or column is the same vector however it is written. */
function equalMatrices(a: Expression, b: Expression): boolean {
  if (a.kind === "matrix" && b.kind === "matrix") {
    return a.rows.length === b.rows.length && a.rows.every((row, i) => equalItems(row, b.rows[i]!));
  }
  const [x, y] = [vectorOf(a), vectorOf(b)];
  return x !== null && y !== null && equalItems(x, y);
}

function vectorOf(x: Expression): readonly Expression[] | null {
  if (x.kind === "tuple") return x.items;
  if (x.kind !== "matrix") return null;
  if (x.rows.length === 1) return x.rows[0]!;
  return x.rows.every((row) => row.length === 1) ? x.rows.map((row) => row[0]!) : null;
}

// Equations and inequalities

const MIRRORED: Readonly<Record<string, string>> = { "<": ">", ">": "<", "≤": "≥", "≥": "≤", "=": "=", "≠": "≠" };

function equalRelations(a: Relation, b: Relation): boolean {
  const same = (x: Relation, parts: readonly Expression[], operators: readonly string[]): boolean =>
    x.operators.length === operators.length &&
    x.operators.every((op, i) => op === operators[i]) &&
    equalItems(x.parts, parts);
  if (same(a, b.parts, b.operators)) return true;
  if (
    same(
      a,
      b.parts.toReversed(),
      b.operators.toReversed().map((op) => MIRRORED[op] ?? op),
    )
  )
    return true;
  return a.operators.length === 1 && b.operators.length === 1 && proportional(a, b);
}

/** l = r and l' = r' with l - r a constant multiple of l' - r'; for inequalities the multiple must be positive. */
function proportional(a: Relation, b: Relation): boolean {
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

interface Interval {
  readonly low: number;
  readonly high: number;
  readonly lowClosed: boolean;
  readonly highClosed: boolean;
}

/** (a, b], or a chain of linear inequalities in one variable, as an interval with numbers for bounds; else null. */
function intervalOf(x: Expression): Interval | null {
  if (x.kind === "tuple") {
    if (x.items.length !== 2) return null;
    const low = boundOf(x.items[0]!);
    const high = boundOf(x.items[1]!);
    return low === null || high === null ? null : { low, high, lowClosed: x.open === "[", highClosed: x.close === "]" };
  }
  if (x.kind !== "relation" || !x.operators.every((op) => "<>≤≥".includes(op))) return null;
  const names = variablesOf(x);
  if (names.size !== 1) return null;
  let result: Interval = { low: -Infinity, high: Infinity, lowClosed: false, highClosed: false };
  for (const [i, op] of x.operators.entries()) {
    const half = halfLine(x.parts[i]!, op, x.parts[i + 1]!);
    if (half === null) return null;
    if (half.low > result.low) result = { ...result, low: half.low, lowClosed: half.lowClosed };
    if (half.high < result.high) result = { ...result, high: half.high, highClosed: half.highClosed };
  }
  return result;
}

/** The solutions of `left op right` where left - right is linear in its one variable. */
function halfLine(left: Expression, op: string, right: Expression): Interval | null {
  const f = (v: bigint): number | null => {
    const variables: Variables = () => rational(v);
    const l = evaluate(left, variables);
    const r = evaluate(right, variables);
    if (l === null || r === null || !hasFloat(l) || !hasFloat(r)) return null;
    const d = cSub(toComplex(l), toComplex(r));
    return d.im === 0 ? d.re : null;
  };
  const [f0, f1, f2, f3] = [f(0n), f(1n), f(2n), f(-7n)];
  if (f0 === null || f1 === null || f2 === null || f3 === null) return null;
  const slope = f1 - f0;
  if (slope === 0 || !near(f2, f0 + 2 * slope) || !near(f3, f0 - 7 * slope)) return null;
  const root = -f0 / slope;
  if (!Number.isFinite(root)) return null;
  const closed = op === "≤" || op === "≥";
  const below = (op === "<" || op === "≤") === slope > 0;
  return below
    ? { low: -Infinity, high: root, lowClosed: false, highClosed: closed }
    : { low: root, high: Infinity, lowClosed: closed, highClosed: false };
}

function boundOf(x: Expression): number | null {
  const sign = infinityOf(x);
  if (sign !== 0) return sign * Infinity;
  if (variablesOf(x).size > 0) return null;
  const value = evaluate(x, () => null);
  if (value === null) return null;
  const z = toComplex(value);
  return z.im === 0 && hasFloat(value) ? z.re : null;
}

const equalIntervals = (a: Interval, b: Interval): boolean =>
  near(a.low, b.low) && near(a.high, b.high) && a.lowClosed === b.lowClosed && a.highClosed === b.highClosed;
