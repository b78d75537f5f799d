/** Parquet, a row group at a time. Dates and timestamps become ISO text, decimals float64, JSON stays text. */
import {
  type AsyncBuffer,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
  type SchemaTree,
} from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { errorText, InputError } from "../../errors.ts";
import { type ColumnType, TypeConflict } from "../arrow/types.ts";
import { exactNumber } from "../arrow/values.ts";
import { schemaColumn } from "./infer.ts";
import type { RowBatch, RowSource } from "./source.ts";

export async function parquetSource(path: string): Promise<RowSource> {
  const handle = Bun.file(path);
  const file: AsyncBuffer = {
    byteLength: handle.size,
    slice: (start, end) => handle.slice(start, end).arrayBuffer(),
  };
  const metadata = await reading(path, "its footer", () => parquetMetadataAsync(file));
  const trees = parquetSchema(metadata).children;
  return {
    format: "Parquet",
    columns: async () => new Map(trees.map((tree) => schemaColumn(path, tree.element.name, () => typeOf(tree)))),
    batches: (names) =>
      rowGroups(
        path,
        file,
        metadata,
        trees.filter((tree) => names.includes(tree.element.name)),
      ),
  };
}

async function* rowGroups(
  path: string,
  file: AsyncBuffer,
  metadata: FileMetaData,
  trees: readonly SchemaTree[],
): AsyncGenerator<RowBatch> {
  const columns = trees.map(({ element }) => element.name);
  let start = 0;
  for (const [group, { num_rows }] of metadata.row_groups.entries()) {
    const [rowStart, rowEnd] = [start, start + Number(num_rows)];
    const read = () => parquetReadObjects({ file, metadata, columns, rowStart, rowEnd, compressors, parsers });
    const found = await reading(path, `row group ${group}`, read);
    if (found.length !== rowEnd - rowStart)
      throw new InputError(`${path}: row group ${group} has ${found.length} rows of ${num_rows}; copy the file again`);
    const rows = found.map((row) =>
      Object.fromEntries(trees.map((tree) => [tree.element.name, plain(row[tree.element.name], tree)])),
    );
    yield { rows, place: (i) => `row ${rowStart + i}` };
    start = rowEnd;
  }
}

const iso = (milliseconds: number) =>
  Math.abs(milliseconds) <= 8.64e15 ? new Date(milliseconds).toISOString() : String(milliseconds);
const text = new TextDecoder("utf-8", { ignoreBOM: true });
const textOf = (bytes?: Uint8Array) => bytes && text.decode(bytes);

const parsers = {
  timestampFromMilliseconds: (value: bigint) => iso(Number(value)),
  timestampFromMicroseconds: (value: bigint) => iso(Number(value / 1000n)),
  timestampFromNanoseconds: (value: bigint) => iso(Number(value / 1_000_000n)),
  dateFromDays: (days: number) => iso(days * 86_400_000),
  stringFromBytes: textOf,
  jsonFromBytes: textOf,
};

/** How hyparquet gives a column's values, as one of our types. */
function typeOf({ element, children }: SchemaTree): ColumnType {
  const own = ownType(element, children);
  const repeated = element.repetition_type === "REPEATED";
  return repeated ? { kind: "list", item: own } : own;
}

function ownType(element: SchemaTree["element"], children: readonly SchemaTree[]): ColumnType {
  const { type, converted_type: converted, logical_type: logical } = element;
  if (converted === "LIST" && children.length === 1) {
    const [inner] = children;
    const item = inner!.children.length === 1 ? typeOf(inner!.children[0]!) : ownType(inner!.element, inner!.children);
    return { kind: "list", item };
  }
  if (converted === "MAP" || converted === "MAP_KEY_VALUE") {
    const [key, value] = children[0]?.children ?? [];
    if (key === undefined || value === undefined) throw new TypeConflict("a map without keys or values");
    const fields = new Map<string, ColumnType>([
      ["key", { kind: "string" }],
      ["value", typeOf(value)],
    ]);
    return { kind: "list", item: { kind: "struct", fields } };
  }
  if (children.length > 0)
    return { kind: "struct", fields: new Map(children.map((tree) => [tree.element.name, typeOf(tree)])) };
  if (converted === "DECIMAL" || logical?.type === "DECIMAL" || logical?.type === "FLOAT16") return { kind: "float64" };
  if (converted === "DATE" || logical?.type === "DATE") return { kind: "string" };
  if (converted?.startsWith("TIMESTAMP") || logical?.type === "TIMESTAMP") return { kind: "string" };
  switch (type) {
    case "BOOLEAN":
      return { kind: "bool" };
    case "INT32":
    case "INT64":
      return { kind: "int64" };
    case "FLOAT":
    case "DOUBLE":
      return { kind: "float64" };
    case "INT96":
    case "BYTE_ARRAY":
      return { kind: "string" };
  }
  if (logical?.type === "UUID") return { kind: "string" };
  throw new TypeConflict(`${type ?? "an empty group"}, which is not written`);
}

/** Nulls instead of undefined, lists instead of typed arrays, a map as its entries, exact whole numbers. */
function plain(value: unknown, tree: SchemaTree): unknown {
  if (value === null || value === undefined) return null;
  if (typeof value === "bigint") return exactNumber(value);
  const { element, children } = tree;
  if (element.converted_type === "MAP" || element.converted_type === "MAP_KEY_VALUE") {
    const inner = children[0]!.children[1]!;
    return Object.entries(value).map(([key, entry]) => ({ key, value: plain(entry, inner) }));
  }
  if (Array.isArray(value) || ArrayBuffer.isView(value)) {
    const inner = element.converted_type === "LIST" ? (children[0]?.children[0] ?? children[0] ?? tree) : tree;
    return Array.from(value as Iterable<unknown>, (item) => plain(item, inner));
  }
  if (typeof value !== "object") return value;
  return Object.fromEntries(
    children.map((child) => [child.element.name, plain((value as Record<string, unknown>)[child.element.name], child)]),
  );
}

async function reading<T>(path: string, what: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    throw new InputError(
      `${path}: ${what} cannot be read as Parquet (${errorText(error)}); copy the file again, or write it with snappy or zstd`,
    );
  }
}
