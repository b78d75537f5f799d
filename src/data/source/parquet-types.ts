/**
 * Parquet's types → Arrow's, and the plain values of a column as `columnData` takes them. The reader is asked only for the
 * stored numbers and bytes (`stored`), because its own conversion of decimals, times and map keys loses digits or order.
 * If the file has the Arrow schema that it was written from, types that Parquet cannot express come from there.
 *
 * https://github.com/apache/parquet-format/blob/master/LogicalTypes.md
 */
import {
  Binary,
  Bool,
  DataType,
  DateDay,
  Decimal,
  type Dictionary,
  Field,
  FixedSizeBinary,
  FixedSizeList,
  Float16,
  Float32,
  Float64,
  Int,
  LargeBinary,
  LargeList,
  LargeUtf8,
  List,
  Map_,
  Message,
  Null,
  type Schema,
  Struct,
  Time,
  Timestamp,
  TimeUnit,
  Type,
  Utf8,
} from "apache-arrow";
import type { FileMetaData, SchemaElement, SchemaTree } from "hyparquet";
import { checkSchema } from "../arrow/metadata.ts";
import { TypeConflict } from "../arrow/types.ts";

const isList = ({ element, children }: SchemaTree) =>
  (element.converted_type === "LIST" || element.logical_type?.type === "LIST") && children.length === 1;
const isMap = ({ element, children }: SchemaTree) =>
  (element.converted_type === "MAP" ||
    element.converted_type === "MAP_KEY_VALUE" ||
    element.logical_type?.type === "MAP") &&
  children[0]?.children.length === 2;
const isRepeated = ({ element }: SchemaTree) => element.repetition_type === "REPEATED";

/** The element of a list: inside a group, or, with old writers, the repeated field itself. */
function elementOf({ children }: SchemaTree): { readonly tree: SchemaTree; readonly isGroup: boolean } {
  const [repeated] = children;
  const isGroup = repeated!.children.length === 1;
  return { tree: isGroup ? repeated!.children[0]! : repeated!, isGroup };
}

/** The metadata without anything in the schema that would make the reader interpret stored values. */
export function stored(metadata: FileMetaData): FileMetaData {
  const schema = metadata.schema.map((element): SchemaElement => {
    const { converted_type: converted, logical_type: _, ...bare } = element;
    return converted === "LIST" && element.num_children === 1 ? { ...bare, converted_type: "LIST" } : bare;
  });
  return { ...metadata, schema };
}

/** @throws TypeConflict for a type that cannot be written here */
export function fieldOf(tree: SchemaTree, origin?: Field): Field {
  const repeated = isRepeated(tree);
  const own = typeOf(tree);
  const type = repeated ? new List(new Field("element", own, false)) : own;
  const metadata = tree.element.logical_type?.type === "UUID" ? uuid : undefined;
  const nullable = tree.element.repetition_type === "OPTIONAL";
  const field = new Field(tree.element.name, type, nullable, metadata);
  return origin === undefined ? field : restored(field, origin);
}

const uuid = new Map([["ARROW:extension:name", "arrow.uuid"]]);

function typeOf(tree: SchemaTree): DataType {
  const { element, children } = tree;
  if (isList(tree)) {
    const { tree: item, isGroup } = elementOf(tree);
    const inner = isGroup ? fieldOf(item) : new Field(item.element.name, typeOf(item), false);
    return new List(inner);
  }
  if (isMap(tree)) {
    const [key, value] = tree.children[0]!.children as [SchemaTree, SchemaTree];
    const entries = new Struct([
      fieldOf(key).clone({ name: "key", nullable: false }),
      fieldOf(value).clone({ name: "value" }),
    ]);
    return new Map_(new Field("entries", entries, false) as never);
  }
  if (children.length > 0) return new Struct(children.map((child) => fieldOf(child)));
  if (element.type === undefined) throw new TypeConflict("an empty group, which cannot be written");
  return leafType(element);
}

const finer = { MILLIS: TimeUnit.MILLISECOND, MICROS: TimeUnit.MICROSECOND, NANOS: TimeUnit.NANOSECOND } as const;

function leafType(element: SchemaElement): DataType {
  const { type, converted_type: converted, logical_type: logical, type_length: bytes = 0 } = element;
  if (logical?.type === "NULL") return new Null();
  if (logical?.type === "DECIMAL" || converted === "DECIMAL") return decimalOf(element);
  switch (type) {
    case "BOOLEAN":
      return new Bool();
    case "FLOAT":
      return new Float32();
    case "DOUBLE":
      return new Float64();
    case "INT96":
      return new Timestamp(TimeUnit.NANOSECOND);
    case "INT32":
    case "INT64":
      return wholeType(element, type === "INT32" ? 32 : 64);
    case "BYTE_ARRAY": {
      const isText =
        ["UTF8", "ENUM", "JSON"].includes(converted ?? "") || ["STRING", "ENUM", "JSON"].includes(logical?.type ?? "");
      return isText ? new Utf8() : new Binary();
    }
    case "FIXED_LEN_BYTE_ARRAY":
      if (converted === "INTERVAL") throw new TypeConflict("interval, which cannot be written");
      return logical?.type === "FLOAT16" ? new Float16() : new FixedSizeBinary(bytes);
    default:
      throw new TypeConflict(`${type}, which cannot be written`);
  }
}

function wholeType({ converted_type: converted, logical_type: logical }: SchemaElement, bits: 32 | 64): DataType {
  if (logical?.type === "DATE" || converted === "DATE") return new DateDay();
  if (logical?.type === "TIME") return new Time(finer[logical.unit], bits);
  if (logical?.type === "TIMESTAMP") return new Timestamp(finer[logical.unit], logical.isAdjustedToUTC ? "UTC" : null);
  if (logical?.type === "INTEGER") return new Int(logical.isSigned, logical.bitWidth as 8);
  switch (converted) {
    case "TIME_MILLIS":
      return new Time(finer.MILLIS, 32);
    case "TIME_MICROS":
      return new Time(finer.MICROS, 64);
    case "TIMESTAMP_MILLIS":
      return new Timestamp(finer.MILLIS, "UTC");
    case "TIMESTAMP_MICROS":
      return new Timestamp(finer.MICROS, "UTC");
  }
  const [, unsigned, width] = /^(U?)INT_(8|16|32|64)$/.exec(converted ?? "") ?? [];
  return width === undefined ? new Int(true, bits) : new Int(unsigned === "", Number(width) as 8);
}

/** Precisions that fit in 128 bits and 256 bits. */
const [DIGITS_128, DIGITS_256] = [38, 76];

function decimalOf({ logical_type: logical, scale, precision }: SchemaElement): DataType {
  const from = logical?.type === "DECIMAL" ? logical : { scale, precision };
  const digits = from.precision ?? 0;
  if (digits < 1 || digits > DIGITS_256)
    throw new TypeConflict(`a decimal of ${digits} digits, which cannot be written`);
  return new Decimal(from.scale ?? 0, digits, digits > DIGITS_128 ? 256 : 128);
}

/** The Arrow schema that pyarrow and others store beside Parquet's own; undefined if missing or invalid. */
export function originalSchema({ key_value_metadata: pairs }: FileMetaData): Schema | undefined {
  const text = pairs?.find(({ key }) => key === "ARROW:schema")?.value;
  if (text === undefined) return undefined;
  try {
    const bytes = Uint8Array.fromBase64(text);
    const start = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) === 0xffffffff ? 8 : 4;
    const metadata = bytes.slice(start);
    checkSchema(metadata, "message");
    return Message.decode(metadata).header() as Schema;
  } catch {
    return undefined;
  }
}

/** `field` with what Parquet cannot express of the original: metadata, and a type that is stored the same way. */
function restored(field: Field, origin: Field): Field {
  const metadata = new Map([...field.metadata, ...origin.metadata]);
  return field.clone({ type: restoredType(field.type, origin.type), metadata });
}

function restoredType(type: DataType, origin: DataType): DataType {
  const items = () => restored(type.children[0] as Field, origin.children[0] as Field);
  switch (origin.typeId) {
    case Type.Dictionary:
      return restoredType(type, (origin as Dictionary).dictionary);
    case Type.LargeUtf8:
      return DataType.isUtf8(type) ? new LargeUtf8() : type;
    case Type.LargeBinary:
      return DataType.isBinary(type) ? new LargeBinary() : type;
    case Type.Decimal: {
      const { scale, precision, bitWidth } = origin as Decimal;
      const same = DataType.isDecimal(type) && type.scale === scale && type.precision === precision;
      return same ? new Decimal(scale, precision, bitWidth) : type;
    }
    case Type.Duration:
      return DataType.isInt(type) && type.isSigned && type.bitWidth === 64 ? origin : type;
    case Type.Timestamp:
      if (!DataType.isTimestamp(type) || !type.timezone || !(origin as Timestamp).timezone) return type;
      return new Timestamp(type.unit, (origin as Timestamp).timezone);
    case Type.List:
      return DataType.isList(type) ? new List(items()) : type;
    case Type.LargeList:
      return DataType.isList(type) ? new LargeList(items()) : type;
    case Type.FixedSizeList:
      return DataType.isList(type) ? new FixedSizeList((origin as FixedSizeList).listSize, items()) : type;
    case Type.Struct: {
      if (!DataType.isStruct(type)) return type;
      const origins = new Map((origin.children as Field[]).map((field) => [field.name, field]));
      return new Struct(
        (type.children as Field[]).map((field) => {
          const from = origins.get(field.name);
          return from === undefined ? field : restored(field, from);
        }),
      );
    }
    case Type.Map: {
      if (!DataType.isMap(type)) return type;
      const [entries, from] = [type.children[0] as Field, origin.children[0] as Field];
      const [key, value] = entries.type.children as Field[];
      const [fromKey, fromValue] = from.type.children as Field[];
      const struct = new Struct([restored(key!, fromKey!), restored(value!, fromValue!)]);
      return new Map_(entries.clone({ type: struct }) as never, (origin as Map_).keysSorted);
    }
    default:
      return type;
  }
}

/** The reader's values for `tree` after `stored`, as values of the type that `fieldOf` found. */
export function plainValue(value: unknown, tree: SchemaTree): unknown {
  if (!isRepeated(tree)) return plainItem(value, tree);
  return value === null || value === undefined
    ? []
    : Array.from(value as Iterable<unknown>, (item) => plainItem(item, tree));
}

function plainItem(value: unknown, tree: SchemaTree): unknown {
  if (value === null || value === undefined) return null;
  const { element, children } = tree;
  if (isList(tree)) {
    const { tree: item, isGroup } = elementOf(tree);
    const one = isGroup ? plainValue : plainItem;
    return Array.from(value as Iterable<unknown>, (inner) => one(inner, item));
  }
  if (isMap(tree)) {
    const [key, entry] = children[0]!.children as [SchemaTree, SchemaTree];
    const entries = (value as Record<string, unknown>)[children[0]!.element.name] as Record<string, unknown>[];
    return entries.map((pair) => ({
      key: plainValue(pair[key.element.name], key),
      value: plainValue(pair[entry.element.name], entry),
    }));
  }
  if (children.length > 0) {
    const struct = value as Record<string, unknown>;
    return Object.fromEntries(
      children.map((child) => [child.element.name, plainValue(struct[child.element.name], child)]),
    );
  }
  return leafValue(value, element);
}

function leafValue(value: unknown, { type, converted_type: converted, logical_type: logical }: SchemaElement): unknown {
  if (logical?.type === "NULL") return null;
  if (logical?.type === "DECIMAL" || converted === "DECIMAL")
    return value instanceof Uint8Array ? bigEndian(value) : BigInt(value as number);
  if (type === "INT96") return nanosecondsOf(value as bigint);
  if (type !== "INT32" && type !== "INT64") return value;
  const isUnsigned = logical?.type === "INTEGER" ? !logical.isSigned : (converted?.startsWith("UINT") ?? false);
  if (!isUnsigned) return value;
  return typeof value === "bigint" ? BigInt.asUintN(64, value) : (value as number) >>> 0;
}

/** A signed whole number, its highest byte first. */
function bigEndian(bytes: Uint8Array): bigint {
  if (bytes.length === 0) return 0n;
  return BigInt.asIntN(bytes.length * 8, BigInt(`0x${bytes.toHex()}`));
}

/** Julian day of 1970-01-01, and nanoseconds in a day. */
const [EPOCH_DAY, DAY_NANOSECONDS] = [2_440_588n, 86_400_000_000_000n];

/** INT96: the day in the upper 32 bits, nanoseconds of the day in the lower 64. */
function nanosecondsOf(value: bigint): bigint {
  return ((value >> 64n) - EPOCH_DAY) * DAY_NANOSECONDS + BigInt.asUintN(64, value);
}
