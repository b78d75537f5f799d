/**
 * One Arrow file opened over mmap: rows by index, batch by batch, without loading the file. Every buffer is a view into the
 * mapping (so a file or a batch may be larger than an ArrayBuffer); only zstd-compressed ones are unpacked.
 * Leaves out folders of several files and the meaning of columns (dataset.ts, columns.ts).
 */
import { type Data, type DataType, type Field, Message, type Schema, Vector } from "apache-arrow";
import { Footer } from "apache-arrow/ipc/metadata/file";
import { VectorLoader } from "apache-arrow/visitor/vectorloader";
import { type FileMapping, mapFile } from "../../../ffi/bindings/libc.ts";
import { errorText, InputError } from "../../errors.ts";
import { parseJson, plainJson, setField } from "../json-text.ts";
import { checkBatchColumn } from "./check.ts";
import { LEFT_OUT, MIXED } from "./marks.ts";
import {
  type ArrowMessages,
  type BatchPlace,
  type Dictionaries,
  type DictionaryPlace,
  findMessages,
} from "./messages.ts";
import { type UnreadField, withoutUnread } from "./metadata.ts";
import { typeName, valueAt } from "./values.ts";

export interface Column {
  readonly name: string;
  /** In pyarrow's words, e.g. "list<struct<role: string, content: string>>". */
  readonly type: string;
  /** The type itself; absent for a column of mixed or unsupported types. */
  readonly dataType?: DataType;
  /** Why rows lack it. */
  readonly unread?: string;
  /** The first of several files that lacks it. */
  readonly missingIn?: string;
}

export interface ArrowTable {
  readonly path: string;
  readonly format: "stream" | "file";
  readonly byteLength: number;
  readonly numRows: number;
  readonly numBatches: number;
  readonly columns: readonly Column[];
  readonly fields: readonly Field[];
  /** The schema's metadata for the whole file. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Row `index` as plain values; the object shares no memory with the file. Columns of unsupported types are left out. */
  row(index: number): Record<string, unknown>;
  /** The columns of batch `index` over the mapping, null for unsupported types; invalid once the table is closed. */
  arrays(index: number): { readonly rows: number; readonly columns: readonly (Data | null)[] };
  close(): void;
}

/** Decoded batches kept: rows in order use one, shuffled rows of a small set use them all. */
const KEPT_BATCHES = 16;
/** JavaScriptCore's limit for one ArrayBuffer. */
const MAX_BUFFER_BYTES = 2 ** 32;

/** @throws InputError if the file is not Arrow or is damaged */
export function openTable(path: string): ArrowTable {
  const mapping = mapFile(path);
  try {
    return tableOver(mapping);
  } catch (error) {
    mapping.close();
    throw error;
  }
}

function tableOver(mapping: FileMapping): ArrowTable {
  const { path } = mapping;
  const messages = findMessages(mapping);
  const { format, version, batches } = messages;
  const { schema, columns, unread } = decodeSchema(path, messages);
  const { fields } = schema;
  if (columns.length === 0) throw new InputError(`${path}: it has no columns; copy or convert it again`);
  const readers = fields.map(({ metadata }) => (metadata.has(MIXED) ? mixedAt : valueAt));
  const names = fields.map(({ name }) => name);
  const repeated = names.find((name, i) => names.indexOf(name) !== i);
  if (repeated !== undefined) throw new InputError(`${path}: two columns are called "${repeated}"; rename one of them`);
  const starts = [0]; // starts[b]: the index of the first row of batch b
  for (const [b, { place }] of batches.entries()) {
    const { rows, nodes } = place.header;
    if (fields.length > 0 && nodes[0]?.length !== rows)
      throw damaged(path, `record batch ${b}`, place, names[0]!, `${nodes[0]?.length} values for ${rows} rows`);
    starts.push(starts.at(-1)! + rows);
  }
  const numRows = starts.at(-1)!;
  const dictionaries = new DictionaryLoader(mapping, schema, version);
  const kept = new Map<number, readonly (Data | null)[]>();
  let open = true;

  const columnsOf = (batch: number): readonly (Data | null)[] => {
    const known = kept.get(batch);
    kept.delete(batch);
    const columns = known ?? loadBatch(mapping, batch, batches[batch]!, fields, unread, dictionaries, version);
    kept.set(batch, columns); // the newest stands last
    if (kept.size > KEPT_BATCHES) kept.delete(kept.keys().next().value!);
    return columns;
  };

  return {
    path,
    format,
    byteLength: mapping.byteLength,
    numRows,
    numBatches: batches.length,
    columns,
    fields,
    metadata: schema.metadata,
    row(index) {
      if (!open) throw new Error(`${path}: row ${index} read after close`);
      if (!Number.isInteger(index) || index < 0 || index >= numRows)
        throw new RangeError(`${path}: row ${index} of ${numRows}`);
      mapping.requireUnchanged();
      const batch = batchOf(starts, index);
      const place = batches[batch]!.place;
      const row: Record<string, unknown> = {};
      const within = index - starts[batch]!;
      for (const [c, data] of columnsOf(batch).entries()) {
        if (data === null) continue;
        const name = names[c]!;
        const value = guarded(path, `record batch ${batch}`, place, name, () => readers[c]!(data, within));
        setField(row, name, value);
      }
      return row;
    },
    arrays(index) {
      if (!open) throw new Error(`${path}: batch ${index} read after close`);
      const { rows } = batches[index]!.place.header;
      return { rows, columns: columnsOf(index) };
    },
    close() {
      open = false;
      kept.clear();
      mapping.close();
    },
  };
}

/** A value of a column whose texts are JSON (see marks.ts). */
function mixedAt(data: Data, index: number): unknown {
  const text = valueAt(data, index);
  return typeof text === "string" ? plainJson(parseJson(text)) : null;
}

/** The batch with row `index`: the last one that starts at or before it and is not empty. */
function batchOf(starts: readonly number[], index: number): number {
  let [low, high] = [0, starts.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (starts[middle]! <= index) low = middle;
    else high = middle;
  }
  return low;
}

interface DecodedSchema {
  readonly schema: Schema;
  readonly columns: readonly Column[];
  readonly unread: ReadonlyMap<number, UnreadField>;
}

/** The schema, and its columns as they are called; both of which fail on types that nobody knows. */
function decodeSchema(path: string, { schema: bytes, holder }: ArrowMessages): DecodedSchema {
  try {
    const { metadata, unread } = withoutUnread(bytes, holder);
    const schema = holder === "footer" ? Footer.decode(metadata).schema : (Message.decode(metadata).header() as Schema);
    nameAll(schema.fields);
    const columns = schema.fields.map((field, i) => columnOf(path, field, unread.get(i)));
    return { schema, columns: [...columns, ...leftOut(schema)], unread };
  } catch (error) {
    const cure = "cast it to a plain type, or leave it out";
    throw new InputError(`${path}: a column's type is damaged or not supported (${errorText(error)}); ${cure}`);
  }
}

/** An empty name need not be written, and apache-arrow gives null for it. */
function nameAll(fields: readonly Field[]): void {
  for (const field of fields) {
    Object.assign(field, { name: field.name ?? "" });
    nameAll((field.type.children ?? []) as Field[]);
  }
}

function columnOf(path: string, { name, type, metadata }: Field, unread: UnreadField | undefined): Column {
  if (unread !== undefined) {
    const why = `${path}: column "${name}" is ${unread.type}, which is not supported; cast it to a plain type`;
    return { name, type: unread.type, unread: why };
  }
  const mixed = metadata.get(MIXED);
  return mixed === undefined ? { name, type: typeName(type), dataType: type } : { name, type: `mixed (${mixed})` };
}

/** Columns that the file was made without. */
function leftOut({ metadata }: Schema): Column[] {
  const text = metadata.get(LEFT_OUT);
  if (text === undefined) return [];
  const reasons = Object.entries(JSON.parse(text) as Record<string, string>);
  return reasons.map(([name, unread]) => ({ name, type: "not read", unread }));
}

/** Turns what a damaged batch throws into one line with file, batch, column and cure. */
function guarded<T>(path: string, batch: string, place: BatchPlace, column: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw error instanceof InputError ? error : damaged(path, batch, place, column, errorText(error));
  }
}

function damaged(path: string, batch: string, { messageAt }: BatchPlace, column: string, why: string): InputError {
  const cure = "the file is damaged: copy or convert it again";
  return new InputError(`${path}: ${batch} (byte ${messageAt}), column "${column}": ${why}; ${cure}`);
}

function loadBatch(
  mapping: FileMapping,
  index: number,
  { place, dictionaries }: { place: BatchPlace; dictionaries: Dictionaries },
  fields: readonly Field[],
  unread: ReadonlyMap<number, UnreadField>,
  dictionaryLoader: DictionaryLoader,
  version: number,
): readonly (Data | null)[] {
  const name = `record batch ${index}`;
  const loader = new MappedLoader(mapping, name, place, dictionaryLoader.vectors(dictionaries), version);
  return fields.map((field, i) =>
    guarded(mapping.path, name, place, field.name, () => {
      const skipped = unread.get(i);
      if (skipped !== undefined) return loader.skip(skipped);
      const data = loader.visit(field) as Data;
      checkBatchColumn(data, place.header.rows);
      return data;
    }),
  );
}

/** Gives apache-arrow each buffer as a view into the file, or unpacked. */
class MappedLoader extends VectorLoader {
  private readonly mapping: FileMapping;
  private readonly place: BatchPlace;

  constructor(
    mapping: FileMapping,
    name: string,
    place: BatchPlace,
    dictionaries: Map<number, Vector>,
    version: number,
  ) {
    const { nodes, buffers, variadicBufferCounts, compression } = place.header;
    if (compression === "lz4" || compression === "unknown") {
      const codec = compression === "lz4" ? "LZ4" : "with an unknown codec";
      const cure = 'write it uncompressed or with zstd (pyarrow: compression="zstd")';
      throw new InputError(`${mapping.path}: ${name} (byte ${place.messageAt}) is compressed ${codec}; ${cure}`);
    }
    super(new Uint8Array(0), nodes, buffers, dictionaries, version, variadicBufferCounts);
    this.mapping = mapping;
    this.place = place;
  }

  /** Goes past a column without reading it. */
  skip({ layout }: UnreadField): null {
    for (const { buffers, variadic } of layout) {
      this.nextFieldNode();
      const count = buffers + (variadic ? this.nextVariadicBufferCount() : 0);
      for (let i = 0; i < count; i++) this.nextBufferRange();
    }
    return null;
  }

  protected override nextFieldNode() {
    return super.nextFieldNode() ?? missing("values");
  }

  protected override nextBufferRange() {
    return super.nextBufferRange() ?? missing("buffers");
  }

  protected override readNullBitmap<T extends DataType>(type: T, nullCount: number, range = this.nextBufferRange()) {
    return nullCount > 0 ? this.readData(type, range) : new Uint8Array(0);
  }

  protected override readData<T extends DataType>(_type: T, { offset, length } = this.nextBufferRange()): Uint8Array {
    const { bodyAt, bodyLength, header } = this.place;
    if (offset + length > bodyLength)
      throw new Error(`a buffer of ${length} bytes from ${offset} where the batch has ${bodyLength}`);
    if (length > MAX_BUFFER_BYTES) throw new Error(`a buffer of ${length} bytes; write it in smaller batches`);
    const bytes = this.mapping.view(bodyAt + offset, length);
    if (header.compression === "zstd") return unpack(bytes);
    // Typed arrays over memory that is not aligned for them read slowly, or not at all.
    return (bodyAt + offset) % 8 === 0 ? bytes : bytes.slice();
  }
}

function missing(what: string): never {
  throw new Error(`the batch lists fewer ${what} than its columns need`);
}

/** One compressed buffer: its length unpacked (-1: not compressed after all), then a zstd frame. */
function unpack(bytes: Uint8Array<ArrayBuffer>): Uint8Array {
  if (bytes.length === 0) return bytes;
  if (bytes.length < 8) throw new Error(`a compressed buffer of ${bytes.length} bytes`);
  const length = new DataView(bytes.buffer, bytes.byteOffset).getBigInt64(0, true);
  const packed = bytes.subarray(8);
  if (length === -1n) return packed;
  if (length < 0n || length > MAX_BUFFER_BYTES) throw new Error(`a buffer of ${length} bytes once unpacked`);
  const unpacked = Bun.zstdDecompressSync(packed);
  if (BigInt(unpacked.length) !== length)
    throw new Error(`a buffer that unpacks to ${unpacked.length} bytes instead of ${length}`);
  return unpacked;
}

/** Loads each dictionary message once, whichever batches use it. */
class DictionaryLoader {
  private readonly loaded = new WeakMap<DictionaryPlace, Data>();
  private readonly mapping: FileMapping;
  private readonly schema: Schema;
  private readonly version: number;

  constructor(mapping: FileMapping, schema: Schema, version: number) {
    this.mapping = mapping;
    this.schema = schema;
    this.version = version;
  }

  vectors(dictionaries: Dictionaries): Map<number, Vector> {
    const vectors = new Map<number, Vector>();
    for (const [id, places] of dictionaries) {
      const type = this.schema.dictionaries.get(id);
      if (type !== undefined) vectors.set(id, new Vector(places.map((place) => this.load(place, type, vectors))));
    }
    return vectors;
  }

  private load(place: DictionaryPlace, type: DataType, known: Map<number, Vector>): Data {
    const before = this.loaded.get(place);
    if (before !== undefined) return before;
    const field = { name: `dictionary ${place.id}`, type } as Field;
    const loader = new MappedLoader(this.mapping, field.name, place, known, this.version);
    const data = guarded(this.mapping.path, field.name, place, field.name, () => {
      const column = loader.visit(type) as Data;
      checkBatchColumn(column, place.header.rows);
      return column;
    });
    this.loaded.set(place, data);
    return data;
  }
}
