/** Parquet, one row group at a time. parquet-types.ts converts its types. */
import type { Field } from "apache-arrow";
import {
  type AsyncBuffer,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
  type SchemaTree,
} from "hyparquet";
import { compressors as codecs } from "hyparquet-compressors";
import { errorText, InputError } from "../../errors.ts";
import { TypeConflict } from "../arrow/types.ts";
import { fieldOf, originalSchema, plainValue, stored } from "./parquet-types.ts";
import type { RowBatch, RowSource } from "./rows.ts";

/** A page of only nulls unpacks to nothing, which the LZ4 decoders cannot handle. */
const compressors: typeof codecs = Object.fromEntries(
  Object.entries(codecs).map(([name, unpack]) => [
    name,
    (input: Uint8Array, length: number) => (length === 0 ? new Uint8Array(0) : unpack!(input, length)),
  ]),
);

export async function parquetSource(path: string): Promise<RowSource> {
  const handle = Bun.file(path);
  const file: AsyncBuffer = {
    byteLength: handle.size,
    slice: (start, end) => handle.slice(start, end).arrayBuffer(),
  };
  const metadata = await reading(path, "its footer", () => parquetMetadataAsync(file));
  const trees = parquetSchema(metadata).children;
  const original = originalSchema(metadata);
  const origins = new Map(original?.fields.map((field) => [field.name, field]));
  const column = (tree: SchemaTree) => ({ field: () => fieldIn(path, tree, origins.get(tree.element.name)) });
  return {
    format: "Parquet",
    columns: async () => new Map(trees.map((tree) => [tree.element.name, column(tree)])),
    ...(original && { metadata: original.metadata }),
    batches: (names) =>
      rowGroups(
        path,
        file,
        stored(metadata),
        trees.filter((tree) => names.includes(tree.element.name)),
      ),
  };
}

function fieldIn(path: string, tree: SchemaTree, origin: Field | undefined): Field {
  try {
    return fieldOf(tree, origin);
  } catch (error) {
    if (!(error instanceof TypeConflict)) throw error;
    throw new InputError(`${path}: column "${tree.element.name}" is ${error.message}; leave it out with --columns`);
  }
}

async function* rowGroups(
  path: string,
  file: AsyncBuffer,
  metadata: FileMetaData,
  trees: readonly SchemaTree[],
): AsyncGenerator<RowBatch> {
  const columns = trees.map(({ element }) => element.name);
  let start = 0;
  for (const [group, { num_rows, columns: chunks }] of metadata.row_groups.entries()) {
    // The reader notices this only after it has started on other columns, whose failures would go unhandled.
    for (const { meta_data } of chunks)
      if (meta_data && !isInSchema(meta_data.path_in_schema, trees, columns))
        throw new InputError(
          `${path}: row group ${group} cannot be read as Parquet (it has a column ` +
            `${errorText(meta_data.path_in_schema.join("."))} that its schema lacks); copy the file again`,
        );
    const [rowStart, rowEnd] = [start, start + Number(num_rows)];
    const read = () => parquetReadObjects({ file, metadata, columns, rowStart, rowEnd, compressors, utf8: false });
    const found = await reading(path, `row group ${group}`, read);
    if (found.length !== rowEnd - rowStart)
      throw new InputError(`${path}: row group ${group} has ${found.length} rows of ${num_rows}; copy the file again`);
    // Values whose type differs from the schema's are detected here.
    const plain = (row: Readonly<Record<string, unknown>>): Record<string, unknown> =>
      Object.fromEntries(trees.map((tree) => [tree.element.name, plainValue(row[tree.element.name], tree)]));
    const rows = await reading(path, `row group ${group}`, async () => found.map(plain));
    yield { rows, place: (i) => `row ${rowStart + i}` };
    start = rowEnd;
  }
}

/** Whether a column's path leads to values; columns that are not used do not matter. */
function isInSchema(
  [first, ...way]: readonly string[],
  trees: readonly SchemaTree[],
  wanted: readonly string[],
): boolean {
  if (first === undefined || !wanted.includes(first)) return true;
  let tree = trees.find(({ element }) => element.name === first);
  for (const name of way) tree = tree?.children.find(({ element }) => element.name === name);
  return tree !== undefined;
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
