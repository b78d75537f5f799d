/** The methods of Python's str, counted in code points. */

import { TemplateFault } from "./fault.ts";
import { fieldWidth } from "./format.ts";
import { repeatText } from "./limits.ts";
import {
  capitalize,
  codePoints,
  isLower,
  isPrintable,
  isUpper,
  lengthOf,
  lineBreak,
  lstrip,
  rstrip,
  strip,
  titleCase,
  whitespace,
  words,
} from "./text.ts";
import { iterate, type Kwargs, Tuple, typeName, type Value, wholeOf } from "./values.ts";

/** Arguments by position or name. */
export class Given {
  private readonly method: string;
  private readonly args: readonly Value[];
  private readonly kwargs: Kwargs;
  constructor(method: string, args: readonly Value[], kwargs: Kwargs, names: readonly string[]) {
    this.method = method;
    this.args = args;
    this.kwargs = kwargs;
    if (args.length > names.length)
      throw new TemplateFault(`${method}() takes at most ${names.length} arguments (${args.length} given)`);
    for (const name of kwargs.keys())
      if (!names.includes(name)) throw new TemplateFault(`${method}() got an unexpected keyword argument '${name}'`);
    this.names = names;
  }
  private readonly names: readonly string[];
  value(name: string): Value | undefined {
    return this.args[this.names.indexOf(name)] ?? this.kwargs.get(name);
  }
  text(name: string): string {
    const value = this.value(name);
    if (typeof value === "string") return value;
    throw new TemplateFault(
      value === undefined
        ? `${this.method}() is missing the argument '${name}'`
        : `${this.method}(): ${name} must be str, not ${typeName(value)}`,
    );
  }
  textOrNull(name: string): string | null {
    return (this.value(name) ?? null) === null ? null : this.text(name);
  }
  int(name: string, fallback: number): number {
    const value = this.value(name);
    return value === undefined ? fallback : Number(wholeOf(value));
  }
}

type StringMethod = readonly [names: readonly string[], run: (text: string, given: Given) => Value];

/** The range that `find` and the like search, in code points. */
function within(text: string, given: Given): { readonly all: string[]; readonly start: number; readonly end: number } {
  const all = codePoints(text);
  const bound = (name: string, fallback: number) => {
    const value = given.value(name) === null ? fallback : given.int(name, fallback);
    return Math.min(Math.max(value < 0 ? value + all.length : value, 0), all.length);
  };
  return { all, start: bound("start", 0), end: bound("end", all.length) };
}

const finder = (last: boolean, throws: boolean): StringMethod => [
  ["sub", "start", "end"],
  (text, given) => {
    const { all, start, end } = within(text, given);
    const sub = given.text("sub");
    const part = all.slice(start, Math.max(start, end)).join("");
    const at = given.int("start", 0) > all.length ? -1 : last ? part.lastIndexOf(sub) : part.indexOf(sub);
    if (at < 0 && throws) throw new TemplateFault("substring not found");
    return BigInt(at < 0 ? -1 : start + lengthOf(part.slice(0, at)));
  },
];

const affix = (isStart: boolean): StringMethod => [
  ["prefix", "start", "end"],
  (text, given) => {
    const { all, start, end } = within(text, given);
    const part = start > end ? "" : all.slice(start, end).join("");
    const sought = given.value("prefix");
    const list = sought instanceof Tuple ? sought.items : [sought];
    return list.some((item) => {
      if (typeof item !== "string")
        throw new TemplateFault(
          `${isStart ? "startswith" : "endswith"} first arg must be str or a tuple of str, not ${item === undefined ? "nothing" : typeName(item)}`,
        );
      return isStart ? part.startsWith(item) : part.endsWith(item);
    });
  },
];

function split(text: string, given: Given, fromRight: boolean): Value {
  const separator = given.textOrNull("sep");
  const limit = given.int("maxsplit", -1);
  if (separator === "") throw new TemplateFault("empty separator");
  if (separator !== null) {
    const parts = text.split(separator);
    if (limit < 0 || parts.length <= limit + 1) return parts;
    if (fromRight) return [parts.slice(0, parts.length - limit).join(separator), ...parts.slice(parts.length - limit)];
    return [...parts.slice(0, limit), parts.slice(limit).join(separator)];
  }
  if (limit < 0) return words(text);
  const parts: string[] = [];
  let rest = fromRight ? rstrip(text) : lstrip(text);
  const expression = fromRight ? new RegExp(`([^${whitespace}]+)$`) : new RegExp(`^([^${whitespace}]+)`);
  while (rest !== "" && parts.length < limit) {
    const word = expression.exec(rest)![1]!;
    parts.push(word);
    rest = fromRight ? rstrip(rest.slice(0, rest.length - word.length)) : lstrip(rest.slice(word.length));
  }
  if (rest !== "") parts.push(rest);
  return fromRight ? parts.reverse() : parts;
}

const partition = (last: boolean): StringMethod => [
  ["sep"],
  (text, given) => {
    const separator = given.text("sep");
    if (separator === "") throw new TemplateFault("empty separator");
    const at = last ? text.lastIndexOf(separator) : text.indexOf(separator);
    if (at < 0) return new Tuple(last ? ["", "", text] : [text, "", ""]);
    return new Tuple([text.slice(0, at), separator, text.slice(at + separator.length)]);
  },
];

type Alignment = "left" | "right" | "center";

export function justified(text: string, width: number, align: Alignment, fill = " "): string {
  const missing = Math.max(0, fieldWidth(width) - lengthOf(text));
  // Python's own rule for which side gets the odd one.
  const left = align === "left" ? 0 : align === "right" ? missing : Math.floor(missing / 2) + (missing & width & 1);
  return repeatText(fill, left) + text + repeatText(fill, missing - left);
}

const justify = (align: Alignment): StringMethod => [
  ["width", "fillchar"],
  (text, given) => {
    const fill = given.value("fillchar") === undefined ? " " : given.text("fillchar");
    return justified(text, given.int("width", 0), align, fill);
  },
];

const every = (expression: RegExp): StringMethod => [[], (text) => expression.test(text)];

/** The first `count` occurrences, all if it is negative. */
export function replaceText(text: string, old: string, replacement: string, count: number): string {
  if (count < 0)
    return old === ""
      ? `${replacement}${codePoints(text)
          .map((c) => c + replacement)
          .join("")}`
      : text.replaceAll(old, () => replacement);
  const parts = old === "" ? ["", ...codePoints(text), ""] : text.split(old);
  if (old === "" && text === "") return count > 0 ? replacement : "";
  const cut = Math.min(count, parts.length - 1);
  return (
    parts.slice(0, cut + 1).join(replacement) + (cut < parts.length - 1 ? old + parts.slice(cut + 1).join(old) : "")
  );
}

export const stringMethods: Readonly<Record<string, StringMethod>> = {
  capitalize: [[], capitalize],
  casefold: [[], (text) => text.toLowerCase().replaceAll("ß", "ss").replaceAll("ς", "σ")],
  center: justify("center"),
  count: [
    ["sub", "start", "end"],
    (text, given) => {
      const { all, start, end } = within(text, given);
      const part = all.slice(start, end).join("");
      const sub = given.text("sub");
      return BigInt(sub === "" ? lengthOf(part) + 1 : part.split(sub).length - 1);
    },
  ],
  endswith: affix(false),
  expandtabs: [
    ["tabsize"],
    (text, given) => {
      const size = given.int("tabsize", 8);
      let column = 0;
      return codePoints(text)
        .map((c) => {
          const filled = c === "\t" ? repeatText(" ", size > 0 ? size - (column % size) : 0) : c;
          column = c === "\n" || c === "\r" ? 0 : column + filled.length;
          return filled;
        })
        .join("");
    },
  ],
  find: finder(false, false),
  index: finder(false, true),
  isalnum: every(/^[\p{L}\p{N}]+$/u),
  isalpha: every(/^\p{L}+$/u),
  isascii: [[], (text) => codePoints(text).every((c) => c <= "\x7f")],
  isdecimal: every(/^\p{Nd}+$/u),
  isdigit: every(/^[\p{Nd}\u00b2\u00b3\u00b9\u2070-\u2079\u2080-\u2089]+$/u),
  isidentifier: every(/^[\p{ID_Start}_][\p{ID_Continue}]*$/u),
  islower: [[], isLower],
  isnumeric: every(/^\p{N}+$/u),
  isprintable: [[], (text) => codePoints(text).every(isPrintable)],
  isspace: every(new RegExp(`^[${whitespace}]+$`)),
  istitle: [[], (text) => /\p{Cased}/u.test(text) && titleCase(text) === text],
  isupper: [[], isUpper],
  join: [["iterable"], (text, given) => joined(text, given.value("iterable"))],
  ljust: justify("left"),
  lower: [[], (text) => text.toLowerCase()],
  lstrip: [["chars"], (text, given) => lstrip(text, given.textOrNull("chars"))],
  partition: partition(false),
  removeprefix: [
    ["prefix"],
    (text, given) => (text.startsWith(given.text("prefix")) ? text.slice(given.text("prefix").length) : text),
  ],
  removesuffix: [
    ["suffix"],
    (text, given) => {
      const suffix = given.text("suffix");
      return suffix !== "" && text.endsWith(suffix) ? text.slice(0, -suffix.length) : text;
    },
  ],
  replace: [
    ["old", "new", "count"],
    (text, given) => replaceText(text, given.text("old"), given.text("new"), given.int("count", -1)),
  ],
  rfind: finder(true, false),
  rindex: finder(true, true),
  rjust: justify("right"),
  rpartition: partition(true),
  rsplit: [["sep", "maxsplit"], (text, given) => split(text, given, true)],
  rstrip: [["chars"], (text, given) => rstrip(text, given.textOrNull("chars"))],
  split: [["sep", "maxsplit"], (text, given) => split(text, given, false)],
  splitlines: [
    ["keepends"],
    (text, given) => {
      const keep = Boolean(given.value("keepends") ?? false);
      const lines: string[] = [];
      for (let rest = text; rest !== ""; ) {
        const found = lineBreak.exec(rest);
        const end = found === null ? rest.length : found.index + found[0].length;
        lines.push(rest.slice(0, keep || found === null ? end : found.index));
        rest = rest.slice(end);
      }
      return lines;
    },
  ],
  startswith: affix(true),
  strip: [["chars"], (text, given) => strip(text, given.textOrNull("chars"))],
  swapcase: [
    [],
    (text) =>
      codePoints(text)
        .map((c) => (/\p{Lu}/u.test(c) ? c.toLowerCase() : c.toUpperCase()))
        .join(""),
  ],
  title: [[], titleCase],
  upper: [[], (text) => text.toUpperCase()],
  zfill: [
    ["width"],
    (text, given) => {
      const sign = /^[+-]?/.exec(text)![0];
      const missing = Math.max(0, fieldWidth(given.int("width", 0)) - lengthOf(text));
      return sign + repeatText("0", missing) + text.slice(sign.length);
    },
  ],
};

function joined(separator: string, iterable: Value | undefined): string {
  if (iterable === undefined) throw new TemplateFault("join() takes exactly one argument (0 given)");
  return iterate(iterable)
    .map((item, i) => {
      if (typeof item === "string") return item;
      throw new TemplateFault(`sequence item ${i}: expected str instance, ${typeName(item)} found`);
    })
    .join(separator);
}
