/**
 * The flatbuffer metadata of Arrow's messages (format/Message.fbs, Schema.fbs and File.fbs of the Arrow project), read
 * field by field with every offset and count checked against the available bytes: a false count must not cause a long
 * loop or a large allocation. Leaves out the types of a schema, which apache-arrow decodes after `checkSchema`.
 */

/** Why bytes are not valid metadata; the caller adds the file and the position. */
export class DamagedMetadata extends Error {}

/** One table: its position in the bytes, and those of its fields. */
interface FlatTable {
  readonly view: DataView;
  readonly at: number;
  readonly vtable: number;
  readonly vtableSize: number;
}

interface FlatVector {
  readonly at: number;
  readonly length: number;
}

function tableAt(view: DataView, at: number): FlatTable {
  const vtable = at - view.getInt32(at, true);
  return { view, at, vtable, vtableSize: view.getUint16(vtable, true) };
}

function rootTable(bytes: Uint8Array): FlatTable {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return tableAt(view, view.getUint32(0, true));
}

/** The position of field number `id`; 0 if it has its default. */
function fieldAt({ view, at, vtable, vtableSize }: FlatTable, id: number): number {
  const entry = 4 + 2 * id;
  if (entry + 2 > vtableSize) return 0;
  const offset = view.getUint16(vtable + entry, true);
  return offset === 0 ? 0 : at + offset;
}

function number8(table: FlatTable, id: number): number {
  const at = fieldAt(table, id);
  return at === 0 ? 0 : table.view.getUint8(at);
}

function number16(table: FlatTable, id: number): number {
  const at = fieldAt(table, id);
  return at === 0 ? 0 : table.view.getInt16(at, true);
}

function sizeAt(view: DataView, at: number): number {
  const value = view.getBigInt64(at, true);
  if (value < 0n || value > BigInt(Number.MAX_SAFE_INTEGER)) throw new DamagedMetadata(`${value} given as a size`);
  return Number(value);
}

function size64(table: FlatTable, id: number): number {
  const at = fieldAt(table, id);
  return at === 0 ? 0 : sizeAt(table.view, at);
}

function tableField(table: FlatTable, id: number): FlatTable | undefined {
  const at = fieldAt(table, id);
  return at === 0 ? undefined : tableAt(table.view, at + table.view.getUint32(at, true));
}

function vectorField(table: FlatTable, id: number, itemBytes: number): FlatVector {
  const field = fieldAt(table, id);
  if (field === 0) return { at: 0, length: 0 };
  const start = field + table.view.getUint32(field, true);
  const length = table.view.getUint32(start, true);
  if (start + 4 + length * itemBytes > table.view.byteLength)
    throw new DamagedMetadata(`a list of ${length} entries that the metadata has no room for`);
  return { at: start + 4, length };
}

function items<T>(vector: FlatVector, itemBytes: number, read: (at: number) => T): T[] {
  return Array.from({ length: vector.length }, (_, i) => read(vector.at + i * itemBytes));
}

/** Numbers of the MessageHeader union. */
const HEADER_SCHEMA = 1;
const HEADER_DICTIONARY = 2;
const HEADER_BATCH = 3;
/** MetadataVersion V4, of 2016; earlier versions lay out buffers differently. */
const VERSION_4 = 3;

/** Lengths, nulls and positions of the columns of one batch, in the order in which the schema is walked. */
export interface BatchHeader {
  readonly rows: number;
  readonly nodes: { readonly length: number; readonly nullCount: number }[];
  /** Within the message's body, in bytes. */
  readonly buffers: { readonly offset: number; readonly length: number }[];
  readonly variadicBufferCounts: number[];
  readonly compression: "none" | "lz4" | "zstd" | "unknown";
}

export type MessageHeader =
  | { readonly kind: "schema" }
  | { readonly kind: "dictionary"; readonly id: number; readonly isDelta: boolean; readonly batch: BatchHeader }
  | { readonly kind: "batch"; readonly batch: BatchHeader }
  | { readonly kind: "other" };

export interface MessageMetadata {
  readonly header: MessageHeader;
  readonly bodyLength: number;
  /** MetadataVersion: 3 is V4, 4 is V5. */
  readonly version: number;
}

/** @throws DamagedMetadata, or a RangeError for an offset beyond the bytes. */
export function readMessage(metadata: Uint8Array): MessageMetadata {
  const message = rootTable(metadata);
  return { header: readHeader(message), bodyLength: size64(message, 3), version: checkedVersion(message) };
}

/** The version is the first field of messages and footers alike. */
function checkedVersion(table: FlatTable): number {
  const version = number16(table, 0);
  if (version < VERSION_4) throw new DamagedMetadata(`metadata version ${version + 1}, older than 4`);
  return version;
}

function readHeader(message: FlatTable): MessageHeader {
  const kind = number8(message, 1);
  const header = tableField(message, 2);
  if (header === undefined) return { kind: "other" };
  if (kind === HEADER_SCHEMA) return { kind: "schema" };
  if (kind === HEADER_BATCH) return { kind: "batch", batch: readBatch(header) };
  if (kind !== HEADER_DICTIONARY) return { kind: "other" };
  const data = tableField(header, 1);
  if (data === undefined) throw new DamagedMetadata("a dictionary without data");
  return { kind: "dictionary", id: size64(header, 0), isDelta: number8(header, 2) !== 0, batch: readBatch(data) };
}

function readBatch(batch: FlatTable): BatchHeader {
  const { view } = batch;
  const compression = tableField(batch, 3);
  return {
    rows: size64(batch, 0),
    nodes: items(vectorField(batch, 1, 16), 16, (at) => ({
      length: sizeAt(view, at),
      nullCount: sizeAt(view, at + 8),
    })),
    buffers: items(vectorField(batch, 2, 16), 16, (at) => ({ offset: sizeAt(view, at), length: sizeAt(view, at + 8) })),
    variadicBufferCounts: items(vectorField(batch, 4, 8), 8, (at) => sizeAt(view, at)),
    compression:
      compression === undefined ? "none" : ((["lz4", "zstd"] as const)[number8(compression, 0)] ?? "unknown"),
  };
}

/** Numbers of the Type union: List, FixedSizeList, Map and LargeList have one child, a Map's child has two. */
const TYPE_MAP = 17;
const ONE_CHILD = [12, 16, TYPE_MAP, 21];

/** Deeper than any real type, and shallow enough for every recursion over it. */
const MAX_DEPTH = 64;

/** Where a schema is: in its own message (Message.header), or in the footer of the file format (Footer.schema). */
export type SchemaHolder = "message" | "footer";

/**
 * Walks a schema the way apache-arrow's decoder will.
 * @throws DamagedMetadata for false counts, types nested in themselves, or big-endian values
 */
export function checkSchema(metadata: Uint8Array, holder: SchemaHolder): void {
  const root = rootTable(metadata);
  if (holder === "message") vectorField(root, 4, 4);
  const schema = tableField(root, holder === "message" ? 2 : 1);
  if (schema === undefined) throw new DamagedMetadata("no schema");
  if (number16(schema, 0) !== 0) throw new DamagedMetadata("big-endian values, which are not supported");
  vectorField(schema, 2, 4);
  // A field takes at least 8 bytes: if there are more fields than that, several point at the same bytes.
  checkFields(vectorField(schema, 1, 4), schema.view, 0, { left: metadata.byteLength / 8 });
}

function checkFields(fields: FlatVector, view: DataView, depth: number, budget: { left: number }, parent = 0): void {
  if (depth > MAX_DEPTH) throw new DamagedMetadata(`columns nested deeper than ${MAX_DEPTH} levels`);
  for (let i = 0; i < fields.length; i++) {
    if (budget.left-- <= 0) throw new DamagedMetadata("columns that overlap in the metadata");
    const field = itemTable(fields, i, view);
    vectorField(field, 6, 4);
    const children = vectorField(field, 5, 4);
    const kind = number8(field, 2);
    if (ONE_CHILD.includes(kind) && children.length !== 1) throw new DamagedMetadata("a list without an item type");
    if (parent === TYPE_MAP && children.length !== 2) throw new DamagedMetadata("a map without keys and values");
    checkFields(children, view, depth + 1, budget, kind);
  }
}

/** What one node of a column takes up in a batch: buffers, and for view types those whose number the batch gives. */
export interface NodeLayout {
  readonly buffers: number;
  readonly variadic: boolean;
}

/** A column of a type that apache-arrow cannot read. */
export interface UnreadField {
  /** In pyarrow's words. */
  readonly type: string;
  readonly layout: readonly NodeLayout[];
}

/** Types of the Type union that apache-arrow has no class for, though their layout is known. */
const unreadTypes: ReadonlyMap<number, string> = new Map([
  [22, "run_end_encoded"],
  [25, "list_view"],
  [26, "large_list_view"],
]);
const NULL_TYPE = 1;
const UNION_TYPE = 14;
/** Buffers of each type, by its number in the Type union; a union's depend on its mode. */
const buffersOf: Readonly<Record<number, number>> = {
  0: 0, // NONE
  1: 0, // Null
  2: 2, // Int
  3: 2, // FloatingPoint
  4: 3, // Binary
  5: 3, // Utf8
  6: 2, // Bool
  7: 2, // Decimal
  8: 2, // Date
  9: 2, // Time
  10: 2, // Timestamp
  11: 2, // Interval
  12: 2, // List
  13: 1, // Struct
  15: 2, // FixedSizeBinary
  16: 1, // FixedSizeList
  17: 2, // Map
  18: 2, // Duration
  19: 3, // LargeBinary
  20: 3, // LargeUtf8
  21: 2, // LargeList
  22: 0, // RunEndEncoded
  23: 2, // BinaryView
  24: 2, // Utf8View
  25: 3, // ListView
  26: 3, // LargeListView
};
const viewTypes = [23, 24];

/**
 * The schema's bytes with each column of an unsupported type declared as null, so that apache-arrow decodes the others,
 * and what such columns take up in each batch, by their index. The bytes must have passed `checkSchema`.
 */
export function withoutUnread(
  metadata: Uint8Array,
  holder: SchemaHolder,
): { readonly metadata: Uint8Array; readonly unread: ReadonlyMap<number, UnreadField> } {
  const copy = metadata.slice();
  const root = rootTable(copy);
  const version = number16(root, 0);
  const schema = tableField(root, holder === "message" ? 2 : 1)!;
  const fields = vectorField(schema, 1, 4);
  const unread = new Map<number, UnreadField>();
  for (let i = 0; i < fields.length; i++) {
    const field = itemTable(fields, i, schema.view);
    const type = unreadTypeIn(field);
    if (type === undefined) continue;
    unread.set(i, { type, layout: layoutOf(field, version) });
    schema.view.setUint8(fieldAt(field, 2), NULL_TYPE);
    const children = vectorField(field, 5, 4);
    if (children.length > 0) schema.view.setUint32(children.at - 4, 0, true);
  }
  return { metadata: unread.size > 0 ? copy : metadata, unread };
}

const itemTable = (items: FlatVector, i: number, view: DataView): FlatTable => {
  const at = items.at + 4 * i;
  return tableAt(view, at + view.getUint32(at, true));
};

const childrenOf = (field: FlatTable): FlatTable[] => {
  const children = vectorField(field, 5, 4);
  return Array.from({ length: children.length }, (_, i) => itemTable(children, i, field.view));
};

function unreadTypeIn(field: FlatTable): string | undefined {
  const own = unreadTypes.get(number8(field, 2));
  if (own !== undefined) return own;
  for (const child of childrenOf(field)) {
    const inner = unreadTypeIn(child);
    if (inner !== undefined) return `a type with ${inner} in it`;
  }
  return undefined;
}

function layoutOf(field: FlatTable, version: number): NodeLayout[] {
  const isDictionary = tableField(field, 4) !== undefined;
  if (isDictionary) return [{ buffers: 2, variadic: false }];
  const type = number8(field, 2);
  const buffers = type === UNION_TYPE ? unionBuffers(field, version) : buffersOf[type];
  if (buffers === undefined) throw new DamagedMetadata(`a type of the unknown number ${type}`);
  const own = { buffers, variadic: viewTypes.includes(type) };
  return [own, ...childrenOf(field).flatMap((child) => layoutOf(child, version))];
}

/** Types, offsets if it is dense, and before version 5 a null bitmap. */
function unionBuffers(field: FlatTable, version: number): number {
  const union = tableField(field, 3);
  const dense = union !== undefined && number16(union, 0) === 1;
  return (dense ? 2 : 1) + (version <= VERSION_4 ? 1 : 0);
}

/** The position of a message of the file format. */
export interface FileBlock {
  readonly offset: number;
  /** Prefix, metadata and padding. */
  readonly metadataLength: number;
  readonly bodyLength: number;
}

/** The footer of the file format: the positions of its dictionaries and batches. */
export interface FileFooter {
  readonly version: number;
  readonly dictionaries: FileBlock[];
  readonly batches: FileBlock[];
}

/** @throws DamagedMetadata, or a RangeError for an offset beyond the bytes */
export function readFooter(bytes: Uint8Array): FileFooter {
  const footer = rootTable(bytes);
  const block = (at: number): FileBlock => ({
    offset: sizeAt(footer.view, at),
    metadataLength: footer.view.getUint32(at + 8, true),
    bodyLength: sizeAt(footer.view, at + 16),
  });
  return {
    version: checkedVersion(footer),
    dictionaries: items(vectorField(footer, 2, 24), 24, block),
    batches: items(vectorField(footer, 3, 24), 24, block),
  };
}
