/**
 * JSON text ↔ values without silent changes. `JSON.parse` rounds whole numbers past 2^53, reads 1.0 as 1 and 1e400 as
 * infinity, keeps the last of two equal keys and refuses the NaN and Infinity that Python writes. Here they are read as
 * bigint, as `JsonNumber`, reported by name, and as they are. `JSON.parse` is still used for text without any of these.
 */

/** A number whose spelling a double would lose: `1.0`, `1e3`, `1e400`. */
export class JsonNumber {
  readonly text: string;
  private readonly value: number;

  constructor(text: string) {
    this.text = text;
    this.value = Number(text);
  }

  valueOf(): number {
    return this.value;
  }

  /** Whether a double is close to it: not for 1e400, nor for 1e-400, which is not 0. */
  get fits(): boolean {
    return Number.isFinite(this.value) && (this.value !== 0 || !/[1-9]/.test(this.text.replace(/[eE].*/, "")));
  }
}

/** Why text is not JSON. */
export class NotJson extends Error {}

/** Keys and list indices, outermost first, leading to a key that occurs twice in one object. */
export type RepeatedKey = readonly (string | number)[];

/**
 * A whole number of 16 digits or more, or a real one that might be whole or beyond every double. A quoted text may match
 * too; that only costs the exact parser's time.
 */
const unusualNumber = /(?<![.0-9a-zA-Z\\])[0-9](?:[0-9]{15}|[0-9]*(?:\.0+|(?:\.[0-9]+)?[eE][+-]?[0-9]+)(?:[\s,}\]]|$))/;

export const hasUnusualNumber = (text: string): boolean => unusualNumber.test(text);

/** Those that `JSON.parse` may change, rather than only respell, as it does 12.0. */
const changedNumber = /(?<![.0-9a-zA-Z\\])[0-9](?:[0-9]{15}|[0-9]*(?:\.[0-9]+)?[eE][+-]?[0-9]+(?:[\s,}\]]|$))/;

export const hasChangedNumber = (text: string): boolean => changedNumber.test(text);

export interface ParseOptions {
  /** `hasUnusualNumber(text)`, if known. */
  readonly unusual?: boolean;
  /** Called for each key that occurs twice in one object; without it, they are not looked for. */
  readonly onRepeated?: (key: RepeatedKey) => void;
}

/** @throws NotJson */
export function parseJson(text: string, { unusual = hasUnusualNumber(text), onRepeated }: ParseOptions = {}): unknown {
  if (!unusual) {
    try {
      const value = JSON.parse(text);
      if (!onRepeated || typeof value !== "object" || value === null || keysIn(value) === colonsIn(text)) return value;
    } catch {
      // It is torn, or has a NaN in it.
    }
  }
  return parseExactly(text, onRepeated ?? (() => {}));
}

/** Keys of all objects in a value. */
function keysIn(value: object): number {
  let count = 0;
  if (Array.isArray(value)) {
    for (const item of value) if (typeof item === "object" && item !== null) count += keysIn(item);
    return count;
  }
  const keys = Object.keys(value);
  for (const key of keys) {
    const inner = (value as Record<string, unknown>)[key];
    if (typeof inner === "object" && inner !== null) count += keysIn(inner);
  }
  return keys.length + count;
}

/** Colons right after a closing quote: the keys' colons, unless a blank comes between; then the counts differ. */
function colonsIn(text: string): number {
  let count = 0;
  for (let at = text.indexOf('":'); at >= 0; at = text.indexOf('":', at + 2)) if (text[at - 1] !== "\\") count++;
  return count;
}

/** Deeper than any real row, and shallow enough for every recursion. */
const MAX_DEPTH = 256;
/** Escapes, and characters that are not allowed in a text. */
const needsDecoding = /[\\\p{Cc}]/u;
const blanksAt = /[ \t\r\n]*/y;
const words: readonly [string, unknown][] = [
  ["true", true],
  ["false", false],
  ["null", null],
  ["NaN", Number.NaN],
  ["Infinity", Number.POSITIVE_INFINITY],
  ["-Infinity", Number.NEGATIVE_INFINITY],
];

/** Sets a field of any name, `__proto__` included. */
export function setField(into: Record<string, unknown>, key: string, value: unknown): void {
  if (key === "__proto__")
    Object.defineProperty(into, key, { writable: true, enumerable: true, configurable: true, value });
  else into[key] = value;
}

function parseExactly(text: string, onRepeated: (key: RepeatedKey) => void): unknown {
  let at = 0;
  const way: (string | number)[] = [];
  const skip = () => {
    const code = text.charCodeAt(at);
    if (code > 32) return;
    blanksAt.lastIndex = at;
    blanksAt.test(text);
    at = blanksAt.lastIndex;
  };
  const wrong = (): never => {
    throw new NotJson(at >= text.length ? "it ends too early" : `unexpected ${text[at]} at character ${at + 1}`);
  };
  const expect = (char: string) => {
    skip();
    if (text[at] !== char) wrong();
    at++;
  };

  const value = (): unknown => {
    skip();
    if (way.length > MAX_DEPTH) throw new NotJson(`nested deeper than ${MAX_DEPTH} levels`);
    const char = text[at];
    if (char === '"') return string();
    if (char === "{") return object();
    if (char === "[") return list();
    const found = number();
    if (found !== undefined) return found;
    const known = words.find(([word]) => text.startsWith(word, at));
    if (known === undefined) return wrong();
    at += known[0].length;
    return known[1];
  };

  /** The number that begins here, `-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?`; undefined if there is none. */
  const number = (): number | bigint | JsonNumber | undefined => {
    const start = text[at] === "-" ? at + 1 : at;
    let end = text[start] === "0" ? start + 1 : digitsEnd(text, start);
    if (end === start) return undefined;
    const whole = end;
    if (text[end] === ".") end = digitsEnd(text, end + 1, end);
    if (text[end] === "e" || text[end] === "E") {
      const sign = text[end + 1] === "+" || text[end + 1] === "-" ? 1 : 0;
      end = digitsEnd(text, end + 1 + sign, end);
    }
    const found = numberOf(text.slice(at, end), end > whole);
    at = end;
    return found;
  };

  const string = (): string => {
    const start = at;
    for (let end = text.indexOf('"', at + 1); end >= 0; end = text.indexOf('"', end + 1)) {
      let slashes = 0;
      while (text[end - 1 - slashes] === "\\") slashes++;
      if (slashes % 2 === 1) continue;
      at = end + 1;
      const inner = text.slice(start + 1, end);
      if (!needsDecoding.test(inner)) return inner;
      try {
        return JSON.parse(text.slice(start, at));
      } catch {
        at = start;
        return wrong();
      }
    }
    at = text.length;
    return wrong();
  };

  const list = (): unknown[] => {
    const items: unknown[] = [];
    at++;
    skip();
    if (text[at] === "]") {
      at++;
      return items;
    }
    while (true) {
      way.push(items.length);
      items.push(value());
      way.pop();
      skip();
      if (text[at] !== ",") break;
      at++;
    }
    expect("]");
    return items;
  };

  const object = (): Record<string, unknown> => {
    const fields: Record<string, unknown> = {};
    at++;
    skip();
    if (text[at] === "}") {
      at++;
      return fields;
    }
    while (true) {
      skip();
      if (text[at] !== '"') wrong();
      const key = string();
      expect(":");
      way.push(key);
      if (Object.hasOwn(fields, key)) onRepeated([...way]);
      setField(fields, key, value());
      way.pop();
      skip();
      if (text[at] !== ",") break;
      at++;
    }
    expect("}");
    return fields;
  };

  const whole = value();
  skip();
  if (at < text.length) wrong();
  return whole;
}

/** The end of the digits that begin at `at`; `none` if there are none. */
function digitsEnd(text: string, at: number, none = at): number {
  let end = at;
  for (let code = text.charCodeAt(end); code >= 48 && code <= 57; code = text.charCodeAt(end)) end++;
  return end === at ? none : end;
}

function numberOf(text: string, real: boolean): number | bigint | JsonNumber {
  const value = Number(text);
  if (!real) return Number.isSafeInteger(value) ? value : BigInt(text);
  const exact = new JsonNumber(text);
  return Number.isInteger(value) || !exact.fits ? exact : value;
}

/** Text that `parseJson` reads back as the same value. */
export function jsonText(value: unknown): string {
  if (value === null || value === undefined) return "null";
  if (typeof value === "bigint") return String(value);
  if (typeof value === "number") return Object.is(value, -0) ? "-0" : String(value);
  if (value instanceof JsonNumber) return value.text;
  if (Array.isArray(value)) return `[${value.map(jsonText).join(",")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const fields = Object.entries(value).map(([key, inner]) => `${JSON.stringify(key)}:${jsonText(inner)}`);
  return `{${fields.join(",")}}`;
}

/** Without the spelling: plain numbers, and text for those that no double is close to. */
export function plainJson(value: unknown): unknown {
  if (value instanceof JsonNumber) return value.fits ? Number(value.text) : value.text;
  if (Array.isArray(value)) return value.map(plainJson);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plainJson(inner)]));
}
