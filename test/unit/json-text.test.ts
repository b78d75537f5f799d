/** JSON read without silent changes, and written so that it reads back the same. */
import { describe, expect, test } from "bun:test";
import {
  hasChangedNumber,
  JsonNumber,
  jsonText,
  NotJson,
  parseJson,
  plainJson,
  type RepeatedKey,
} from "../../src/data/json-text.ts";

describe("numbers", () => {
  test.each([
    ["9007199254740991", 2 ** 53 - 1],
    ["9007199254740993", 9007199254740993n],
    ["-9223372036854775808", -(2n ** 63n)],
    ["18446744073709551615", 2n ** 64n - 1n],
    ["1000000000000000000000", 10n ** 21n],
    ["1", 1],
    ["-0", -0],
    ["0.1", 0.1],
    ["NaN", Number.NaN],
    ["-Infinity", Number.NEGATIVE_INFINITY],
  ] as const)("%s", (text, value) => {
    expect(parseJson(`{"a":${text}}`)).toEqual({ a: value as never });
    expect(parseJson(`[ ${text}\n]`)).toEqual([value]);
    expect(jsonText(parseJson(text))).toBe(jsonText(value));
  });

  test.each([
    ["1.0", true],
    ["1e3", true],
    ["-2.50E+1", true],
    ["0e400", true],
    ["12345678901234567.5", true],
    ["1e400", false],
    ["1e-400", false],
  ])("%s keeps how it is written", (text, fits) => {
    const { a } = parseJson(`{"a": ${text}, "b": [${text}]}`) as { a: JsonNumber };
    expect(a).toBeInstanceOf(JsonNumber);
    expect([a.text, a.fits]).toEqual([text, fits]);
    expect(plainJson({ a })).toEqual({ a: fits ? Number(text) : text });
  });
});

test.each([
  ['{"a": 12.0, "b": [-3.00], "c": 0.0}', false],
  ['{"a": 123456789012345, "b": 1.23456789012345678, "c": "1e3 apples and 1.0"}', true], // a quoted string may match
  ['{"a": 1e3}', true],
  ['{"a": 1.5E-400}', true],
  ['{"a": 1234567890123456}', true],
  ['{"a": 12345678901234567.0}', true],
])("%s: JSON.parse may change a value, %p", (text, changed) => {
  expect(hasChangedNumber(text)).toBe(changed);
  if (!changed) expect(plainJson(parseJson(text))).toEqual(JSON.parse(text));
});

test("the exact parser and JSON.parse agree wherever both read", () => {
  const parts = [
    '"a\\"b: "',
    '"é🦆\\u00e9\\ud800"',
    '"1.0 , 1e3, 99999999999999999"',
    "[]",
    "{}",
    "[1,[2,{}]]",
    "true",
    "null",
  ];
  for (const part of parts) {
    for (const blank of ["", " ", "\r\n\t"]) {
      const text = `${blank}{${blank}"k"${blank}:${blank}${part}${blank},"n":-1.5e-7}${blank}`;
      expect(parseJson(text, { unusual: true })).toEqual(JSON.parse(text));
      expect(parseJson(jsonText(JSON.parse(text)))).toEqual(JSON.parse(text));
    }
  }
  const own = parseJson('{"__proto__": 1.0, "constructor": 2}', { unusual: true }) as object;
  expect(Object.keys(own)).toEqual(["__proto__", "constructor"]);
});

test("invalid JSON is refused both ways", () => {
  const torn = [
    "",
    "{",
    '{"a"',
    '{"a":',
    '{"a":1,}',
    "[1,]",
    '"a',
    '"a\nb"',
    "01",
    "1.",
    ".5",
    "+1",
    "nan",
    "tru",
    "[1] 2",
    "{a:1}",
    '"\\x"',
  ];
  for (const text of torn)
    for (const unusual of [true, false]) expect(() => parseJson(text, { unusual })).toThrow(NotJson);
  expect(() => parseJson("[".repeat(100_000), { unusual: true })).toThrow("nested deeper");
});

test("duplicate keys are reported with their path", () => {
  const repeated = (text: string) => {
    const found: RepeatedKey[] = [];
    parseJson(text, { onRepeated: (key) => found.push(key) });
    return found;
  };
  expect(repeated('{"a": 1, "b": {"c": 1}, "c": ["b", {"a": 2}]}')).toEqual([]);
  expect(repeated('{"a": 1, "a": 2}')).toEqual([["a"]]);
  expect(repeated('{"a" : {"b": [0, {"c":1, "c" :1}]}}')).toEqual([["a", "b", 1, "c"]]);
  expect(repeated('{"a": "he said \\"x\\": y", "b": 1}')).toEqual([]);
  expect(repeated('{"a\\\\": 1, "a\\\\": 2}')).toEqual([["a\\"]]);
});
