/** The safetensors reader and writer: round trips, files past 4 GiB, and headers that lie. */
import { afterAll, describe, expect, test } from "bun:test";
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { type MappedTensor, openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { parseSafetensorsHeader } from "../../src/checkpoint/safetensors-header.ts";
import { type TensorSource, writeSafetensors } from "../../src/checkpoint/safetensors-write.ts";
import { InputError } from "../../src/errors.ts";

const folder = mkdtempSync(join(tmpdir(), "safetensors-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function bytesOf(tensor: MappedTensor): number[] {
  return tensor.byteLength === 0 ? [] : [...new Uint8Array(bytesAt(tensor.address, tensor.byteLength))];
}

function fileOf(header: string, dataBytes: number): Uint8Array {
  const text = new TextEncoder().encode(header);
  const file = new Uint8Array(8 + text.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true);
  file.set(text, 8);
  return file;
}

function written(name: string, content: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

const source = (
  name: string,
  dtype: TensorSource["dtype"],
  shape: number[],
  ...chunks: Uint8Array[]
): TensorSource => ({
  name,
  dtype,
  shape,
  chunks: () => chunks,
});

describe("round trip", () => {
  const half = Uint8Array.of(1, 2, 3, 4, 5, 6);
  const single = new Uint8Array(Float32Array.of(1.5, -2).buffer);

  test("every tensor is restored, aligned, from any chunks", async () => {
    const path = join(folder, "round.safetensors");
    const memory = openSafetensors(
      written("memory.safetensors", fileOf('{"m":{"dtype":"U8","shape":[6],"data_offsets":[0,6]}}', 6)),
    );
    await writeSafetensors(path, [
      source("b", "BF16", [3], half.subarray(0, 1), half.subarray(1)),
      source("empty", "F32", [0, 7]),
      source("h", "F16", [1, 3], half),
      source("scalar", "F32", [], single.subarray(0, 4)),
      source("f", "F32", [2], single),
      { name: "mapped", dtype: "U8", shape: [6], chunks: () => [memory.tensors.get("m")!] },
      {
        name: "later",
        dtype: "U8",
        shape: [1],
        async *chunks() {
          await Bun.sleep(0);
          yield Uint8Array.of(9);
        },
      },
    ]);
    const file = openSafetensors(path);
    expect(file.metadata).toEqual({ format: "pt" });
    expect(file.tensors.size).toBe(7);
    const tensor = (name: string) => file.tensors.get(name)!;
    expect(tensor("b")).toMatchObject({ name: "b", dtype: "BF16", shape: [3], byteLength: 6 });
    expect(bytesOf(tensor("b"))).toEqual([...half]);
    expect(bytesOf(tensor("h"))).toEqual([...half]);
    expect(bytesOf(tensor("f"))).toEqual([...single]);
    expect(bytesOf(tensor("scalar"))).toEqual([...single.subarray(0, 4)]);
    expect(bytesOf(tensor("empty"))).toEqual([]);
    expect(bytesOf(tensor("mapped"))).toEqual([0, 0, 0, 0, 0, 0]);
    expect(bytesOf(tensor("later"))).toEqual([9]);
    for (const name of ["f", "scalar"]) expect(tensor(name).address % 4).toBe(0);
    for (const name of ["b", "h"]) expect(tensor(name).address % 2).toBe(0);
    file.close();
    memory.close();
    const headerBytes = Number(new DataView(readFileSync(path).buffer).getBigUint64(0, true));
    expect(headerBytes % 8).toBe(0);
  });

  test("a file can be replaced while it is mapped", async () => {
    const path = join(folder, "self.safetensors");
    await writeSafetensors(path, [source("a", "U8", [6], half)]);
    const file = openSafetensors(path);
    const a = file.tensors.get("a")!;
    await writeSafetensors(path, [{ name: "a", dtype: "U8", shape: [6], chunks: () => [a] }]);
    expect(bytesOf(a)).toEqual([...half]);
    file.close();
    const again = openSafetensors(path);
    expect(bytesOf(again.tensors.get("a")!)).toEqual([...half]);
    again.close();
  });

  test("chunks that do not add up to the shape leave the old file unchanged", async () => {
    const path = join(folder, "kept.safetensors");
    await writeSafetensors(path, [source("a", "U8", [6], half)]);
    const before = readFileSync(path);
    await expect(writeSafetensors(path, [source("a", "U8", [7], half)])).rejects.toThrow("gave 6 bytes");
    await expect(writeSafetensors(path, [source("a", "U8", [6], half), source("a", "U8", [6], half)])).rejects.toThrow(
      "given twice",
    );
    expect(readFileSync(path)).toEqual(before);
  });

  test("a tensor past 4 GiB is read in place", () => {
    const path = join(folder, "large.safetensors");
    const length = 5 * 2 ** 30;
    const header =
      `{"zeros":{"dtype":"U8","shape":[${length}],"data_offsets":[0,${length}]},` +
      `"end":{"dtype":"U8","shape":[2],"data_offsets":[${length},${length + 2}]}}`;
    const fd = openSync(path, "w");
    writeSync(fd, fileOf(header, 0));
    writeSync(fd, Uint8Array.of(7, 8), 0, 2, 8 + header.length + length);
    closeSync(fd);
    const file = openSafetensors(path);
    const end = file.tensors.get("end")!;
    expect([...new Uint8Array(bytesAt(end.address, 2))]).toEqual([7, 8]);
    expect([...new Uint8Array(bytesAt(file.tensors.get("zeros")!.address + length - 1, 1))]).toEqual([0]);
    file.close();
    const cut = openSync(path, "r+");
    ftruncateSync(cut, 8 + header.length + length + 1);
    closeSync(cut);
    expect(() => openSafetensors(path)).toThrow(/tensor "end": data_offsets end at byte 5368709122/);
    rmSync(path);
  });
});

describe("invalid headers", () => {
  const tensor = (offsets: unknown, dtype: unknown = "F32", shape: unknown = [2]) =>
    JSON.stringify({ dtype, shape, data_offsets: offsets });
  const one = (...of: Parameters<typeof tensor>) => `{"a":${tensor(...of)}}`;

  test.each([
    ["no JSON", '{"a":', 8, /header: not valid JSON/],
    ["an array", "[]", 0, /header: not a JSON object/],
    ["an entry that is not an object", '{"a":3}', 8, /tensor "a": its entry/],
    ["no offsets", '{"a":{"dtype":"F32","shape":[2]}}', 8, /"a": data_offsets undefined/],
    ["three offsets", one([0, 4, 8]), 8, /"a": data_offsets \[0,4,8\]/],
    ["fractional offsets", one([0, 8.5]), 8, /"a": data_offsets \[0,8.5\]/],
    ["negative offsets", one([-8, 0]), 8, /"a": data_offsets \[-8,0\]/],
    ["offsets as text", one(["0", "8"]), 8, /"a": data_offsets/],
    ["offsets past 2^53", '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,1e300]}}', 8, /"a": data_offsets/],
    ["reversed offsets", one([8, 0]), 8, /"a": data_offsets 8 to 0 run backwards/],
    ["offsets beyond the file", one([0, 8]), 7, /"a": data_offsets end at byte 8 .*cut short/],
    [
      "a length that is not the shape's",
      one([0, 4]),
      4,
      /"a": data_offsets hold 4 bytes, but F32 of shape \[2\] takes 8/,
    ],
    ["a shape whose product overflows", one([0, 8], "F32", [2 ** 52, 2 ** 52]), 8, /"a": data_offsets hold 8 bytes/],
    ["a negative length", one([0, 8], "F32", [-2]), 8, /"a": shape \[-2\]/],
    ["a shape that is a number", one([0, 8], "F32", 2), 8, /"a": shape 2/],
    ["an unknown dtype", one([0, 8], "Q4_0"), 8, /"a": dtype "Q4_0" is not supported/],
    ["a dtype named like a method", one([0, 8], "toString"), 8, /"a": dtype "toString"/],
    [
      "an overlap",
      `{"a":${tensor([0, 8])},"b":${tensor([4, 12])}}`,
      12,
      /tensor "b": data_offsets: overlaps tensor "a"/,
    ],
    ["the same bytes twice", `{"a":${tensor([0, 8])},"b":${tensor([0, 8])}}`, 8, /overlaps/],
    ["a hole", `{"a":${tensor([0, 8])},"b":${tensor([12, 20])}}`, 20, /tensor "b": data_offsets: 4 bytes before it/],
    ["a hole at the start", one([4, 12]), 12, /4 bytes before it/],
    ["bytes left over", one([0, 8]), 11, /3 bytes after the last tensor/],
    ["a name twice", `{"a":${tensor([0, 8])},"a":${tensor([0, 8])}}`, 8, /the key "a" occurs twice/],
    [
      "a name twice, once escaped",
      `{"a":${tensor([0, 8])},"\\u0061":${tensor([0, 8])}}`,
      8,
      /the key "a" occurs twice/,
    ],
    ["a field twice", '{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, /the key "dtype"/],
    ["metadata that is not text", `{"__metadata__":{"n":1},"a":${tensor([0, 8])}}`, 8, /__metadata__/],
  ])("%s", (_, header, dataBytes, message) => {
    const path = written("bad.safetensors", fileOf(header, dataBytes));
    expect(() => openSafetensors(path)).toThrow(InputError);
    expect(() => openSafetensors(path)).toThrow(message);
    expect(() => openSafetensors(path)).toThrow(/bad\.safetensors: /);
  });

  test("special names are treated as plain names", () => {
    const header = `{"__proto__":${tensor([0, 8])},"a\\"{,":${tensor([8, 16])},"":${tensor([16, 24])}}`;
    const { tensors } = parseSafetensorsHeader(header, 24, "p");
    expect(tensors.map(({ name }) => name)).toEqual(["__proto__", 'a"{,', ""]);
  });

  test.each([
    ["shorter than a length", Uint8Array.of(1, 2, 3), /only 3 bytes long/],
    ["empty", new Uint8Array(0), /only 0 bytes long/],
    ["a length beyond the file", fileOf('{"a":1}', 0).subarray(0, 10), /header of 7 bytes in a file of 10/],
    ["a length of 2^64 − 1", new Uint8Array(64).fill(255), /header of 18446744073709551615 bytes/],
    ["bytes that are not text", fileOf("xxxx", 0).fill(0xff, 8), /header: not UTF-8/],
    ["a Git LFS pointer", new TextEncoder().encode("version https://git-lfs.github.com/spec/v1\noid"), /git lfs pull/],
  ])("a file that is %s", (_, content, message) => {
    const path = written("bad.safetensors", content);
    expect(() => openSafetensors(path)).toThrow(InputError);
    expect(() => openSafetensors(path)).toThrow(message);
  });

  test("a missing file", () => {
    expect(() => openSafetensors(join(folder, "absent.safetensors"))).toThrow(InputError);
  });
});
