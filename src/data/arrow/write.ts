/**
 * Plain rows → an Arrow IPC stream, as `datasets` writes its files: record batches of about a thousand rows, strings as
 * utf8, every column nullable. Written beside the target and renamed into place, so that nobody ever reads half a file.
 */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { type Data, Field, makeData, RecordBatch, RecordBatchStreamWriter, Schema, Struct } from "apache-arrow";
import { errorText, InputError, RunError } from "../../errors.ts";
import { temporaryBeside } from "../../writers.ts";
import { arrowType, type ColumnType, TypeConflict } from "./types.ts";

export type Row = Readonly<Record<string, unknown>>;

export interface ArrowWriter {
  /** @throws TypeConflict when a value does not fit its column's type */
  write(row: Row): void;
  /** Puts the file in place; returns what was written. */
  finish(): { readonly rows: number; readonly batches: number; readonly byteLength: number };
  /** Leaves nothing behind. */
  abort(): void;
}

/** As `datasets` has it (DEFAULT_MAX_BATCH_SIZE). */
const BATCH_ROWS = 1000;
/** Far below what the 32-bit offsets of utf8 can address; long rows make shorter batches. */
const BATCH_CHARS = 64 * 2 ** 20;

/** @throws InputError when the file cannot be created */
export function createArrowWriter(path: string, columns: ReadonlyMap<string, ColumnType>): ArrowWriter {
  const fields = [...columns].map(([name, type]) => new Field(name, arrowType(type), true));
  const schema = new Schema(fields);
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
  const flush = () => {
    const children = fields.map((field) =>
      columnData(
        columns.get(field.name)!,
        waiting.map((row) => cellOf(row, field.name)),
        `"${field.name}"`,
      ),
    );
    const data = makeData({ type: new Struct(fields), length: waiting.length, nullCount: 0, children });
    stream.write(new RecordBatch(schema, data));
    batches++;
    [waiting, chars] = [[], 0];
  };
  stream.reset(undefined, schema);

  return {
    write(row) {
      waiting.push(row);
      rows++;
      for (const name of columns.keys()) chars += charsIn(cellOf(row, name));
      if (waiting.length >= BATCH_ROWS || chars >= BATCH_CHARS) flush();
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

/** A row without the column has null there, also where the column is called like something every object inherits. */
function cellOf(row: Row, name: string): unknown {
  return Object.hasOwn(row, name) ? row[name] : null;
}

function charsIn(value: unknown): number {
  if (typeof value === "string") return value.length;
  if (typeof value !== "object" || value === null) return 8;
  return Object.values(value).reduce((sum: number, inner) => sum + charsIn(inner), 8);
}

/** The values of one column, laid out as Arrow has it. `what` names the column in errors. */
function columnData(type: ColumnType, values: readonly unknown[], what: string): Data {
  const length = values.length;
  const { nullCount, nullBitmap } = nullsOf(values);
  const arrow = arrowType(type);
  const shared = { type: arrow, length, nullCount, nullBitmap };
  switch (type.kind) {
    case "null":
      if (nullCount < length) throw new TypeConflict(`${what} has a value where every other row has none`);
      return makeData({ ...shared });
    case "bool": {
      const data = new Uint8Array(Math.ceil(length / 8));
      for (let i = 0; i < length; i++) if (boolOf(values[i], what)) data[i >> 3]! |= 1 << (i & 7);
      return makeData({ ...shared, data } as never);
    }
    case "int64":
      return makeData({ ...shared, data: BigInt64Array.from(values, (value) => intOf(value, what)) } as never);
    case "float64":
      return makeData({ ...shared, data: Float64Array.from(values, (value) => floatOf(value, what)) } as never);
    case "string":
      return makeData({ ...shared, ...textBuffers(values, what) } as never);
    case "list": {
      const lists = values.map((value) => listOf(value, what));
      const child = columnData(type.item, lists.flat(), what);
      const valueOffsets = offsetsOf(lists.map((list) => list.length));
      return makeData({ ...shared, valueOffsets, child } as never);
    }
    case "struct": {
      const structs = values.map((value) => structOf(value, what));
      const children = [...type.fields].map(([name, field]) =>
        columnData(
          field,
          structs.map((struct) => cellOf(struct, name)),
          `${what}.${name}`,
        ),
      );
      return makeData({ ...shared, children } as never);
    }
  }
}

function nullsOf(values: readonly unknown[]): { nullCount: number; nullBitmap: Uint8Array } {
  const nullBitmap = new Uint8Array(Math.ceil(values.length / 8));
  let nullCount = 0;
  values.forEach((value, i) => {
    if (value === null || value === undefined) nullCount++;
    else nullBitmap[i >> 3]! |= 1 << (i & 7);
  });
  return { nullCount, nullBitmap: nullCount === 0 ? new Uint8Array(0) : nullBitmap };
}

function offsetsOf(lengths: readonly number[]): Int32Array {
  const offsets = new Int32Array(lengths.length + 1);
  lengths.forEach((length, i) => {
    offsets[i + 1] = offsets[i]! + length;
  });
  return offsets;
}

function textBuffers(values: readonly unknown[], what: string): { valueOffsets: Int32Array; data: Uint8Array } {
  const texts = values.map((value) => Buffer.from(stringOf(value, what), "utf8"));
  return { valueOffsets: offsetsOf(texts.map((text) => text.length)), data: Buffer.concat(texts) };
}

function unfit(value: unknown, wanted: string, what: string): TypeConflict {
  const found =
    typeof value === "object" ? (Array.isArray(value) ? "a list" : "an object") : `${typeof value} ${value}`;
  return new TypeConflict(`${what} is ${found.slice(0, 60)} where the column has ${wanted}`);
}

const absent = (value: unknown) => value === null || value === undefined;

function boolOf(value: unknown, what: string): boolean {
  if (absent(value)) return false;
  if (typeof value !== "boolean") throw unfit(value, "bool", what);
  return value;
}

function intOf(value: unknown, what: string): bigint {
  if (absent(value)) return 0n;
  const whole = typeof value === "number" && Number.isInteger(value) ? BigInt(value) : value;
  if (typeof whole !== "bigint" || BigInt.asIntN(64, whole) !== whole) throw unfit(value, "int64", what);
  return whole;
}

function floatOf(value: unknown, what: string): number {
  if (absent(value)) return 0;
  if (typeof value !== "number" && typeof value !== "bigint") throw unfit(value, "float64", what);
  return Number(value);
}

function stringOf(value: unknown, what: string): string {
  if (absent(value)) return "";
  if (typeof value !== "string") throw unfit(value, "string", what);
  return value;
}

function listOf(value: unknown, what: string): readonly unknown[] {
  if (absent(value)) return [];
  if (!Array.isArray(value)) throw unfit(value, "lists", what);
  return value;
}

function structOf(value: unknown, what: string): Row {
  if (absent(value)) return {};
  if (typeof value !== "object" || Array.isArray(value)) throw unfit(value, "objects", what);
  return value as Row;
}
