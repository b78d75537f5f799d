/** Any known format → one Arrow file, a batch of rows at a time. */
import { InputError } from "../errors.ts";
import { type ColumnType, TypeConflict } from "./arrow/types.ts";
import { createArrowWriter } from "./arrow/write.ts";
import { openSource, type SourceColumns } from "./source/source.ts";

export interface ConvertOptions {
  /** The columns to keep, in this order. Default: all. */
  readonly columns?: readonly string[];
  /** Which split of a folder with several. */
  readonly split?: string;
  /** Told how many rows are written, every now and then. */
  readonly onRows?: (rows: number) => void;
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
 * Arrow IPC stream. `output` appears when it is complete, or not at all.
 *
 * @throws InputError for input that cannot be read, with its line or row; RunError when writing fails
 */
export async function convertToArrow(input: string, output: string, options: ConvertOptions = {}): Promise<Converted> {
  const source = await openSource(input, options.split);
  const types = selected(input, await source.columns(), options.columns);
  const writer = createArrowWriter(output, types);
  try {
    let rows = 0;
    for await (const batch of source.batches([...types.keys()])) {
      for (const row of batch.rows) writer.write(row);
      rows += batch.rows.length;
      options.onRows?.(rows);
    }
    return { format: source.format, ...writer.finish() };
  } catch (error) {
    writer.abort();
    if (!(error instanceof TypeConflict)) throw error;
    throw new InputError(`${input}: column ${error.message}; leave it out with --columns, or cast it`);
  }
}

function selected(
  input: string,
  columns: SourceColumns,
  wanted: readonly string[] = [...columns.keys()],
): ReadonlyMap<string, ColumnType> {
  return new Map(
    wanted.map((name) => {
      const type = columns.get(name);
      if (type === undefined)
        throw new InputError(`${input}: no column "${name}" (--columns); it has ${[...columns.keys()].join(", ")}`);
      return [name, type()];
    }),
  );
}
