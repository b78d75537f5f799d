/**
 * jinja2's filters. Leaves out those that only make sense for HTML pages (`striptags`, `urlize`, `xmlattr`), and
 * `random`, `pprint`, `filesizeformat`, `wordwrap`, which no chat template uses.
 */

import { TemplateFault } from "./fault.ts";
import { formatPercent } from "./format.ts";
import { toJson } from "./json.ts";
import { repeatText } from "./limits.ts";
import { fixedText, readFloat, readInt, roundedAt } from "./numbers.ts";
import { binary } from "./operators.ts";
import {
  batches,
  caseOf,
  dictSort,
  extreme,
  type Filter,
  type FilterContext,
  getter,
  groupBy,
  int,
  type Named,
  slices,
  sortedBy,
  unique,
} from "./sequences.ts";
import { justified, replaceText } from "./string-methods.ts";
import { capitalize, codePoints, lengthOf, lineBreak, strip, whitespace } from "./text.ts";
import {
  Dict,
  escapeHtml,
  isNumber,
  isTrue,
  iterate,
  type Kwargs,
  Lazy,
  Markup,
  numeric,
  plain,
  Range,
  Tuple,
  textOf,
  typeName,
  Undefined,
  type Value,
  View,
} from "./values.ts";

function lengthOfValue(value: Value): number {
  if (typeof value === "string") return lengthOf(value);
  if (value instanceof Undefined) return 0;
  const isSized =
    Array.isArray(value) ||
    value instanceof Tuple ||
    value instanceof Dict ||
    value instanceof View ||
    value instanceof Range;
  if (!isSized) throw new TemplateFault(`object of type '${typeName(value)}' has no len()`);
  return value instanceof Dict ? value.size : iterate(value).length;
}

function toInt(value: Value, named: Named): Value {
  const fallback = named.default === undefined ? 0n : named.default;
  if (value instanceof Undefined) value.fail();
  if (typeof value === "bigint" || typeof value === "boolean") return BigInt(value);
  if (typeof value === "string") {
    const read = readInt(strip(value), int(named.base, 10));
    if (read !== null) return read;
  }
  const float = typeof value === "number" ? value : typeof value === "string" ? readFloat(strip(value)) : null;
  return float === null || !Number.isFinite(float) ? fallback : BigInt(Math.trunc(float));
}

function toFloat(value: Value, named: Named): Value {
  if (value instanceof Undefined) value.fail();
  if (isNumber(value)) return Number(value);
  const read = typeof value === "string" ? readFloat(strip(value)) : null;
  return read ?? (named.default === undefined ? 0 : named.default);
}

/** Half to even, as Python rounds. */
function round(value: Value, named: Named): Value {
  if (value instanceof Undefined) value.fail();
  if (!isNumber(value)) throw new TemplateFault(`type ${typeName(value)} doesn't define __round__ method`);
  const precision = int(named.precision, 0);
  const method = named.method ?? "common";
  if (method === "ceil" || method === "floor") {
    const scale = 10 ** precision;
    return Math[method](Number(value) * scale) / scale;
  }
  if (method !== "common") throw new TemplateFault("method must be common, ceil or floor");
  const number = numeric(value);
  // Beyond these the result is 0 or unchanged: a float has no more digits.
  const places = Math.max(precision, -400);
  if (typeof number === "bigint") {
    if (places >= 0) return number;
    const size = roundedAt(number < 0n ? -number : number, 0, places) * 10n ** BigInt(-places);
    return number < 0n ? -size : size;
  }
  if (!Number.isFinite(number) || places > 1100) return number;
  const size = Number(fixedText(number, places));
  return number < 0 || Object.is(number, -0) ? -size : size;
}

/** As in jinja2, a line break is appended to the text first; a carriage return at its end is half of that break. */
function splitLines(value: Value): string[] {
  if (typeof value !== "string")
    throw new TemplateFault(`unsupported operand type(s) for +=: '${typeName(value)}' and 'str'`);
  return value.replace(/\r$/, "").split(lineBreak);
}

function indent(value: Value, named: Named): Value {
  const width = named.width ?? 4n;
  const margin = typeof width === "string" ? width : repeatText(" ", Math.max(0, int(width, 4)));
  const lines = splitLines(value);
  const all = lines
    .map((line, i) => (i > 0 && (line !== "" || isTrue(named.blank ?? false)) ? margin + line : line))
    .join("\n");
  return isTrue(named.first ?? false) ? margin + all : all;
}

function truncate(given: Value, named: Named): Value {
  const value = plain(given);
  const [length, end] = [int(named.length, 255), textOf(named.end ?? "...")];
  if (length < lengthOf(end)) throw new TemplateFault(`expected length >= ${lengthOf(end)}, got ${length}`);
  if (lengthOfValue(value) <= length + int(named.leeway, 5)) return value;
  if (typeof value !== "string") throw new TemplateFault(`'${typeName(value)}' is not a string that can be truncated`);
  const all = codePoints(value);
  const cut = all.slice(0, length - lengthOf(end)).join("");
  if (isTrue(named.killwords ?? false)) return cut + end;
  return (cut.includes(" ") ? cut.slice(0, cut.lastIndexOf(" ")) : cut) + end;
}

const escapeFilter: Filter = (value) => new Markup(escapeHtml(value));

function percentEncoded(value: Value, inQuery: boolean): string {
  const encoded = encodeURIComponent(textOf(value)).replace(
    /[!'()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return inQuery ? encoded.replaceAll("%20", "+") : encoded.replaceAll("%2F", "/");
}

function urlEncode(value: Value): Value {
  if (typeof value === "string" || isNumber(value) || value === null) return percentEncoded(value, false);
  const pairs = value instanceof Dict ? value.entries() : iterate(value).map((pair) => iterate(pair));
  return pairs
    .map(([key = null, item = null]) => `${percentEncoded(key, true)}=${percentEncoded(item, true)}`)
    .join("&");
}

const first: Filter = (value) => {
  if (value instanceof Lazy) {
    const { done, value: item } = value.source.next();
    return done ? new Undefined("No first item, sequence was empty.") : item;
  }
  const items = iterate(value);
  return items.length === 0 ? new Undefined("No first item, sequence was empty.") : items[0]!;
};

const length: Filter = (value) => BigInt(lengthOfValue(value));
const fallback: Filter = (value, named) =>
  value instanceof Undefined || (isTrue(named.boolean ?? false) && !isTrue(value))
    ? named.default_value === undefined
      ? ""
      : named.default_value
    : value;

/** Filters with named parameters, in their order. */
const filters: Readonly<Record<string, readonly [parameters: readonly string[], run: Filter]>> = {
  abs: [
    [],
    (value) => {
      if (!isNumber(value)) throw new TemplateFault(`bad operand type for abs(): '${typeName(value)}'`);
      const number = numeric(value);
      return number < 0 ? -number : number;
    },
  ],
  attr: [["name"], (value, named, context) => context.attributeOnly(value, textOf(named.name ?? ""))],
  batch: [["linecount", "fill_with"], (value, named) => new Lazy(batches(value, named))],
  capitalize: [[], (value) => capitalize(textOf(value))],
  center: [["width"], (value, named) => justified(textOf(value), int(named.width, 80), "center")],
  count: [[], length],
  d: [["default_value", "boolean"], fallback],
  default: [["default_value", "boolean"], fallback],
  dictsort: [["case_sensitive", "by", "reverse"], dictSort],
  e: [[], escapeFilter],
  escape: [[], escapeFilter],
  first: [[], first],
  float: [["default"], toFloat],
  forceescape: [[], escapeFilter],
  groupby: [["attribute", "default", "case_sensitive"], groupBy],
  indent: [["width", "first", "blank"], indent],
  int: [["default", "base"], toInt],
  items: [
    [],
    (value) => {
      if (value instanceof Undefined) return [];
      if (!(value instanceof Dict)) throw new TemplateFault("Can only get item pairs from a mapping.");
      return new Lazy(
        value
          .entries()
          .map((entry): Value => new Tuple(entry))
          [Symbol.iterator]() as Generator<Value>,
      );
    },
  ],
  join: [
    ["d", "attribute"],
    (value, named, context) => {
      const pick = getter(context, named.attribute);
      return iterate(value)
        .map((item) => textOf(pick(item)))
        .join(named.d === undefined ? "" : textOf(named.d));
    },
  ],
  last: [
    [],
    (value) => {
      if (value instanceof Lazy) throw new TemplateFault("'generator' object is not reversible");
      const items = iterate(value);
      return items.length === 0 ? new Undefined("No last item, sequence was empty.") : items.at(-1)!;
    },
  ],
  length: [[], length],
  list: [[], (value) => [...iterate(value)]],
  lower: [[], (value) => textOf(value).toLowerCase()],
  max: [["case_sensitive", "attribute"], extreme(1)],
  min: [["case_sensitive", "attribute"], extreme(-1)],
  replace: [
    ["old", "new", "count"],
    (value, named) => {
      if (named.old === undefined || named.new === undefined) throw new TemplateFault("replace needs two arguments");
      return replaceText(textOf(value), textOf(named.old), textOf(named.new), int(named.count, -1));
    },
  ],
  reverse: [
    [],
    (value) => {
      const items = [...iterate(value)].reverse();
      return typeof value === "string" ? items.join("") : new Lazy(items[Symbol.iterator]() as Generator<Value>);
    },
  ],
  round: [["precision", "method"], round],
  safe: [[], (value) => new Markup(textOf(value))],
  slice: [["slices", "fill_with"], (value, named) => new Lazy(slices(value, named))],
  sort: [
    ["reverse", "case_sensitive", "attribute"],
    (value, named, context) => {
      const fold = caseOf(named);
      const names = typeof named.attribute === "string" ? named.attribute.split(",") : [named.attribute];
      const picks = names.map((name) => getter(context, name));
      const keyOf = (item: Value) => picks.map((pick) => fold(pick(item)));
      return sortedBy(iterate(value), keyOf, isTrue(named.reverse ?? false));
    },
  ],
  string: [[], textOf],
  sum: [
    ["attribute", "start"],
    (value, named, context) => {
      const pick = getter(context, named.attribute);
      return iterate(value).reduce<Value>((sum, item) => binary("+", sum, pick(item)), named.start ?? 0n);
    },
  ],
  title: [
    [],
    (value) =>
      textOf(value)
        .split(new RegExp(`([-${whitespace}({\\[<]+)`))
        .map((word) => {
          const [head = "", ...rest] = codePoints(word);
          return head.toUpperCase() + rest.join("").toLowerCase();
        })
        .join(""),
  ],
  trim: [
    ["chars"],
    (value, named) =>
      strip(textOf(value), named.chars === undefined || named.chars === null ? null : textOf(named.chars)),
  ],
  truncate: [["length", "killwords", "end", "leeway"], truncate],
  unique: [["case_sensitive", "attribute"], (value, named, context) => new Lazy(unique(value, named, context))],
  upper: [[], (value) => textOf(value).toUpperCase()],
  urlencode: [[], urlEncode],
  wordcount: [[], (value) => BigInt(textOf(value).match(/[\p{L}\p{N}_]+/gu)?.length ?? 0)],
};

function* mapped(value: Value, args: readonly Value[], kwargs: Kwargs, context: FilterContext): Generator<Value> {
  if (!isTrue(value)) return;
  const [name, ...rest] = args;
  const pick = name === undefined ? getter(context, kwargs.get("attribute"), kwargs.get("default") ?? null) : null;
  if (pick !== null && !kwargs.has("attribute")) throw new TemplateFault("map requires a filter argument");
  for (const item of iterate(value))
    yield pick === null ? context.filter(textOf(name!), item, rest, kwargs) : pick(item);
}

function* selected(
  value: Value,
  args: readonly Value[],
  context: FilterContext,
  isByAttribute: boolean,
  isKept: boolean,
): Generator<Value> {
  if (!isTrue(value)) return;
  if (isByAttribute && args.length === 0) throw new TemplateFault("Missing parameter for attribute name");
  const pick = isByAttribute ? getter(context, args[0]) : (item: Value) => item;
  const [name, ...rest] = isByAttribute ? args.slice(1) : args;
  for (const item of iterate(value)) {
    const picked = pick(item);
    const isSelected = name === undefined ? isTrue(picked) : context.test(textOf(name), picked, rest);
    if (isSelected === isKept) yield item;
  }
}

/** @throws TemplateFault for an unknown filter, or arguments that it does not take */
export function applyFilter(
  name: string,
  given: Value,
  args: readonly Value[],
  kwargs: Kwargs,
  context: FilterContext,
): Value {
  // Only these distinguish HTML from other text.
  const value = /^(e|escape|safe|default|d)$/.test(name) ? given : plain(given);
  if (name === "tojson") return toJson(value, args, kwargs);
  if (name === "format") {
    const values = kwargs.size > 0 ? new Dict([...kwargs]) : new Tuple(args);
    return formatPercent(textOf(value), values);
  }
  if (name === "map") return new Lazy(mapped(value, args, kwargs, context));
  const choice = /^(select|reject)(attr)?$/.exec(name);
  if (choice !== null) return new Lazy(selected(value, args, context, choice[2] !== undefined, choice[1] === "select"));
  const filter = Object.hasOwn(filters, name) ? filters[name] : undefined;
  if (filter === undefined) throw new TemplateFault(`No filter named '${name}'`);
  const [parameters, run] = filter;
  if (args.length > parameters.length)
    throw new TemplateFault(`the filter '${name}' takes at most ${parameters.length} arguments, not ${args.length}`);
  const named: Record<string, Value> = {};
  for (const [i, argument] of args.entries()) named[parameters[i]!] = argument;
  for (const [key, argument] of kwargs) {
    if (!parameters.includes(key)) throw new TemplateFault(`the filter '${name}' has no parameter '${key}'`);
    named[key] = argument;
  }
  return run(value, named, context);
}

export function isFilter(name: string): boolean {
  return Object.hasOwn(filters, name) || /^(tojson|format|map|(select|reject)(attr)?)$/.test(name);
}
