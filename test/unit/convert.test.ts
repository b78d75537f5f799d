/** Any format → Arrow: types, promotion, nulls, batches, refusals with their line, and no half-written file left. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { tableFromIPC } from "apache-arrow";
import { type ConvertOptions, convertToArrow } from "../../src/data/convert.ts";
import { openDataset } from "../../src/data/dataset.ts";
import { InputError } from "../../src/errors.ts";
import { compressedBytes, ipcBytes, rowOf, tableOf, temporaryFolder } from "../fixtures/data/arrow.ts";

const folder = temporaryFolder();
afterAll(() => folder.remove());

let files = 0;
const input = (content: string | Uint8Array, name = "in.jsonl") => folder.file(`${files++}-${name}`, content);

async function convert(path: string, options?: ConvertOptions) {
  const output = folder.file(`${files++}.arrow`);
  const result = await convertToArrow(path, output, options);
  const dataset = openDataset(output);
  try {
    const types = Object.fromEntries(dataset.columns.map(({ name, type }) => [name, type]));
    return { ...result, output, types, rows: Array.from({ length: dataset.numRows }, (_, i) => dataset.row(i)) };
  } finally {
    dataset.close();
  }
}

const lines = (...rows: unknown[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

async function refused(path: string, options?: ConvertOptions): Promise<string> {
  const output = folder.file("refused.arrow");
  const before = readdirSync(folder.path);
  const error = await convertToArrow(path, output, options).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(InputError);
  expect(readdirSync(folder.path)).toEqual(before); // neither the file nor a part of it
  return (error as InputError).message.replace(`${path}: `, "");
}

describe("JSON Lines", () => {
  test("every type, nulls, missing keys and nesting", async () => {
    const rows = [
      { s: "a é🦆\u0000", i: 1, f: 0.5, b: true, l: [1, 2], o: { role: "user", n: null }, m: [{ k: [true] }], z: null },
      { s: null, i: -(2 ** 53) + 1, f: 3, b: false, l: [], o: null, m: null, z: null },
      { late: "x", o: { role: "b", extra: 1 }, l: [null, 3] },
    ];
    const converted = await convert(input(lines(...rows)));
    expect(converted.types).toEqual({
      s: "string",
      i: "int64",
      f: "double",
      b: "bool",
      l: "list<int64>",
      o: "struct<role: string, n: null, extra: int64>",
      m: "list<struct<k: list<bool>>>",
      z: "null",
      late: "string",
    });
    expect(converted.rows).toEqual([
      { ...rows[0], o: { role: "user", n: null, extra: null }, late: null },
      { ...rows[1], late: null },
      {
        s: null,
        i: null,
        f: null,
        b: null,
        l: [null, 3],
        o: { role: "b", n: null, extra: 1 },
        m: null,
        z: null,
        late: "x",
      },
    ]);
  });

  test("integers widen to floats, also inside lists", async () => {
    const { types, rows } = await convert(input(lines({ n: 1, l: [1] }, { n: 2.5, l: [1.5] }, { n: 1e300, l: null })));
    expect(types).toEqual({ n: "double", l: "list<double>" });
    expect(rows.map(({ n }) => n)).toEqual([1, 2.5, 1e300]);
  });

  test("integers past 2^53, and integral floats, keep their value and their type", async () => {
    const text =
      '{"i": 9007199254740993, "u": 18446744073709551615, "r": 1.0, "n": NaN, "e": 1e3, "l": [-9223372036854775808]}\n{"i": -1, "u": 0, "r": 2, "n": -Infinity, "e": null, "l": [1]}\n';
    const { types, rows } = await convert(input(`\uFEFF${text}`));
    expect(types).toEqual({ i: "int64", u: "uint64", r: "double", n: "double", e: "double", l: "list<int64>" });
    expect(rows).toEqual([
      { i: 2n ** 53n + 1n, u: 2n ** 64n - 1n, r: 1, n: Number.NaN, e: 1000, l: [-(2n ** 63n)] },
      { i: -1, u: 0, r: 2, n: Number.NEGATIVE_INFINITY, e: null, l: [1] },
    ]);
    expect((await convert(input(`[${text.trim().replace("\n", ",")}]`, "in.json"))).rows).toEqual(rows);
  });

  test("values that no column type can hold are refused by line and column", async () => {
    const only = async (...rows: string[]) => (await refused(input(rows.join("\n")))).replace(/; (?:give|keep) .*/, "");
    expect(await only('{"a": 1}', '{"a": 18446744073709551616}')).toBe(
      'line 2: column "a" has 18446744073709551616, which does not fit in 64 bits',
    );
    expect(await only('{"a": -1}', '{"a": 18446744073709551615}')).toContain(
      "negative whole numbers and ones past 2^63",
    );
    expect(await only('{"a": 0.5}', '{"a": 9007199254740993}')).toBe(
      'line 2: column "a" has a whole number past 2^53 here but a real one before (line 1), and no single type holds both',
    );
    expect(await only('{"a": [1e400]}')).toBe('line 1: column "a" has 1e400, which no double is close to');
    expect(await only('{"a": "x\\ud83dy"}')).toContain("half of a surrogate pair");
    expect(await only('{"b": 1, "a": {"k": 1, "k": 2}}')).toBe('line 1 has the key "a.k" twice');
    expect(await only(`{"a": ${"[".repeat(80)}${"]".repeat(80)}}`)).toContain("nested deeper than 60");
    const rows = Array.from({ length: 20 }, (_, i) => `{"a": ${i % 2 === 0 ? '"x"' : i}}`);
    expect(await only(...rows)).toBe(
      'line 2: column "a" has int64 here but string before (line 1); likewise in line 4, line 6, line 8, line 10 and 5 more',
    );
  });

  test("gzip, zstd, blank lines, CRLF, no newline at the end", async () => {
    const text = '{"a": 1}\r\n\n  \n{"a": 2}\n{"a": 3}';
    for (const bytes of [Buffer.from(text), gzipSync(text), Bun.zstdCompressSync(text)]) {
      const { rows, format } = await convert(input(bytes));
      expect(format).toBe("JSON Lines");
      expect(rows).toEqual([{ a: 1 }, { a: 2 }, { a: 3 }]);
    }
  });

  test("lines longer than a chunk, and batches of a thousand rows", async () => {
    const rows = Array.from({ length: 2500 }, (_, i) => ({ id: i, text: i === 1200 ? "é".repeat(300_000) : `t${i}` }));
    const converted = await convert(input(lines(...rows)));
    expect(converted).toMatchObject({ batches: 3 });
    expect(converted.rows).toEqual(rows);
    expect(converted.byteLength).toBe(readFileSync(converted.output).length);
  });

  test("columns named like inherited properties of objects", async () => {
    const text = '{"constructor": "a", "__proto__": 1}\n{"toString": "b"}\n';
    const { rows } = await convert(input(text));
    expect(rows.map((row) => Object.entries(row))).toEqual([
      [
        ["constructor", "a"],
        ["__proto__", 1],
        ["toString", null],
      ],
      [
        ["constructor", null],
        ["__proto__", null],
        ["toString", "b"],
      ],
    ]);
  });

  test("apache-arrow's own reader agrees", async () => {
    const rows = [
      { q: "1?", a: [1, 2], m: { role: "x" } },
      { q: null, a: null, m: { role: null } },
    ];
    const { output } = await convert(input(lines(...rows)));
    const read = tableFromIPC(readFileSync(output)).toArray();
    expect(JSON.parse(JSON.stringify(read, (_, v) => (typeof v === "bigint" ? Number(v) : v)))).toEqual(rows);
  });

  test("errors are reported with their line", async () => {
    expect(await refused(input('{"a": 1}\n\n{"a": \n'))).toBe(
      'line 3 is not JSON ({"a":): it ends too early; expected one object per line',
    );
    expect(await refused(input('{"a": 1}\n[1]\n'))).toStartWith("line 2 is a list; expected an object");
    expect(await refused(input('{"a": 1}\nnull\n'))).toStartWith("line 2 is null");
    expect(await refused(input(lines({ a: "x" }, { a: null }, { a: 5 })))).toBe(
      'line 3: column "a" has int64 here but string before (line 1); give it one type, or leave it out with --columns',
    );
    expect(await refused(input(lines({ a: [1] }, { a: ["x"] })))).toContain("string here but int64 before");
    expect(await refused(input(lines({ o: { k: 1 } }, { o: { k: "s" } })))).toContain('"o" has "k": string here');
    expect(await refused(input(Buffer.from('{"a": "\xff"}\n', "latin1")))).toStartWith("line 1 is not UTF-8");
    expect(await refused(input("{}\n"))).toBe("it has no rows");
    const cut = gzipSync(lines(...Array.from({ length: 5000 }, (_, i) => ({ i, s: String(i * 7919) }))));
    expect(await refused(input(cut.subarray(0, cut.length >> 1)))).toStartWith("damaged gzip");
  });

  test("a column that does not fit can be excluded", async () => {
    const path = input(lines({ q: "a", bad: 1 }, { q: "b", bad: "x" }));
    expect(await refused(path)).toContain('column "bad"');
    expect((await convert(path, { columns: ["q"] })).rows).toEqual([{ q: "a" }, { q: "b" }]);
    expect(await refused(path, { columns: ["q", "nope"] })).toBe('no column "nope" (--columns); it has q, bad');
  });
});

describe("a JSON array", () => {
  test("of objects", async () => {
    const { rows, format } = await convert(input('\uFEFF [{"a": 1},\n {"b": "x"}]', "in.json"));
    expect(format).toBe("JSON");
    expect(rows).toEqual([
      { a: 1, b: null },
      { a: null, b: "x" },
    ]);
  });

  test("of anything else, or torn", async () => {
    expect(await refused(input('[{"a": 1}, 5]'))).toStartWith("element 1 is a number");
    expect(await refused(input('[{"a": 1}'))).toStartWith("not valid JSON");
  });
});

describe("Arrow", () => {
  test.each(["stream", "file"] as const)("%s: the same types and values", async (format) => {
    const { rows, types } = await convert(input(ipcBytes(tableOf(0, 40), format)));
    expect(rows).toEqual(Array.from({ length: 40 }, (_, i) => rowOf(i)));
    expect(types).toEqual({
      text: "string",
      large: "large_string",
      whole: "int64",
      real: "double",
      yes: "bool",
      list: "list<int32>",
      messages: "list<struct<role: string, content: string>>",
      color: "dictionary<string>",
    });
  });

  test("onto itself, compressed before", async () => {
    const path = input(compressedBytes(tableOf(0, 300), "zstd"), "in.arrow");
    await convertToArrow(path, path);
    const dataset = openDataset(path);
    expect(dataset.row(299)).toEqual(rowOf(299));
    dataset.close();
  });

  test("without rows", async () => {
    const { rows, types } = await convert(input(ipcBytes(tableOf(0, 0, ["text", "real"]))));
    expect(rows).toEqual([]);
    expect(types).toEqual({ text: "string", real: "double" });
  });

  test("damaged", async () => {
    const bytes = ipcBytes(tableOf(0, 40));
    expect(await refused(input(bytes.slice(0, bytes.length - 200)))).toContain("record batch 0");
  });
});

describe("Parquet", () => {
  const path = resolve(import.meta.dir, "../fixtures/data/problems.parquet");
  const columns = ["question", "answer", "level", "big", "score", "easy", "tags", "messages", "day", "counts"];

  test("every type, over several row groups", async () => {
    const { rows, types, format } = await convert(path, { columns });
    expect(format).toBe("Parquet");
    expect(types).toEqual({
      question: "string",
      answer: "string",
      level: "int32",
      big: "int64",
      score: "double",
      easy: "bool",
      tags: "list<string>",
      messages: "list<struct<role: string, content: string>>",
      day: "date32[day]",
      counts: "map<string, int64>",
    });
    const expected = Array.from({ length: 7 }, (_, i) => ({
      question: `What is ${i} + ${i}? é`,
      answer: i === 3 ? null : `Twice ${i}.\n#### ${2 * i}`,
      level: i === 0 ? null : i,
      big: 2n ** 62n + BigInt(i),
      score: i,
      easy: i % 2 === 0,
      tags: i === 4 ? null : Array(i % 3).fill("a"),
      messages: [{ role: "user", content: `hi ${i}` }],
      day: `2020-01-0${1 + i}T00:00:00.000Z`,
      counts: [{ key: "x", value: i }],
    }));
    expect(rows).toEqual(expected);
  });

  test("bytes stay bytes", async () => {
    const { types, rows } = await convert(path);
    expect(types.digest).toBe("fixed_size_binary[2]");
    expect(rows.map(({ digest }) => digest)).toEqual(Array.from({ length: 7 }, (_, i) => Uint8Array.of(i, 255)));
  });

  test("damaged", async () => {
    const bytes = readFileSync(path);
    expect(await refused(input(bytes.subarray(0, bytes.length - 9), "cut.parquet"))).toMatch(/footer.*Parquet/);
    const holed = Buffer.from(bytes);
    holed.fill(0, 4, 400);
    const renamed = Buffer.from(bytes);
    // The schema has "element" for two columns; the row groups follow it.
    for (let at = 0, found = 0; found < 3; found++, at++) {
      at = renamed.indexOf("element", at);
      if (found === 2) renamed[at] = 0x1b;
    }
    renamed.fill(0xff, 4, 400); // pages that other columns are reading by then
    const columns = ["question", "answer", "level", "tags"];
    expect(await refused(input(renamed, "renamed.parquet"), { columns })).toMatch(
      /row group 0 cannot be read as Parquet \(it has a column \w+\.list\.\ufffdlement that its schema lacks\)/,
    );
    expect(await refused(input(holed, "holed.parquet"), { columns: ["question", "answer"] })).toMatch(/row group 0/);
  });
});

test("a file that is not a dataset", async () => {
  expect(await refused(input("name,age\nx,1\n", "in.csv"))).toStartWith("neither JSON Lines");
  expect(await refused(input(""))).toContain("empty");
  expect(await refused(input("version https://git-lfs.github.com/spec/v1\noid x\n"))).toContain("git lfs pull");
  expect(await refused(folder.file("nowhere.jsonl"))).toContain("no such file");
});

test("an unwritable target", async () => {
  const path = input(lines({ a: 1 }));
  await expect(convertToArrow(path, folder.file("no/such/out.arrow"))).rejects.toThrow(/there is no folder .*no\/such/);
  const output = folder.file("kept.arrow", "precious");
  await expect(convertToArrow(input(lines({ a: 1 }, { a: [] })), output)).rejects.toThrow(InputError);
  expect(readFileSync(output, "utf8")).toBe("precious");
  writeFileSync(join(folder.path, "again.arrow"), "old");
  await convertToArrow(path, join(folder.path, "again.arrow"));
  expect(existsSync(join(folder.path, "again.arrow"))).toBe(true);
  expect(openDataset(join(folder.path, "again.arrow")).numRows).toBe(1);
});
