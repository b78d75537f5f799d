/**
 * Types and values through `data convert`, compared with files that pyarrow wrote (test/fixtures/data/make_types.py): the same
 * columns as Parquet and as Arrow, one of every type, at the ends of their ranges.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { type Field, tableFromIPC } from "apache-arrow";
import { findColumns } from "../../src/data/columns.ts";
import { convertToArrow } from "../../src/data/convert.ts";
import { openDataset } from "../../src/data/dataset.ts";
import { InputError } from "../../src/errors.ts";
import { temporaryFolder } from "../fixtures/data/arrow.ts";

const folder = temporaryFolder();
afterAll(() => folder.remove());
const fixture = (name: string) => resolve(import.meta.dir, "../fixtures/data", name);

/** Everything in a file: types, values, and additional metadata of fields and schema. */
function contents(path: string) {
  const dataset = openDataset(path);
  try {
    const { fields, metadata } = dataset.shards[0]!;
    const about = (field: Field): unknown => [
      field.name,
      field.nullable,
      [...field.metadata].filter(([key]) => key === "about"),
      ((field.type.children ?? []) as Field[]).map(about),
    ];
    return {
      types: Object.fromEntries(dataset.columns.map(({ name, type }) => [name, type])),
      rows: Array.from({ length: dataset.numRows }, (_, i) => dataset.row(i)),
      fields: fields.map(about),
      metadata: metadata.get("huggingface"),
    };
  } finally {
    dataset.close();
  }
}

async function converted(input: string, columns?: string[]) {
  const output = folder.file("out.arrow");
  await convertToArrow(fixture(input), output, columns && { columns });
  return output;
}

describe("every type", () => {
  const original = contents(fixture("types.arrow"));

  test("has the right name and values", () => {
    expect(original.types).toMatchObject({
      uint64: "uint64",
      half: "halffloat",
      single: "float",
      null: "null",
      binary: "binary",
      large_binary: "large_binary",
      fixed: "fixed_size_binary[2]",
      date: "date32[day]",
      time_ms: "time32[ms]",
      time_ns: "time64[ns]",
      stamp_ms: "timestamp[ms]",
      stamp_ns: "timestamp[ns, tz=Europe/Berlin]",
      duration: "duration[ns]",
      decimal: "decimal128(30, 2)",
      decimal_large: "decimal256(70, 0)",
      pair: "fixed_size_list<float>[2]",
      map_of_bytes: "map<int32, binary>",
    });
    expect(original.rows[0]).toMatchObject({
      int64: -(2n ** 63n),
      binary: Uint8Array.of(0x89, 0x50, 0xff, 0xfe, 0),
      stamp_us: "1969-12-31T23:59:59.999999Z",
      date: "0001-01-01T00:00:00.000Z",
      duration: 2n ** 62n,
      decimal: "-12345678901234567890.12",
      decimal_large: `-${"2".repeat(60)}`,
      pair: [1, 2],
      map: [
        { key: "10", value: 1 },
        { key: "2", value: null },
        { key: "10", value: 3 },
      ],
    });
    expect(original.rows[1]).toMatchObject({
      int64: 2n ** 53n + 1n,
      uint64: 2n ** 64n - 1n,
      half: 65504,
      single: -0,
      double: Number.NEGATIVE_INFINITY,
      stamp_ns: "2023-11-14T22:13:20.123456789Z",
    });
    expect(new Set(Object.values(original.rows[2]!))).toEqual(new Set([null, 3]));
  });

  test.each(["types.arrow", "types.parquet"])("%s keeps types, values and schema metadata", async (name) => {
    const output = await converted(name);
    expect(contents(output)).toEqual(original);
    // Another reader sees the same columns; apache-arrow prints what it reads.
    const [theirs, ours] = [fixture("types.arrow"), output].map((path) => tableFromIPC(readFileSync(path)).toString());
    expect(ours).toBe(theirs!);
  });

  test("some columns of it", async () => {
    const { types, rows } = contents(await converted("types.parquet", ["map", "binary", "null"]));
    expect(Object.keys(types)).toEqual(["map", "binary", "null"]);
    const { map, binary, null: nothing } = original.rows[0]!;
    expect(rows[0]).toEqual({ map, binary, null: nothing });
  });
});

describe("types that apache-arrow does not read", () => {
  test("are harmless while nothing uses them", () => {
    const dataset = openDataset(fixture("unread.arrow"));
    const { types } = contents(fixture("unread.arrow"));
    expect(types).toMatchObject({
      runs: "run_end_encoded",
      views: "a type with list_view in it",
      union: "dense_union<n: int64=0, s: string=1>",
      span: "month_day_nano_interval",
      small: "decimal64(15, 1)",
    });
    expect(Array.from({ length: 2 }, (_, i) => dataset.row(i))).toEqual([
      {
        question: "1 + 1?",
        answer: "2",
        text_view: "short",
        bytes_view: Uint8Array.of(0xff),
        union: 1,
        span: { months: 1, days: 2, nanoseconds: 3 },
        word: "x",
        small: "1.5",
      },
      {
        question: "2 + 2?",
        answer: "4",
        text_view: "longer than twelve bytes",
        bytes_view: new Uint8Array(Buffer.from("longer than twelve bytes")),
        union: "x",
        span: { months: 4, days: 5, nanoseconds: -6 },
        word: "y",
        small: "-2.5",
      },
    ]);
    expect(findColumns(dataset).prompt.name).toBe("question");
    expect(() => findColumns(dataset, { answerColumn: "runs" })).toThrow(/column "runs" is run_end_encoded.*cast/);
    dataset.close();
  });

  test("are refused by name when written; the others are kept", async () => {
    const refused = converted("unread.arrow");
    await expect(refused).rejects.toBeInstanceOf(InputError);
    await expect(refused).rejects.toThrow(/column "runs" is run_end_encoded.*--columns/);
    const columns = ["question", "text_view", "bytes_view", "union", "span", "word", "small"];
    const { types, rows } = contents(await converted("unread.arrow", columns));
    const original = contents(fixture("unread.arrow"));
    expect(Object.keys(types)).toEqual(columns);
    for (const [i, row] of rows.entries()) expect(original.rows[i]).toMatchObject(row);
  });
});
