/** Reading Arrow over mmap: every common type in both formats, many batches, dictionaries, zstd, and damaged files. */
import { afterAll, describe, expect, test } from "bun:test";
import { Dictionary, Int32, RecordBatch, RecordBatchStreamWriter, Table, Utf8, vectorFromArray } from "apache-arrow";
import { Footer } from "apache-arrow/ipc/metadata/file";
import { checkBatchColumn } from "../../src/data/arrow/check.ts";
import { openTable } from "../../src/data/arrow/table.ts";
import { InputError } from "../../src/errors.ts";
import {
  batchedTable,
  compressedBytes,
  ipcBytes,
  patched,
  rowOf,
  tableOf,
  temporaryFolder,
} from "../fixtures/data/arrow.ts";

const folder = temporaryFolder();
afterAll(() => folder.remove());

let files = 0;
const saved = (bytes: Uint8Array) => folder.file(`${files++}.arrow`, bytes);

function allRows(path: string): Record<string, unknown>[] {
  const table = openTable(path);
  try {
    return Array.from({ length: table.numRows }, (_, i) => table.row(i));
  } finally {
    table.close();
  }
}

/** The error from opening and reading everything. */
function failure(path: string): string {
  try {
    allRows(path);
  } catch (error) {
    expect(error).toBeInstanceOf(InputError);
    const { message } = error as InputError;
    expect(message).toStartWith(`${path}: `);
    expect(message).not.toContain("\n");
    return message.slice(path.length + 2);
  }
  throw new Error(`${path} was read without an error`);
}

const expected = (count: number) => Array.from({ length: count }, (_, i) => rowOf(i));

describe("sound files", () => {
  for (const format of ["stream", "file"] as const) {
    test(`${format}: every type`, () => {
      const table = openTable(saved(ipcBytes(tableOf(0, 50), format)));
      expect(table).toMatchObject({ format, numRows: 50, numBatches: 1 });
      expect(table.columns.map(({ name, type }) => `${name}: ${type}`)).toEqual([
        "text: string",
        "large: large_string",
        "whole: int64",
        "real: double",
        "yes: bool",
        "list: list<int32>",
        "messages: list<struct<role: string, content: string>>",
        "color: dictionary<string>",
      ]);
      expect(Array.from({ length: 50 }, (_, i) => table.row(i))).toEqual(expected(50));
      table.close();
    });

    test(`${format}: many batches, some empty, rows in any order`, () => {
      const sizes = [3, 0, 1, 7, 0, ...Array.from({ length: 40 }, () => 2), 0];
      const names = ["text", "whole", "messages"];
      const table = openTable(saved(ipcBytes(batchedTable(sizes, names), format)));
      expect(table.numRows).toBe(91);
      for (let k = 0; k < 91; k++) {
        const row = (k * 37) % 91;
        const { text, whole, messages } = rowOf(row);
        expect(table.row(row)).toEqual({ text, whole, messages });
      }
      table.close();
    });
  }

  test("integers are read as numbers while they are exact", () => {
    const values = [2n ** 53n - 1n, 2n ** 53n + 1n, -(2n ** 63n)];
    const rows = allRows(saved(ipcBytes(new Table({ n: vectorFromArray(values) }))));
    expect(rows.map(({ n }) => n)).toEqual([2 ** 53 - 1, 2n ** 53n + 1n, -(2n ** 63n)]);
  });

  test("zstd", () => {
    const bytes = compressedBytes(tableOf(0, 200), "zstd");
    expect(bytes.length).toBeLessThan(ipcBytes(tableOf(0, 200)).length);
    expect(allRows(saved(bytes))).toEqual(expected(200));
  });

  test("a stream may replace its dictionaries", () => {
    const type = new Dictionary(new Utf8(), new Int32(), 7);
    const batches = [
      ["a", "b", "a"],
      ["c", "d", "d"],
    ].map((words) => new Table({ c: vectorFromArray(words, type) }).batches[0]!);
    const writer = new RecordBatchStreamWriter();
    for (const { data } of batches) writer.write(new RecordBatch(batches[0]!.schema, data));
    const bytes = writer.finish().toUint8Array(true);
    expect(allRows(saved(bytes)).map(({ c }) => c)).toEqual(["a", "b", "a", "c", "d", "d"]);
  });

  test("no rows", () => {
    const table = openTable(saved(ipcBytes(tableOf(0, 0))));
    expect(table.numRows).toBe(0);
    expect(table.columns).toHaveLength(8);
    expect(() => table.row(0)).toThrow(RangeError);
  });

  test("rows stay valid after close, after which none can be read", () => {
    const table = openTable(saved(ipcBytes(tableOf(0, 9))));
    const row = table.row(4);
    table.close();
    Bun.gc(true);
    expect(row).toEqual(rowOf(4));
    expect(() => table.row(4)).toThrow("after close");
  });

  test("an invalid row number is refused", () => {
    const table = openTable(saved(ipcBytes(tableOf(0, 9))));
    for (const row of [-1, 9, 1.5, Number.NaN]) expect(() => table.row(row)).toThrow(RangeError);
    table.close();
  });
});

describe("damaged files", () => {
  const stream = ipcBytes(batchedTable([40, 40], ["text", "messages"]));
  const file = ipcBytes(batchedTable([40, 40], ["text", "messages"]), "file");

  test("a stream cut anywhere except between two batches is torn", () => {
    const end = stream.length - 8; // before the end-of-stream mark
    for (let cut = 8; cut < end; cut += 41) {
      const path = saved(stream.slice(0, cut));
      try {
        expect(allRows(path).length % 40).toBe(0);
      } catch (error) {
        expect(error).toBeInstanceOf(InputError);
        expect((error as InputError).message).toMatch(/cut off|not an Arrow file/);
      }
    }
    expect(failure(saved(stream.slice(0, end - 4)))).toMatch(
      /^record batch 1 \(byte \d+\) is torn: a body of \d+ bytes/,
    );
  });

  test("a file without its end", () => {
    for (const cut of [file.length - 1, file.length - 12, file.length >> 1, 20])
      expect(failure(saved(file.slice(0, cut)))).toMatch(/footer|cut off/);
  });

  test("a footer that points elsewhere", () => {
    const bytes = Buffer.from(file);
    const footerAt = bytes.length - 10 - bytes.readInt32LE(bytes.length - 10);
    const { offset } = Footer.decode(bytes.subarray(footerAt, -10)).getRecordBatch(1)!;
    const block = Buffer.alloc(8);
    block.writeBigInt64LE(BigInt(offset));
    const at = bytes.indexOf(block, footerAt);
    for (const lie of [offset + 8, offset - 8, 0, footerAt, bytes.length, 2 ** 40]) {
      bytes.writeBigInt64LE(BigInt(lie), at);
      expect(failure(saved(bytes))).toMatch(/^record batch 1 \(byte|the metadata of record batch 1|neither rows/);
    }
    bytes.writeBigInt64LE(-8n, at);
    expect(failure(saved(bytes))).toContain("the metadata of the footer");
  });

  test("text offsets that decrease or are beyond the text", () => {
    const table = new Table({ c: vectorFromArray(["aaaa", "bbbb", "cccc"], new Utf8()) });
    const offsets = (...values: number[]) => new Uint8Array(Int32Array.from(values).buffer);
    const bytes = ipcBytes(table);
    const good = offsets(0, 4, 8, 12);
    expect(failure(saved(patched(bytes, good, offsets(0, 8, 4, 12))))).toMatch(
      /^record batch 0 \(byte \d+\), column "c": offset 4 of value 2 lies before 8; the file is damaged/,
    );
    expect(failure(saved(patched(bytes, good, offsets(0, 4, 8, 1 << 30))))).toContain("beyond its data");
    expect(failure(saved(patched(bytes, good, offsets(-4, 4, 8, 12))))).toContain("offset -4");
  });

  test("a dictionary index beyond the dictionary", () => {
    const type = new Dictionary(new Utf8(), new Int32(), 1);
    const bytes = ipcBytes(new Table({ c: vectorFromArray(["a", "b", "b", "a"], type) }));
    const indices = (...values: number[]) => new Uint8Array(Int32Array.from(values).buffer);
    const path = saved(patched(bytes, indices(0, 1, 1, 0), indices(0, 1, 2, 0)));
    expect(failure(path)).toContain("entry 2 of a dictionary of 2");
  });

  test("false counts in the metadata cause no long loop or large allocation", () => {
    const started = performance.now();
    for (const source of [stream, file]) {
      for (let at = 8; at < 900; at += 4) {
        for (const value of [0xffffffff, 0x7fffffff, 0x00ffffff]) {
          const bytes = Buffer.from(source);
          bytes.writeUInt32LE(value, at);
          try {
            allRows(saved(bytes));
          } catch (error) {
            if (!(error instanceof InputError)) throw error;
          }
        }
      }
    }
    expect(performance.now() - started).toBeLessThan(20_000);
  });

  test("compressed data that cannot be decompressed", () => {
    const bytes = Buffer.from(compressedBytes(tableOf(0, 200, ["text"]), "zstd"));
    const frame = bytes.lastIndexOf(Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd));
    bytes.fill(0xee, frame + 4, frame + 40);
    expect(failure(saved(bytes))).toContain('column "text"');
    const lying = Buffer.from(compressedBytes(tableOf(0, 200, ["text"]), "zstd"));
    lying.writeBigInt64LE(lying.readBigInt64LE(frame - 8) + 1n, frame - 8);
    expect(failure(saved(lying))).toContain("unpacks to");
  });
});

describe("other files", () => {
  test("LZ4 is refused with the cure", () => {
    expect(failure(saved(compressedBytes(tableOf(0, 200, ["text"]), "lz4")))).toMatch(/LZ4.*zstd/);
  });

  test.each([
    ["Parquet", "PAR1 and more", /Parquet.*grpo data convert/],
    ["gzip", "\x1f\x8b\x08", /gzip/],
    ["JSON", '\n{"question": "?"}', /JSON.*grpo data convert/],
    ["a pointer of Git LFS", "version https://git-lfs.github.com/spec/v1\n", /git lfs pull/],
    ["nothing", "", /empty/],
    ["text", "just some words in a file", /not an Arrow file/],
    ["zeros", "\0".repeat(64), /not an Arrow file/],
    ["noise", "\x93\x17\x08\x00\xfe\x01".repeat(99), /not an Arrow file/],
  ])("%s", (_, content, message) => {
    expect(failure(saved(Buffer.from(content, "latin1")))).toMatch(message);
  });

  test("two columns with the same name", () => {
    const bytes = ipcBytes(tableOf(0, 3, ["text", "large"]));
    const renamed = Buffer.from(bytes);
    const at = renamed.indexOf("large");
    renamed.write("text\0", at);
    renamed.writeUInt32LE(4, at - 4);
    expect(failure(saved(renamed))).toContain('two columns are called "text"');
  });
});

test("a column without a name has an empty one, and a file without columns is refused", () => {
  expect(failure(saved(ipcBytes(new Table())))).toContain("it has no columns");
  const bytes = Buffer.from(ipcBytes(tableOf(0, 3, ["text"])));
  // Set the name's offset in the field's vtable to 0: absent.
  const field = bytes.indexOf("text") - 4;
  for (let at = 8; at < field; at += 4) {
    const copy = Buffer.from(bytes);
    const vtable = at - copy.readInt32LE(at);
    if (vtable < 8 || vtable > field) continue;
    const entry = copy.readUInt16LE(vtable + 4);
    if (at + entry > field || at + entry + copy.readUInt32LE(at + entry) !== field) continue;
    copy.writeUInt16LE(0, vtable + 4);
    const table = openTable(folder.file("nameless.arrow", copy));
    expect(table.columns.map(({ name, type }) => [name, type])).toEqual([["", "string"]]);
    expect(table.row(1)).toEqual({ "": "text 1 é🦆" });
    table.close();
    return;
  }
  throw new Error("the field's name was not found in the file");
});

test("a column with more values than its batch has rows is damaged", () => {
  const data = vectorFromArray([1, 2, 3], new Int32()).data[0]!;
  checkBatchColumn(data, 3);
  expect(() => checkBatchColumn(data, 2)).toThrow("3 values in a batch of 2 rows");
  expect(() => checkBatchColumn(data, 4)).toThrow("3 values where 4 are needed");
});
