/**
 * The values of a template, each standing for a Python value: an int is a bigint, a float is a number, None is null, a
 * list is an array. Their types' names, truth, equality, order and text.
 */
import { TemplateFault } from "./fault.ts";
import { floatText } from "./numbers.ts";
import { codePoints, compareText, quoted } from "./text.ts";

export type Value =
  | string
  | bigint
  | number
  | boolean
  | null
  | Value[]
  | Tuple
  | Dict
  | View
  | Range
  | Lazy
  | Undefined
  | Markup
  | Namespace
  | Attributes
  | Callable;

export type Kwargs = ReadonlyMap<string, Value>;
export type Callable = (args: readonly Value[], kwargs: Kwargs) => Value;

export class Tuple {
  readonly items: readonly Value[];
  constructor(items: readonly Value[]) {
    this.items = items;
  }
}

export class Range {
  readonly start: bigint;
  readonly stop: bigint;
  readonly step: bigint;
  constructor(start: bigint, stop: bigint, step: bigint) {
    this.start = start;
    this.stop = stop;
    this.step = step;
  }
  get items(): Value[] {
    const items: Value[] = [];
    for (let i = this.start; this.step > 0n ? i < this.stop : i > this.stop; i += this.step) items.push(i);
    return items;
  }
}

/** `dict.keys()` and the like. */
export class View {
  readonly name: string;
  readonly items: readonly Value[];
  constructor(name: string, items: readonly Value[]) {
    this.name = name;
    this.items = items;
  }
}

/** A generator, as `map` and `select` return: true, without a length, read once. */
export class Lazy {
  readonly source: Generator<Value>;
  constructor(source: Generator<Value>) {
    this.source = source;
  }
}

/** The value of a missing name or member: prints as nothing, is false, and refuses everything else. */
export class Undefined {
  readonly message: string;
  constructor(message: string) {
    this.message = message;
  }
  fail(): never {
    throw new TemplateFault(this.message);
  }
}

/** Text that is already HTML, from `safe` and `escape`: text joined to it by `+` is escaped (by `~` it is not). */
export class Markup {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

/** A value as everything but joining sees it. */
export function plain(value: Value): Value {
  return value instanceof Markup ? value.text : value;
}

const htmlEscapes: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  "'": "&#39;",
  '"': "&#34;",
};

export function escapeHtml(value: Value): string {
  if (value instanceof Markup) return value.text;
  return textOf(value).replace(/[&<>'"]/g, (character) => htmlEscapes[character]!);
}

export class Namespace {
  readonly attributes = new Map<string, Value>();
}

/** An object with attributes that is not a mapping: `loop`, `cycler`. */
export abstract class Attributes {
  abstract readonly typeName: string;
  abstract attribute(name: string): Value | undefined;
  call(_args: readonly Value[], _kwargs: Kwargs): Value {
    throw new TemplateFault(`'${this.typeName}' object is not callable`);
  }
}

export class Dict {
  private readonly byKey = new Map<unknown, [Value, Value]>();
  constructor(entries: Iterable<readonly [Value, Value]> = []) {
    for (const [key, value] of entries) this.set(key, value);
  }
  get size(): number {
    return this.byKey.size;
  }
  get(key: Value): Value | undefined {
    return this.byKey.get(hashed(key))?.[1];
  }
  has(key: Value): boolean {
    return this.byKey.has(hashed(key));
  }
  set(key: Value, value: Value): void {
    const hash = hashed(key);
    const known = this.byKey.get(hash);
    if (known !== undefined) known[1] = value;
    else this.byKey.set(hash, [key, value]);
  }
  entries(): [Value, Value][] {
    return [...this.byKey.values()];
  }
  keys(): Value[] {
    return this.entries().map(([key]) => key);
  }
  values(): Value[] {
    return this.entries().map(([, value]) => value);
  }
}

/** Equal for values that Python counts as one key: 1, 1.0 and True. */
export function hashed(value: Value): unknown {
  if (typeof value === "string") return `'${value}`;
  if (typeof value === "boolean") return value ? 1n : 0n;
  if (typeof value === "number") return Number.isInteger(value) ? BigInt(value) : value;
  if (value instanceof Tuple)
    return `(${value.items.map((item) => `${typeof item}${String(hashed(item))}`).join("\u0000")}`;
  if (Array.isArray(value) || value instanceof Dict) throw new TemplateFault(`unhashable type: '${typeName(value)}'`);
  return value;
}

/** Converts JSON values. @throws TemplateFault for anything that JSON cannot hold */
export function fromJson(value: unknown): Value {
  if (value === null || typeof value === "string" || typeof value === "boolean" || typeof value === "bigint")
    return value;
  // Larger whole numbers were floats (1e22): as ints they would have come as bigint.
  if (typeof value === "number") return Number.isSafeInteger(value) ? BigInt(value) : value;
  if (value === undefined) return null;
  if (Array.isArray(value)) return value.map(fromJson);
  if (typeof value === "object") return new Dict(Object.entries(value).map(([key, item]) => [key, fromJson(item)]));
  throw new TemplateFault(`a ${typeof value} cannot be given to a template`);
}

/** Python's name of the type. */
export function typeName(value: Value): string {
  if (value === null) return "NoneType";
  if (typeof value === "string" || value instanceof Markup) return "str";
  if (typeof value === "bigint") return "int";
  if (typeof value === "number") return "float";
  if (typeof value === "boolean") return "bool";
  if (Array.isArray(value)) return "list";
  if (typeof value === "function") return "function";
  if (value instanceof Tuple) return "tuple";
  if (value instanceof Dict) return "dict";
  if (value instanceof View) return value.name;
  if (value instanceof Range) return "range";
  if (value instanceof Lazy) return "generator";
  if (value instanceof Undefined) return "Undefined";
  return value instanceof Namespace ? "Namespace" : value.typeName;
}

export function isNumber(value: Value): value is bigint | number | boolean {
  return typeof value === "bigint" || typeof value === "number" || typeof value === "boolean";
}

/** A bool as an int. */
export function numeric(value: bigint | number | boolean): bigint | number {
  return typeof value === "boolean" ? (value ? 1n : 0n) : value;
}

export function isTrue(value: Value): boolean {
  if (value === null || value instanceof Undefined) return false;
  if (typeof value === "object") {
    if (value instanceof Markup) return value.text !== "";
    if (Array.isArray(value)) return value.length > 0;
    if (value instanceof Dict) return value.size > 0;
    if (value instanceof Tuple || value instanceof View || value instanceof Range) return value.items.length > 0;
    return true;
  }
  return Boolean(value);
}

/** Python's `==`. */
export function isEqual(a: Value, b: Value): boolean {
  if (isNumber(a) && isNumber(b)) {
    const [x, y] = [numeric(a), numeric(b)];
    // A bigint beside a number: JavaScript's loose comparison is exact there.
    // biome-ignore lint/suspicious/noDoubleEquals: see above
    return x == y;
  }
  if (a instanceof Undefined) return b instanceof Undefined;
  if (Array.isArray(a)) return Array.isArray(b) && areEqual(a, b);
  if (a instanceof Tuple) return b instanceof Tuple && areEqual(a.items, b.items);
  if (a instanceof Range) return b instanceof Range && areEqual(a.items, b.items);
  if (a instanceof Dict)
    return (
      b instanceof Dict &&
      a.size === b.size &&
      a.entries().every(([key, value]) => b.has(key) && isEqual(value, b.get(key)!))
    );
  if (a instanceof View)
    return (
      b instanceof View &&
      a.name !== "dict_values" &&
      a.items.length === b.items.length &&
      a.items.every((item) => b.items.some((other) => isEqual(item, other)))
    );
  return a === b;
}

function areEqual(a: readonly Value[], b: readonly Value[]): boolean {
  return a.length === b.length && a.every((item, i) => isEqual(item, b[i]!));
}

/** Less than 0, 0, more than 0; NaN if a NaN is compared. @throws TemplateFault if Python has no order */
export function compare(a: Value, b: Value, operator: string): number {
  if (isNumber(a) && isNumber(b)) {
    const [x, y] = [numeric(a), numeric(b)];
    // biome-ignore lint/suspicious/noDoubleEquals: a bigint beside a number
    return x < y ? -1 : x > y ? 1 : x == y ? 0 : Number.NaN;
  }
  if (typeof a === "string" && typeof b === "string") return compareText(a, b);
  const isList = Array.isArray(a) && Array.isArray(b);
  if (isList || (a instanceof Tuple && b instanceof Tuple)) {
    const [x, y] = [iterate(a), iterate(b)];
    const different = x.findIndex((item, i) => i >= y.length || !isEqual(item, y[i]!));
    if (different >= 0 && different < y.length) return compare(x[different]!, y[different]!, operator);
    return x.length - y.length;
  }
  for (const side of [a, b]) if (side instanceof Undefined) side.fail();
  throw new TemplateFault(`'${operator}' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}

/** The items that a loop over the value visits. @throws TemplateFault if it is not iterable */
export function iterate(value: Value): readonly Value[] {
  if (Array.isArray(value)) return value;
  if (typeof value === "string") return codePoints(value);
  if (value instanceof Tuple || value instanceof View || value instanceof Range) return value.items;
  if (value instanceof Dict) return value.keys();
  if (value instanceof Lazy) return [...value.source];
  if (value instanceof Undefined) return [];
  throw new TemplateFault(`'${typeName(value)}' object is not iterable`);
}

/** Python's `str`. */
/** A whole number where Python requires one (`__index__`): a bool is one, a float is not. */
export function wholeOf(value: Value): bigint {
  if (typeof value === "bigint" || typeof value === "boolean") return BigInt(value);
  throw new TemplateFault(`'${typeName(value)}' object cannot be interpreted as an integer`);
}

export function textOf(value: Value): string {
  if (typeof value === "string") return value;
  if (value instanceof Markup) return value.text;
  return value instanceof Undefined ? "" : repr(value);
}

/** Python's `repr`. */
export function repr(value: Value): string {
  if (value === null) return "None";
  if (typeof value === "string") return quoted(value);
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "number") return floatText(value);
  if (Array.isArray(value)) return `[${value.map(repr).join(", ")}]`;
  if (value instanceof Tuple) return `(${value.items.map(repr).join(", ")}${value.items.length === 1 ? "," : ""})`;
  if (value instanceof Dict)
    return `{${value
      .entries()
      .map(([key, item]) => `${repr(key)}: ${repr(item)}`)
      .join(", ")}}`;
  if (value instanceof View) return `${value.name}([${value.items.map(repr).join(", ")}])`;
  if (value instanceof Range)
    return `range(${value.start}, ${value.stop}${value.step === 1n ? "" : `, ${value.step}`})`;
  if (value instanceof Undefined) return "Undefined";
  if (value instanceof Namespace) return `<Namespace ${repr(new Dict(value.attributes))}>`;
  return `<${typeName(value)}>`;
}
