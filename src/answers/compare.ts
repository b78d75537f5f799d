/**
 * Whether two answers, as written, mean the same: literally or by their words (literal.ts), by their value (scalars.ts),
 * as sets of numbers (intervals.ts), or element by element for tuples, sets, lists, matrices, equations and inequalities.
 * When in doubt they are different: a policy learns to exploit a reward that says yes too often.
 *
 * `@cortex-js/compute-engine` 0.140.0 was considered as the algebra for this and rejected. On 80 short pairs from public
 * graders' tests, without the rewriting in normalize.ts, it accepts 25 of 58 equal ones (ours: 54) and none of 22 others
 * (ours: none), at 1.3 ms per pair warm (ours: 0.2 ms); of 363 adversarial pairs it accepts 33. It takes 0.8 s to start
 * and is unbounded: 9^{9^{9^9}} does not return within 10 s, 10^{10^{10}} runs out of memory for a BigInt.
 */
import { evaluate, toComplex } from "./evaluate.ts";
import { equalSolutions } from "./intervals.ts";
import { besideWords, chosen, isWords, LETTER, literalKey, sameResidue, sameTerms, wordsKey } from "./literal.ts";
import { matrixOf, type Rows, vectorOf } from "./matrices.ts";
import { inArgumentOf, isCompound, isName, isNameOf, keyOf, namesAgree } from "./names.ts";
import { MAX_ANSWER_CHARS, normalizeMath } from "./normalize.ts";
import { type CommaReading, parseExpression } from "./parse.ts";
import { approximated } from "./phrases.ts";
import { boundsOf, isEquation, mirrored, proportional, type Tuple } from "./relations.ts";
import { equalScalars } from "./scalars.ts";
import { hasSeveralUnits } from "./text-groups.ts";
import { chooseSign, type Expression, hasPlusMinus, type Relation, variablesOf } from "./tree.ts";
import { unitOf, unitsDiffer } from "./units.ts";

/** Longest list or set compared without regard to order. */
const MAX_ITEMS = 200;

/** 25' and 8", which units.ts knows; if the gold has no unit, 3' is not a length. */
const FOOT_OR_INCH = /^(\s*-?\d[\d.,]*)\s*(?:'{1,2}|")(?=[\s.]*$)/;
/** A number and a one-letter unit. */
const LENGTH = /^([-+\d.,/ ]*\d)\s*(?:m|g|s|h|l|L|V|W|J|N|A|K|C|F)(?:\s*\^\s*\{?[23]\}?)?$/;
/** A whole number that a float holds exactly. */
const WHOLE_NUMBER = /^\s*-?\d{1,15}\s*$/;

/** Whether `pred` says the same as `gold`. Total: never throws, bounded in time whatever the texts. */
export function equalAnswers(gold: string, pred: string): boolean {
  if (gold.trim() === "" || pred.trim() === "") return false;
  if (gold.trim() === pred.trim()) return true;
  if (WHOLE_NUMBER.test(gold) && WHOLE_NUMBER.test(pred)) return Number(gold) === Number(pred);
  if (gold.length > MAX_ANSWER_CHARS || pred.length > MAX_ANSWER_CHARS) return false;
  const a = normalizeMath(gold);
  const b = normalizeMath(FOOT_OR_INCH.test(pred) && unitOf(gold) !== null ? pred.replace(FOOT_OR_INCH, "$1") : pred);
  if (a === "" || b === "" || contradictsItself(pred)) return false;
  if (unitsDiffer(gold, pred) && !(hasSeveralUnits(gold) && hasSeveralUnits(pred))) return false;
  if (WHOLE_NUMBER.test(a) && WHOLE_NUMBER.test(b)) return Number(a) === Number(b);
  if (literalKey(a) === literalKey(b)) return true;
  const [option, other] = LETTER.test(a) ? [a, b] : [b, a];
  const letter = LETTER.exec(option)?.[1];
  const choice = chosen(other);
  if (letter !== undefined && choice !== null) return letter === choice.letter;
  if (letter !== undefined && LETTER.test(other)) return letter === LETTER.exec(other)![1];
  // "(B) 7" for 7: the option's text.
  const given = chosen(b);
  if (given !== null && chosen(a) === null) return equalAnswers(gold, given.text);
  if (isWords(a) || isWords(b)) return wordsKey(a) === wordsKey(b) && besideWords(a) === besideWords(b);
  // "π/4 + kπ, k ∈ ℤ": it goes without saying that k is whole.
  const [general, whole] = [withoutDomain(a), withoutDomain(b)];
  if ((general === null) !== (whole === null)) return equalParsed(general ?? a, whole ?? b, "thousands");
  const x = parseExpression(a, "thousands");
  const y = parseExpression(b, "thousands");
  if (x === null && y === null) return sameTerms(a, b);
  const value = x !== null && y === null ? valueOfSeries(b) : null;
  if (value !== null) return equalParsed(a, value, "thousands");
  if (x !== null && y !== null && equal(x, y)) return true;
  // 1,234 may be the list of 1 and 234, but not in brackets if the gold has none.
  const grouped = /\d,\d{3}(?!\d)/.test(a + b) && !(/^-?\d{1,3}(?:,\d{3})+$/.test(a) && /[([⦃{]/.test(b));
  if (grouped && equalParsed(a, b, "lists")) return true;
  if (sameResidue(a, b) || roundedTo(a, gold, pred)) return true;
  // "5m" compared with a plain number is a length, not a product; as the gold, only compared with "5 meters".
  const bare = LENGTH.exec(b)?.[1];
  if (bare !== undefined && !/[a-zA-Z]/.test(a) && equalParsed(a, bare, "thousands")) return true;
  const length = unitOf(pred) === null ? undefined : LENGTH.exec(a)?.[1];
  return length !== undefined && !/[a-zA-Z]/.test(b) && equalParsed(length, b, "thousands");
}

/** 385 of "1² + 2² + … + 10² = 385", ½ of "∫… = ½": the value of a left side that cannot be parsed but is no unknown. */
function valueOfSeries(text: string): string | null {
  const at = text.lastIndexOf("=");
  const series = text.slice(0, at).trimEnd();
  if (at < 0 || /[<>≤≥≠∈,;]/.test(text)) return null;
  const isSeries =
    /^\\(?:sum|prod|int|lim)(?![a-zA-Z])/.test(series) || /^[-\d+*/^(){}. …]+(?:=[-\d+*/^(){}. …]+)*$/.test(series);
  return isSeries ? text.slice(at + 1).trim() : null;
}

/** The solutions of "x = π/4 + kπ, k ∈ ℤ" without the domain of their parameter; null if no domain is given. */
function withoutDomain(text: string): string | null {
  if (!text.includes("∈")) return null;
  const [, solutions, name] = /^(.*[^\s,;])\s?[,;]\s?([a-z])\s?∈\s?\{?\s?Z\s?\}?$/.exec(text) ?? [];
  const used = name !== undefined && new RegExp(`(?<![a-zA-Z])${name}|(?<=\\d)${name}`).test(solutions!);
  return used && !solutions!.includes("∈") ? solutions! : null;
}

function equalParsed(gold: string, pred: string, commas: CommaReading): boolean {
  const a = parseExpression(gold, commas);
  const b = a && parseExpression(pred, commas);
  return a !== null && b !== null && equal(a, b);
}

/** "2/3 ≈ 1.67": a decimal that is not even close to the value. */
function contradictsItself(pred: string): boolean {
  const said = /≈|approx/.test(pred) ? approximated(pred) : null;
  const value = said && realOf(said.value);
  if (said === null || value === null) return false;
  const unit = 10 ** -said.decimal.split(".")[1]!.length;
  return Math.abs(value - Number(said.decimal)) > Math.max(1.01 * unit, 0.01 * Math.abs(value));
}

/** The text as a real number; null if it is not one, or is written as a decimal. */
function realOf(text: string): number | null {
  const parsed = parseExpression(normalizeMath(text), "thousands");
  const value = parsed && evaluate(unwrap(parsed).value, () => null);
  if (value === null || (value.kind === "exact" && value.rounded)) return null;
  const z = toComplex(value);
  return z.im === 0 ? z.re : null;
}

/** A gold of 0.67 and 2/3 ≈ 0.67: the value is given and really rounds to that decimal. */
function roundedTo(gold: string, written: string, pred: string): boolean {
  if (!/^-?\d*\.\d{1,9}$/.test(gold) || /≈|approx/.test(written)) return false;
  const said = approximated(pred);
  if (said === null || !equalParsed(gold, said.decimal, "lists")) return false;
  const value = realOf(said.value);
  return value !== null && Math.abs(value - Number(gold)) <= 0.5000001 * 10 ** -gold.split(".")[1]!.length;
}

// Structure

/** `x = 5` and `x ∈ S` as a name and a value; `1 + 1 = 2` as its last part; anything else unchanged. */
function unwrap(x: Expression): { readonly name: Expression | null; readonly value: Expression } {
  // P(3, 4): a point with its letter.
  if (x.kind === "product" && x.items.length === 2 && x.items[1]!.kind === "tuple") {
    const [letter, point] = [x.items[0]!, x.items[1]!];
    if (letter.kind === "symbol" && /^[A-Z](?:_\w+)?'*$/.test(letter.name)) return { name: letter, value: point };
  }
  if (x.kind !== "relation") return { name: null, value: x };
  const first = x.parts[0]!;
  const last = x.parts.at(-1)!;
  if (x.operators.every((op) => op === "=")) {
    if (isName(first) || isNameOf(first, last)) return { name: first, value: last };
    if (x.parts.length === 2 && isName(last) && variablesOf(first).size === 0) return { name: last, value: first };
    // 3 + 4 = 7 gives 7, (x - 1)(x + 1) = x² - 1 gives x² - 1; 3 = 2 gives nothing.
    const constant = variablesOf(last).size === 0;
    if (x.parts.every((part) => (variablesOf(part).size === 0) === constant)) {
      return { name: null, value: x.parts.slice(1).every((part) => equalOne(part, first)) ? last : x };
    }
  }
  if (x.operators.length === 1 && x.operators[0] === "∈" && isName(first)) return { name: first, value: last };
  return { name: null, value: x };
}

/** The number that an answer gives for a compound quantity: 7 of a + b = 3 + 4 = 7. */
function valueOfCompound(x: Expression): Expression {
  if (x.kind !== "relation" || !x.operators.every((op) => op === "=") || !isCompound(x.parts[0]!)) return x;
  const [first, ...others] = x.parts.slice(1);
  if (variablesOf(first!).size > 0 || !others.every((part) => equalOne(part, first!))) return x;
  return x.parts.at(-1)!;
}

/** The elements of a list, set or union; ± gives two, and x ≠ 3 gives x < 3 and x > 3. A set within a set or list is one. */
function elements(x: Expression): readonly Expression[] {
  const { value } = unwrap(x);
  if (value.kind === "groups") return value.items;
  if (value.kind === "union") return value.items.flatMap(elements);
  if (value.kind === "list" || value.kind === "set") {
    return value.items.flatMap((item) => (item.kind === "set" ? [item] : (pointOf(item) ?? elements(item))));
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
      return inOrder(
        left.items.map(
          (name, i): Expression => ({ kind: "relation", operators: ["="], parts: [name, right.items[i]!] }),
        ),
      );
    }
  }
  return [x];
}

/** `(x, y) = (1, 2)` in a list, as the point (1, 2), if its names are in their usual order. */
function pointOf(x: Expression): readonly Expression[] | null {
  if (x.kind !== "relation" || x.operators.length !== 1 || x.operators[0] !== "=") return null;
  const [left, right] = [x.parts[0]!, x.parts[1]!];
  if (left.kind !== "tuple" || right.kind !== "tuple" || left.items.length !== right.items.length) return null;
  const names = left.items.map((item) => (item.kind === "symbol" ? item.name : ""));
  return names.join() === [...names].sort().join() ? [right] : null;
}

/** x = …, y = …, z = … in this order, which is that of a point's coordinates; other names unchanged. */
function inOrder(items: readonly Expression[]): readonly Expression[] {
  const names = items.map((item) => unwrap(item).name);
  if (!names.every((name) => name?.kind === "symbol" && /^[xyz]$/.test(name.name))) return items;
  return ["x", "y", "z"].flatMap((letter) => items.filter((_, i) => (names[i] as { name: string }).name === letter));
}

/** Whether each item names a different quantity (x = 1, y = 2), so that values without names must come in the same order. */
function nameDifferent(items: readonly Expression[]): boolean {
  const names = items.map((item) => unwrap(item).name);
  const stems = new Set(names.map((name) => (name?.kind === "symbol" ? name.name.replace(/_.*/, "") : "")));
  return items.length > 1 && stems.size === items.length && !stems.has("");
}

/** x = 2, x = 5: two values of one quantity, not a point. */
function repeatsName(items: readonly Expression[]): boolean {
  const names = items.map((item) => unwrap(item).name);
  return items.length > 1 && names.every((name) => name?.kind === "symbol" && keyOf(name) === keyOf(names[0]!));
}

function equal(a: Expression, b: Expression): boolean {
  const asSets = equalSolutions(a, b);
  if (asSets !== null) return asSets;
  const left = elements(a);
  const right = elements(b);
  if (left.length === 1 && right.length === 1) return equalOne(left[0]!, right[0]!);
  if (left.length > MAX_ITEMS || right.length > MAX_ITEMS) return false;
  if (left.length === 0 || right.length === 0) return left.length === right.length;
  const [isSet, otherIsSet] = [unwrap(a).value.kind === "set", unwrap(b).value.kind === "set"];
  if ((isSet && isTuple(b)) || (otherIsSet && isTuple(a))) return false;
  // A tuple has an order, which a list compared with it must keep; so do named quantities compared with bare values.
  if ((isTuple(a) && repeatsName(right)) || (isTuple(b) && repeatsName(left))) return false;
  const tuple = otherIsSet ? null : roundTuple(left);
  if (tuple !== null) return equalItems(tuple, nameDifferent(right) ? inOrder(right) : right);
  const given = isSet ? null : roundTuple(right);
  if (given !== null) return equalItems(nameDifferent(left) ? inOrder(left) : left, given);
  if (nameDifferent(left) !== nameDifferent(right)) return equalItems(left, right);
  if (!left.every((x) => right.some((y) => equalMembers(x, y)))) return false;
  if (!right.every((y) => left.some((x) => equalMembers(x, y)))) return false;
  if (left.length === right.length) return true;
  // Repeated elements of a set or of a list of points count once; 3, 3 are two roots, and HT and TH, equal as products, two.
  const items = [...left, ...right];
  return items.every((x) => variablesOf(x).size === 0) && (isSet || otherIsSet || items.every(isTuple));
}

/** As `equalOne`, but a set does not equal its only element. */
const equalMembers = (x: Expression, y: Expression): boolean =>
  (x.kind === "set") === (y.kind === "set") && equalOne(x, y);

const isTuple = (x: Expression): boolean => unwrap(x).value.kind === "tuple";

/** The items of a list that consists of one tuple in round brackets. */
function roundTuple(items: readonly Expression[]): readonly Expression[] | null {
  const only = items.length === 1 ? items[0] : undefined;
  return only?.kind === "tuple" && only.open === "(" && only.close === ")" ? only.items : null;
}

function equalOne(a: Expression, b: Expression): boolean {
  const left = unwrap(a);
  const right = unwrap(a.kind === "relation" ? b : valueOfCompound(b));
  if (!namesAgree(left.name, right.name)) {
    // y = x/2 and x = 2y.
    if (a.kind !== "relation" || b.kind !== "relation") return false;
    return variablesOf(left.value).size > 0 && variablesOf(right.value).size > 0 && equalRelations(a, b);
  }
  const [x, y] = [left.value, inArgumentOf(left.name, right)];
  if (y === null) return false;
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
  const [rows, others] = [matrixOf(x), matrixOf(y)];
  if (rows !== null || others !== null) return equalMatrices(asMatrix(x, rows), asMatrix(y, others));
  if (x.kind === "tuple" && y.kind === "tuple") return equalTuples(x, y);
  const asSets = equalSolutions(x, y);
  if (asSets !== null) return asSets;
  if (x.kind === "relation" || y.kind === "relation") {
    if (x.kind === "relation" && y.kind === "relation") return equalRelations(x, y);
    const [interval, other] =
      x.kind === "relation" ? [boundsOf(x), y] : [x, y.kind === "relation" ? boundsOf(y) : null];
    return interval?.kind === "tuple" && other?.kind === "tuple" && equalTuples(interval, other);
  }
  if (x.kind === "ratio" && y.kind === "ratio") return equalItems(x.items, y.items);
  // An expression too large to be computed equals itself, with or without a name.
  return equalScalars(x, y) || (left.name !== right.name && x.kind === y.kind && keyOf(x) === keyOf(y));
}

const asMatrix = (x: Expression, rows: Rows | null): Expression => (rows === null ? x : { kind: "matrix", rows });

const hasElements = (x: Expression): boolean =>
  x.kind === "list" || x.kind === "set" || x.kind === "union" || x.kind === "groups" || hasPlusMinus(x);

function equalItems(a: readonly Expression[], b: readonly Expression[]): boolean {
  return a.length === b.length && a.every((x, i) => equalOne(x, b[i]!));
}

function equalTuples(a: Tuple, b: Tuple): boolean {
  // Round or square brackets matter if the tuple can be an interval.
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

function equalRelations(a: Relation, b: Relation): boolean {
  const same = (x: Relation): boolean =>
    a.operators.length === x.operators.length &&
    a.operators.every((op, i) => op === x.operators[i]) &&
    equalItems(a.parts, x.parts);
  if (same(b) || same(mirrored(b))) return true;
  return a.operators.length === 1 && b.operators.length === 1 && proportional(a, b);
}
