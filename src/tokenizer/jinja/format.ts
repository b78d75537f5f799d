/** Python's two ways to format values into a text: `"%s" % x` and `"{}".format(x)`, with the codes of both. */

import { TemplateFault } from "./fault.ts";
import { repeatText } from "./limits.ts";
import { exponentialText, exponentSign, fixedText, floatText } from "./numbers.ts";
import { codePoints, escapedCharacter, isPrintable, lengthOf } from "./text.ts";
import {
  Dict,
  isNumber,
  type Kwargs,
  numeric,
  repr,
  Tuple,
  textOf,
  typeName,
  Undefined,
  type Value,
} from "./values.ts";

interface Spec {
  readonly fill: string;
  readonly align: string;
  readonly sign: string;
  readonly alternate: boolean;
  readonly width: number;
  readonly grouping: string;
  readonly precision: number | null;
  readonly code: string;
}

const widest = 100_000;

/** @throws TemplateFault for a width that only fills memory */
export function fieldWidth(width: number): number {
  if (width > widest) throw new TemplateFault(`a field of more than ${widest} characters`);
  return width;
}

function pad(text: string, { fill, align, width }: Spec): string {
  const missing = fieldWidth(width) - lengthOf(text);
  if (missing <= 0) return text;
  if (align === "<") return text + repeatText(fill, missing);
  if (align === "^") return repeatText(fill, Math.floor(missing / 2)) + text + repeatText(fill, Math.ceil(missing / 2));
  if (align !== "=") return repeatText(fill, missing) + text;
  const sign = /^[-+ ]?(?:0[xob])?/i.exec(text)![0];
  return sign + repeatText(fill, missing) + text.slice(sign.length);
}

function grouped(digits: string, separator: string, size: number): string {
  if (separator === "") return digits;
  const [whole = "", rest] = digits.split(".");
  const parts: string[] = [];
  for (let end = whole.length; end > 0; end -= size) parts.unshift(whole.slice(Math.max(0, end - size), end));
  return parts.join(separator) + (rest === undefined ? "" : `.${rest}`);
}

/** Digits of a float without its sign. */
function floatDigits(value: number, { code, precision, alternate }: Spec): string {
  const size = Math.abs(value);
  if (!Number.isFinite(size)) return Number.isNaN(size) ? "nan" : "inf";
  const lower = code.toLowerCase();
  const places = Math.min(precision ?? 6, 100);
  if (lower === "f") return fixedText(size, places) + (alternate && places === 0 ? "." : "");
  if (lower === "%") return `${fixedText(size * 100, places)}%`;
  if (lower === "e") {
    const { mantissa, exponent } = exponentialText(size, places);
    return `${mantissa}e${exponentSign(exponent)}`;
  }
  if (code === "" && precision === null) return floatText(size);
  const significant = Math.max(1, places);
  const { mantissa, exponent } = exponentialText(size, significant - 1);
  const trim = (text: string) => (alternate || !text.includes(".") ? text : text.replace(/\.?0+$/, ""));
  if (exponent < -4 || exponent >= significant) return `${trim(mantissa)}e${exponentSign(exponent)}`;
  const text = trim(fixedText(size, Math.max(0, significant - 1 - exponent)));
  return code === "" && !text.includes(".") ? `${text}.0` : text;
}

function signed(isNegative: boolean, sign: string): string {
  return isNegative ? "-" : sign === "+" || sign === " " ? sign : "";
}

function formatNumber(value: bigint | number, spec: Spec): string {
  const { code, alternate } = spec;
  const isNegative = value < 0 || Object.is(value, -0);
  let body: string;
  if (typeof value === "number" || "eEfFgG%".includes(code || "d")) body = floatDigits(Number(value), spec);
  else {
    const bases: Readonly<Record<string, number>> = { b: 2, o: 8, x: 16, X: 16 };
    body = (isNegative ? -value : value).toString(bases[code] ?? 10);
    if (bases[code] !== undefined && alternate) body = `0${code}${body}`;
  }
  if (code === "X" || code === "E" || code === "G" || code === "F") body = body.toUpperCase();
  body = grouped(body, spec.grouping, "boxX".includes(code || "d") ? 4 : 3);
  return pad(signed(isNegative, spec.sign) + body, { ...spec, align: spec.align || ">" });
}

/** A value formatted by the specification after the colon in `{:…}`. */
function formatValue(value: Value, text: string): string {
  if (text === "") return textOf(value);
  const match = /^(?:(.)?([<>=^]))?([-+ ])?(#)?(0)?(\d+)?([,_])?(?:\.(\d+))?([a-zA-Z%])?$/su.exec(text);
  if (match === null)
    throw new TemplateFault(`Invalid format specifier '${text}' for object of type '${typeName(value)}'`);
  const [, fill, align, sign = "", alternate, zero, width = "0", grouping = "", precision, code = ""] = match;
  const spec: Spec = {
    fill: fill ?? (zero ? "0" : " "),
    align: align ?? (zero ? "=" : ""),
    sign,
    alternate: alternate !== undefined,
    width: Number(width),
    grouping,
    precision: precision === undefined ? null : Number(precision),
    code,
  };
  const unknown = () => new TemplateFault(`Unknown format code '${code}' for object of type '${typeName(value)}'`);
  if (typeof value === "bigint" || typeof value === "number" || (typeof value === "boolean" && code !== "")) {
    const isKnown = typeof value === "number" ? "eEfFgG%".includes(code) : "bcdoxXneEfFgG%".includes(code);
    if (!isKnown) throw unknown();
    if (code === "c") return pad(String.fromCodePoint(Number(value)), { ...spec, align: spec.align || "<" });
    return formatNumber(numeric(value), { ...spec, code: code === "n" ? "d" : code });
  }
  if (typeof value !== "string")
    throw new TemplateFault(`unsupported format string passed to ${typeName(value)}.__format__`);
  if (code !== "" && code !== "s") throw unknown();
  const cut = spec.precision === null ? value : codePoints(value).slice(0, spec.precision).join("");
  return pad(cut, { ...spec, align: align ?? "<" });
}

/** `text % values`. */
export function formatPercent(text: string, values: Value): string {
  const list = values instanceof Tuple ? values.items : [values];
  let used = 0;
  let isNamed = false;
  const take = (): Value => {
    const value = list[used++];
    if (value === undefined) throw new TemplateFault("not enough arguments for format string");
    return value;
  };
  const expression = /%(?:\(([^)]*)\))?([-+ #0]*)(\*|\d+)?(?:\.(\*|\d+))?[hlL]?([\s\S]?)/g;
  const result = text.replace(expression, (_, key, flags: string, width, precision, code: string) => {
    if (code === "%") return "%";
    if (code === "") throw new TemplateFault("incomplete format");
    const count = (given: string | undefined) =>
      given === "*" ? Number(take()) : given === undefined ? null : Number(given);
    let value: Value;
    if (key === undefined) {
      const [w, p] = [count(width), count(precision)];
      value = take();
      return percentField(value, flags, w, p, code);
    }
    if (!(values instanceof Dict)) throw new TemplateFault("format requires a mapping");
    isNamed = true;
    const found = values.get(key as string);
    if (found === undefined) throw new TemplateFault(`KeyError: '${key}'`);
    value = found;
    return percentField(value, flags, count(width), count(precision), code);
  });
  if (!isNamed && used < list.length && !(values instanceof Dict) && !Array.isArray(values))
    throw new TemplateFault("not all arguments converted during string formatting");
  return result;
}

function percentField(
  value: Value,
  flags: string,
  width: number | null,
  precision: number | null,
  code: string,
): string {
  const spec: Spec = {
    fill: flags.includes("0") && !flags.includes("-") && !"sra".includes(code) ? "0" : " ",
    align: flags.includes("-") ? "<" : flags.includes("0") && !"sra".includes(code) ? "=" : ">",
    sign: flags.includes("+") ? "+" : flags.includes(" ") ? " " : "",
    alternate: flags.includes("#"),
    width: width ?? 0,
    grouping: "",
    precision,
    code,
  };
  if ("sra".includes(code)) {
    const text = code === "s" ? textOf(value) : code === "r" ? repr(value) : ascii(repr(value));
    return pad(precision === null ? text : codePoints(text).slice(0, precision).join(""), spec);
  }
  if (code === "c") return pad(typeof value === "bigint" ? String.fromCodePoint(Number(value)) : textOf(value), spec);
  if (value instanceof Undefined) value.fail();
  if (!isNumber(value) || !"diuoxXeEfFgG".includes(code))
    throw new TemplateFault(`%${code} format: a real number is required, not ${typeName(value)}`);
  const number = numeric(value);
  if ("oxX".includes(code) && typeof number === "number")
    throw new TemplateFault(`%${code} format: an integer is required, not float`);
  if (!"diu".includes(code)) return formatNumber("oxX".includes(code) ? number : Number(number), spec);
  const whole = typeof number === "bigint" ? number : BigInt(Math.trunc(number));
  const digits = (whole < 0n ? -whole : whole).toString().padStart(precision ?? 0, "0");
  return pad(signed(whole < 0n, spec.sign) + digits, spec);
}

function ascii(text: string): string {
  return codePoints(text)
    .map((character) =>
      character.codePointAt(0)! < 0x80 || !isPrintable(character) ? character : escapedCharacter(character),
    )
    .join("");
}

/** `text.format(…)`. @param member looks up `.name` and `[key]` in a field */
export function formatBraces(
  text: string,
  args: readonly Value[],
  kwargs: Kwargs,
  member: (object: Value, name: string, isKey: boolean) => Value,
): string {
  let automatic = 0;
  let isManual = false;
  const field = (inner: string): string => {
    const [, path = "", conversion, spec = ""] = /^([^!:]*)(?:!([sra]))?(?::([\s\S]*))?$/.exec(inner) ?? [];
    const [, first = "", rest = ""] = /^([^.[]*)([\s\S]*)$/.exec(path)!;
    const index = first === "" ? automatic++ : /^\d+$/.test(first) ? Number(first) : null;
    isManual ||= first !== "" && index !== null;
    if (isManual && automatic > 0)
      throw new TemplateFault("cannot switch between manual and automatic field numbering");
    let value = index === null ? kwargs.get(first) : args[index];
    if (value === undefined)
      throw new TemplateFault(
        index === null ? `KeyError: '${first}'` : `Replacement index ${index} out of range for positional args tuple`,
      );
    for (const [, name, key] of rest.matchAll(/\.([^.[]+)|\[([^\]]+)\]/g))
      value = member(value, (name ?? key)!, name === undefined);
    const nested = spec.replace(/\{([^{}]*)\}/g, (_, name: string) => field(name));
    if (conversion === "s") return formatValue(textOf(value), nested);
    if (conversion !== undefined) return formatValue(conversion === "r" ? repr(value) : ascii(repr(value)), nested);
    return formatValue(value, nested);
  };
  return text.replace(/\{\{|\}\}|\{((?:[^{}]|\{[^{}]*\})*)\}|[{}]/g, (whole, inner: string | undefined) => {
    if (whole === "{{" || whole === "}}") return whole[0]!;
    if (inner === undefined) throw new TemplateFault(`Single '${whole}' encountered in format string`);
    return field(inner);
  });
}
