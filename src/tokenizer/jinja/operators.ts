/** Python's operators over a template's values: arithmetic, `in`, subscripts and slices. */

import { TemplateFault } from "./fault.ts";
import { formatPercent } from "./format.ts";
import { concatenated, requireLength } from "./limits.ts";
import {
  compare,
  Dict,
  escapeHtml,
  isEqual,
  isNumber,
  iterate,
  Markup,
  numeric,
  plain,
  Range,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from "./values.ts";

export function binary(operator: string, a: Value, b: Value): Value {
  const isText = (value: Value) => typeof value === "string" || value instanceof Markup;
  if (operator === "+" && (a instanceof Markup || b instanceof Markup) && isText(a) && isText(b))
    return new Markup(escapeHtml(a) + escapeHtml(b));
  const [left, right] = [plain(a), plain(b)];
  for (const side of [left, right])
    if (side instanceof Undefined && !(operator === "%" && typeof left === "string")) side.fail();
  if (operator === "%" && typeof left === "string") return formatPercent(left, right);
  if (isNumber(left) && isNumber(right)) return arithmetic(operator, numeric(left), numeric(right));
  if (operator === "+") {
    if (typeof left === "string" && typeof right === "string") return concatenated([left, right]);
    if (Array.isArray(left) && Array.isArray(right)) requireLength(left.length + right.length);
    if (Array.isArray(left) && Array.isArray(right)) return [...left, ...right];
    if (left instanceof Tuple && right instanceof Tuple) return new Tuple([...left.items, ...right.items]);
    if (typeof left === "string") throw new TemplateFault(`can only concatenate str (not "${typeName(right)}") to str`);
  }
  if (operator === "*") {
    const [sequence, count] = isNumber(left) ? [right, left] : [left, right];
    if (isNumber(count) && typeof count !== "number") return repeated(sequence, Number(count));
  }
  throw new TemplateFault(`unsupported operand type(s) for ${operator}: '${typeName(left)}' and '${typeName(right)}'`);
}

function repeated(sequence: Value, count: number): Value {
  const times = Math.max(0, count);
  const isText = typeof sequence === "string";
  if (!isText && !Array.isArray(sequence) && !(sequence instanceof Tuple))
    throw new TemplateFault(`can't multiply sequence by non-int of type '${typeName(sequence)}'`);
  const items = isText ? [] : iterate(sequence);
  requireLength((isText ? sequence.length : items.length) * times);
  if (isText) return sequence.repeat(times);
  const all = Array.from({ length: times }, () => items).flat();
  return Array.isArray(sequence) ? all : new Tuple(all);
}

function arithmetic(operator: string, left: bigint | number, right: bigint | number): Value {
  if (["/", "//", "%"].includes(operator) && Number(right) === 0) throw new TemplateFault("division by zero");
  if (typeof left === "bigint" && typeof right === "bigint") {
    if (operator === "+") return left + right;
    if (operator === "-") return left - right;
    if (operator === "*") return left * right;
    if (operator === "/") return Number(left) / Number(right);
    if (operator === "**") {
      if (right < 0n) return Number(left) ** Number(right);
      if (right > 10_000n) throw new TemplateFault("a power of more than 10000");
      return left ** right;
    }
    const remainder = left % right;
    // Rounded down, and the remainder has the divisor's sign; JavaScript rounds toward zero.
    const isOff = remainder !== 0n && remainder < 0n !== right < 0n;
    if (operator === "%") return isOff ? remainder + right : remainder;
    return left / right - (isOff ? 1n : 0n);
  }
  const [x, y] = [Number(left), Number(right)];
  if (operator === "+") return x + y;
  if (operator === "-") return x - y;
  if (operator === "*") return x * y;
  if (operator === "/") return x / y;
  if (operator === "**") return x ** y;
  let remainder = x % y;
  if (remainder !== 0 && remainder < 0 !== y < 0) remainder += y;
  if (remainder === 0) remainder = y < 0 ? -0 : 0;
  if (operator === "%") return remainder;
  return Math.round((x - remainder) / y);
}

export function negate(value: Value): Value {
  if (value instanceof Undefined) value.fail();
  if (!isNumber(value)) throw new TemplateFault(`bad operand type for unary -: '${typeName(value)}'`);
  return -numeric(value);
}

export function positive(value: Value): Value {
  if (value instanceof Undefined) value.fail();
  if (!isNumber(value)) throw new TemplateFault(`bad operand type for unary +: '${typeName(value)}'`);
  return numeric(value);
}

export function comparison(operator: string, left: Value, right: Value): boolean {
  switch (operator) {
    case "==":
      return isEqual(left, right);
    case "!=":
      return !isEqual(left, right);
    case "in":
      return contains(right, left);
    case "not in":
      return !contains(right, left);
    case "<":
      return compare(left, right, operator) < 0;
    case "<=":
      return compare(left, right, operator) <= 0;
    case ">":
      return compare(left, right, operator) > 0;
    default:
      return compare(left, right, operator) >= 0;
  }
}

export function contains(container: Value, item: Value): boolean {
  if (typeof container === "string") {
    if (typeof item === "string") return container.includes(item);
    throw new TemplateFault(`'in <string>' requires string as left operand, not ${typeName(item)}`);
  }
  if (container instanceof Dict) return container.has(item);
  if (container === null || isNumber(container) || typeof container === "function")
    throw new TemplateFault(`argument of type '${typeName(container)}' is not iterable`);
  return iterate(container).some((other) => isEqual(other, item));
}

const isIndexed = (object: Value): boolean =>
  typeof object === "string" || Array.isArray(object) || object instanceof Tuple || object instanceof Range;

/** `object[key]`, or undefined if Python raises an error that jinja2 turns into its Undefined. */
export function subscript(object: Value, key: Value): Value | undefined {
  if (object instanceof Undefined) object.fail();
  if (object instanceof Dict) {
    // An unhashable key counts as missing.
    return Array.isArray(key) || key instanceof Dict ? undefined : object.get(key);
  }
  if (!isIndexed(object) || (typeof key !== "bigint" && typeof key !== "boolean")) return undefined;
  const items = iterate(object);
  const index = Number(key);
  return items[index < 0 ? index + items.length : index];
}

/** `object[start:stop:step]`; undefined as above. */
export function slice(object: Value, bounds: readonly (Value | null)[]): Value | undefined {
  if (object instanceof Undefined) object.fail();
  if (!isIndexed(object)) return undefined;
  const items = iterate(object);
  const picked = sliceIndices(items.length, bounds);
  if (picked === null) return undefined;
  const chosen = picked.map((i) => items[i]!);
  if (typeof object === "string") return chosen.join("");
  return object instanceof Tuple ? new Tuple(chosen) : chosen;
}

function sliceIndices(length: number, bounds: readonly (Value | null)[]): number[] | null {
  const numbers: (number | null)[] = [];
  for (const bound of [0, 1, 2].map((i) => bounds[i] ?? null)) {
    if (bound !== null && typeof bound !== "bigint" && typeof bound !== "boolean") return null;
    numbers.push(bound === null ? null : Number(bound));
  }
  const step = numbers[2] ?? 1;
  if (step === 0) throw new TemplateFault("slice step cannot be zero");
  const [low, high] = step > 0 ? [0, length] : [-1, length - 1];
  const clamp = (bound: number | null, fallback: number) => {
    if (bound === null) return fallback;
    return Math.min(Math.max(bound < 0 ? bound + length : bound, low), high);
  };
  const start = clamp(numbers[0]!, step > 0 ? low : high);
  const stop = clamp(numbers[1]!, step > 0 ? high : low);
  const indices: number[] = [];
  for (let i = start; step > 0 ? i < stop : i > stop; i += step) indices.push(i);
  return indices;
}
