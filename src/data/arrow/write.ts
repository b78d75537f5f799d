/**
 * Plain rows or Arrow columns → an Arrow IPC stream, as `datasets` writes its files: record batches of about a thousand
 * rows. Written beside the target and renamed into place, so that nobody ever reads half a file.
 */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { type Data, type Field, makeData, RecordBatch, RecordBatchStreamWriter, Schema, Struct } from "apache-arrow";
import { errorText, InputError, RunError } from "../../errors.ts";
import { temporaryBeside } from "../../files/temporary.ts";
import { cellOf, columnData, type Row } from "./build.ts";

export type { Row } from "./build.ts";

export interface ArrowWriter {
  /** @throws TypeConflict if a value does not fit its column's type */
  write(row: Row): void;
  /** One batch unchanged: `columns` in the order of the fields, each of `length`. */
  writeColumns(columns: readonly Data[], length: number): void;
  /** Puts the file in place; returns what was written. */
  finish(): { readonly rows: number; readonly batches: number; readonly byteLength: number };
  /** Removes what was written. */
  abort(): void;
}

/** As `datasets` has it (DEFAULT_MAX_BATCH_SIZE). */
const BATCH_ROWS = 1000;
/** Far below what the 32-bit offsets of utf8 can address; long rows make shorter batches. */
const BATCH_CHARS = 64 * 2 ** 20;

/**
 * @param metadata the schema's metadata for the whole file
 * @throws InputError if the file cannot be created
 */
export function createArrowWriter(
  path: string,
  fields: readonly Field[],
  metadata: ReadonlyMap<string, string> = new Map(),
): ArrowWriter {
  const schema = new Schema([...fields], new Map(metadata));
  const names = fields.map(({ name }) => name);
  const beside = temporaryBeside(path);
  const fd = create(path, beside);
  const stream = new FileStream(fd, path);
  let open = true;
  let [rows, batches, chars] = [0, 0, 0];
  let waiting: Row[] = [];

  const abort = () => {
    if (!open) return;
    open = false;
    closeSync(fd);
    rmSync(beside, { force: true });
  };
  const writeColumns = (columns: readonly Data[], length: number) => {
    const data = makeData({ type: new Struct([...fields]), length, nullCount: 0, children: [...columns] });
    stream.write(new RecordBatch(schema, data));
    batches++;
  };
  const flush = () => {
    const children = fields.map(({ name, type }) =>
      columnData(
        type,
        waiting.map((row) => cellOf(row, name)),
        `"${name}"`,
      ),
    );
    writeColumns(children, waiting.length);
    [waiting, chars] = [[], 0];
  };
  stream.reset(undefined, schema);

  return {
    write(row) {
      waiting.push(row);
      rows++;
      for (const name of names) chars += charsIn(cellOf(row, name));
      if (waiting.length >= BATCH_ROWS || chars >= BATCH_CHARS) flush();
    },
    writeColumns(columns, length) {
      if (waiting.length > 0) flush();
      rows += length;
      if (length > 0) writeColumns(columns, length);
    },
    finish() {
      try {
        if (waiting.length > 0) flush();
        stream.finish();
        fsyncSync(fd);
        closeSync(fd);
        open = false;
        renameSync(beside, path);
      } catch (error) {
        abort();
        throw error;
      }
      return { rows, batches, byteLength: stream.byteLength };
    },
    abort,
  };
}

function create(path: string, beside: string): number {
  try {
    return openSync(beside, "wx");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") throw new InputError(`${path}: there is no folder ${dirname(path)}; make it first`);
    throw new InputError(`${path}: cannot be written (${code}); choose another place`);
  }
}

/** apache-arrow's stream writer with its bytes going straight to a file. */
class FileStream extends RecordBatchStreamWriter {
  byteLength = 0;
  private readonly fd: number;
  private readonly path: string;

  constructor(fd: number, path: string) {
    super();
    this.fd = fd;
    this.path = path;
  }

  protected override _write(chunk: ArrayBufferView): this {
    let bytes = new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    this.byteLength += bytes.length;
    try {
      while (bytes.length > 0) bytes = bytes.subarray(writeSync(this.fd, bytes));
    } catch (error) {
      throw new RunError(`${this.path}: writing failed (${errorText(error)}); make room on the disk and try again`);
    }
    return this;
  }
}

/** The approximate size of a value in bytes. */
function charsIn(value: unknown): number {
  if (typeof value === "string") return value.length;
  if (typeof value !== "object" || value === null) return 8;
  if (value instanceof Uint8Array) return value.length;
  let sum = 8;
  for (const key of Object.keys(value)) sum += charsIn((value as Record<string, unknown>)[key]);
  return sum;
}
