/** jinja2's tests, `value is NAME`. */

import { TemplateFault } from "./fault.ts";
import { isFilter } from "./filters.ts";
import { binary, comparison, contains } from "./operators.ts";
import { isLower, isUpper } from "./text.ts";
import {
  Attributes,
  Dict,
  isEqual,
  isNumber,
  Lazy,
  Range,
  Tuple,
  textOf,
  Undefined,
  type Value,
  View,
} from "./values.ts";

type Test = (value: Value, other: Value) => boolean;

const comparing = (operator: string): [number, Test] => [1, (value, other) => comparison(operator, value, other)];
const parity = (odd: boolean): [number, Test] => [0, (value) => isEqual(binary("%", value, 2n), odd ? 1n : 0n)];
const isSequence: Test = (value) =>
  typeof value === "string" ||
  Array.isArray(value) ||
  value instanceof Tuple ||
  value instanceof Dict ||
  value instanceof Range ||
  value instanceof Undefined;

/** How many arguments each takes, and what it tests. */
const tests: Readonly<Record<string, readonly [number, Test]>> = {
  boolean: [0, (value) => typeof value === "boolean"],
  // Python's Undefined has a `__call__`, which raises.
  callable: [0, (value) => typeof value === "function" || value instanceof Undefined || value instanceof Attributes],
  defined: [0, (value) => !(value instanceof Undefined)],
  divisibleby: [1, (value, other) => isEqual(binary("%", value, other), 0n)],
  eq: comparing("=="),
  equalto: comparing("=="),
  "==": comparing("=="),
  escaped: [0, () => false],
  even: parity(false),
  false: [0, (value) => value === false],
  filter: [0, (value) => isFilter(textOf(value))],
  float: [0, (value) => typeof value === "number"],
  ge: comparing(">="),
  ">=": comparing(">="),
  gt: comparing(">"),
  greaterthan: comparing(">"),
  ">": comparing(">"),
  in: [1, (value, other) => contains(other, value)],
  integer: [0, (value) => typeof value === "bigint"],
  iterable: [0, (value) => isSequence(value, null) || value instanceof View || value instanceof Lazy],
  le: comparing("<="),
  "<=": comparing("<="),
  lower: [0, (value) => isLower(textOf(value))],
  lt: comparing("<"),
  lessthan: comparing("<"),
  "<": comparing("<"),
  mapping: [0, (value) => value instanceof Dict],
  ne: comparing("!="),
  "!=": comparing("!="),
  none: [0, (value) => value === null],
  number: [0, isNumber],
  odd: parity(true),
  sameas: [1, (value, other) => value === other],
  sequence: [0, isSequence],
  string: [0, (value) => typeof value === "string"],
  test: [0, (value) => isTest(textOf(value))],
  true: [0, (value) => value === true],
  undefined: [0, (value) => value instanceof Undefined],
  upper: [0, (value) => isUpper(textOf(value))],
};

function isTest(name: string): boolean {
  return Object.hasOwn(tests, name);
}

/** @throws TemplateFault for an unknown test, or a wrong number of arguments */
export function applyTest(name: string, value: Value, args: readonly Value[]): boolean {
  const test = isTest(name) ? tests[name] : undefined;
  if (test === undefined) throw new TemplateFault(`No test named '${name}'`);
  const [count, ask] = test;
  if (args.length !== count) throw new TemplateFault(`the test '${name}' takes ${count} arguments, not ${args.length}`);
  return ask(value, args[0] ?? null);
}
