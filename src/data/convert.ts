/** Any format → one Arrow file, a batch of rows at a time, in the types of the input; nothing is changed silently. */
import { Field, Utf8 } from "apache-arrow";
import { InputError } from "../errors.ts";
import { LEFT_OUT, MIXED } from "./arrow/marks.ts";
import { TypeConflict } from "./arrow/types.ts";
import { createArrowWriter, type Row } from "./arrow/write.ts";
import { jsonText } from "./json-text.ts";
import type { SourceColumns } from "./source/rows.ts";
import { openSource } from "./source/source.ts";

export interface ConvertOptions {
  /** The columns to keep, in this order. Default: all. */
  readonly columns?: readonly string[];
  /** Which split of a folder with several. */
  readonly split?: string;
  /** Called now and then with the number of rows written. */
  readonly onRows?: (rows: number) => void;
  /**
   * For a file that only this program reads: a column whose values have no common type is kept as JSON and read back as it
   * was, and one of an unsupported type is left out, with the reason (see arrow/marks.ts). Default: refused.
   */
  readonly keepAll?: boolean;
}

export interface Converted {
  /** What the input was: "JSON Lines", "Parquet". */
  readonly format: string;
  readonly rows: number;
  readonly batches: number;
  readonly byteLength: number;
}

/**
 * Converts `input` (JSON Lines or a JSON array, plain or packed; Parquet; Arrow, file or folder) to the file `output`, an
 * Arrow IPC stream. `output` appears complete or not at all.
 *
 * @throws InputError for input that cannot be read, with its line or row; RunError when writing fails
 */
export async function convertToArrow(input: string, output: string, options: ConvertOptions = {}): Promise<Converted> {
  const source = await openSource(input, options.split);
  const columns = await source.columns();
  const { fields, mixed, leftOut } = selected(input, columns, options);
  const names = fields.map(({ name }) => name);
  const metadata = new Map(names.length === columns.size ? source.metadata : []);
  if (leftOut.size > 0) metadata.set(LEFT_OUT, JSON.stringify(Object.fromEntries(leftOut)));
  const writer = createArrowWriter(output, fields, metadata);
  try {
    let rows = 0;
    if ("arrays" in source) {
      for await (const { length, columns } of source.arrays(names)) {
        writer.writeColumns(columns, length);
        rows += length;
        options.onRows?.(rows);
      }
    } else {
      for await (const batch of source.batches(names)) {
        for (const row of batch.rows) writer.write(mixed.length === 0 ? row : withText(row, mixed));
        rows += batch.rows.length;
        options.onRows?.(rows);
      }
    }
    return { format: source.format, ...writer.finish() };
  } catch (error) {
    writer.abort();
    if (!(error instanceof TypeConflict)) throw error;
    throw new InputError(`${input}: column ${error.message}; leave it out with --columns, or cast it`);
  }
}

interface Selected {
  readonly fields: readonly Field[];
  /** Columns that are written as JSON text. */
  readonly mixed: readonly string[];
  /** Columns that are not written, with the reason. */
  readonly leftOut: ReadonlyMap<string, string>;
}

function selected(input: string, columns: SourceColumns, options: ConvertOptions): Selected {
  const fields: Field[] = [];
  const mixed: string[] = [];
  const leftOut = new Map<string, string>();
  for (const name of new Set(options.columns ?? columns.keys())) {
    const column = columns.get(name);
    if (column === undefined)
      throw new InputError(`${input}: no column "${name}" (--columns); it has ${[...columns.keys()].join(", ")}`);
    try {
      fields.push(column.field());
    } catch (error) {
      if (!options.keepAll || !(error instanceof InputError)) throw error;
      if (column.mixed === undefined) leftOut.set(name, error.message);
      else {
        fields.push(new Field(name, new Utf8(), true, new Map([[MIXED, column.mixed]])));
        mixed.push(name);
      }
    }
  }
  return { fields, mixed, leftOut };
}

function withText(row: Row, names: readonly string[]): Row {
  const texts = names.filter((name) => Object.hasOwn(row, name)).map((name) => [name, textOf(row[name])] as const);
  return { ...row, ...Object.fromEntries(texts) };
}

const textOf = (value: unknown) => (value === null || value === undefined ? null : jsonText(value));
