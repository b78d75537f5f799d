/**
 * Arrow columns → plain JavaScript values: strings, numbers, booleans, null, arrays, objects, bytes. Whole numbers come as
 * numbers where they are exact and as bigint past 2^53; dates as ISO text; decimals as text; maps as a list of key and
 * value; a null is null at every level. Also how types are called, in pyarrow's words.
 */
import {
  type Data,
  type DataType,
  type Decimal,
  type Dictionary,
  type Field,
  type Float,
  Type,
  util,
} from "apache-arrow";
import { instance as getter } from "apache-arrow/visitor/get";
import { DamagedColumn } from "./check.ts";

/** Value `index` of a column that `checkColumn` has passed. The result shares no memory with the column. */
export function valueAt(data: Data, index: number): unknown {
  if (isNull(data, index)) return null;
  switch (data.typeId) {
    case Type.Bool:
      return ((data.values[index >> 3]! >> (index & 7)) & 1) === 1;
    case Type.Utf8:
    case Type.LargeUtf8:
      return decodeText(bytesOf(data, index));
    case Type.Binary:
    case Type.LargeBinary:
      return bytesOf(data, index).slice();
    case Type.List:
    case Type.LargeList:
      return listAt(data, Number(data.valueOffsets[index]!), Number(data.valueOffsets[index + 1]!));
    case Type.Map:
      return entriesAt(data, Number(data.valueOffsets[index]!), Number(data.valueOffsets[index + 1]!));
    case Type.FixedSizeList:
      return listAt(data, index * data.stride, (index + 1) * data.stride);
    case Type.Struct:
      return structAt(data, index);
    case Type.Dictionary:
      return entryAt(data, Number(data.values[index]!));
    case Type.Timestamp:
    case Type.Date:
      return isoText(getter.visit(data, index));
    case Type.Decimal:
      return decimalText(BigInt(util.bigNumToString(getter.visit(data, index))), (data.type as Decimal).scale);
    default:
      return plain(getter.visit(data, index));
  }
}

function isNull(data: Data, index: number): boolean {
  if (data.typeId === Type.Null) return true;
  if (data.typeId === Type.Union) return false; // its children have the nulls
  return data.nullCount > 0 && ((data.nullBitmap[index >> 3]! >> (index & 7)) & 1) === 0;
}

function bytesOf(data: Data, index: number): Uint8Array {
  return data.values.subarray(Number(data.valueOffsets[index]!), Number(data.valueOffsets[index + 1]!));
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Bytes that are no UTF-8 become U+FFFD, as everywhere on the web. */
function decodeText(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

function listAt(data: Data, begin: number, end: number): unknown[] {
  const child = data.children[0]!;
  return Array.from({ length: end - begin }, (_, i) => valueAt(child, begin + i));
}

function structAt(data: Data, index: number): Record<string, unknown> {
  const fields: Field[] = data.type.children;
  return Object.fromEntries(fields.map(({ name }, i) => [name, valueAt(data.children[i]!, index)]));
}

/** A map's entries under their usual names, whatever the file calls them. */
function entriesAt(data: Data, begin: number, end: number): { key: unknown; value: unknown }[] {
  const [keys, values] = data.children[0]!.children;
  return Array.from({ length: end - begin }, (_, i) => ({
    key: valueAt(keys!, begin + i),
    value: valueAt(values!, begin + i),
  }));
}

/** Entry `index` of a column's dictionary, which may lie in several pieces. */
function entryAt(data: Data, index: number): unknown {
  let rest = index;
  for (const piece of data.dictionary?.data ?? []) {
    if (rest >= 0 && rest < piece.length) return valueAt(piece, rest);
    rest -= piece.length;
  }
  throw new DamagedColumn(`entry ${index} of a dictionary of ${data.dictionary?.length ?? 0}`);
}

function isoText(milliseconds: unknown): string | number {
  const time = Number(milliseconds);
  return Math.abs(time) <= 8.64e15 ? new Date(time).toISOString() : time;
}

/** No decimal type has more digits than the 76 of decimal256. */
const MAX_SCALE = 76;

function decimalText(unscaled: bigint, scale: number): string {
  if (Math.abs(scale) > MAX_SCALE) throw new DamagedColumn(`a decimal with ${scale} places`);
  if (scale <= 0) return String(unscaled * 10n ** BigInt(-scale));
  const digits = String(unscaled < 0n ? -unscaled : unscaled).padStart(scale + 1, "0");
  return `${unscaled < 0n ? "-" : ""}${digits.slice(0, -scale)}.${digits.slice(-scale)}`;
}

function plain(value: unknown): unknown {
  if (typeof value === "bigint") return exactNumber(value);
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) return (value as Uint8Array).slice();
  if (value === undefined) throw new DamagedColumn("fewer values than it should");
  return value;
}

/** A number where nothing is lost. */
export function exactNumber(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/** The type as pyarrow prints it: "string", "int64", "list<struct<role: string, content: string>>". */
export function typeName(type: DataType): string {
  const children = (type.children ?? []) as Field[];
  const inner = children.map((field) => typeName(field.type));
  switch (type.typeId) {
    case Type.Utf8:
      return "string";
    case Type.LargeUtf8:
      return "large_string";
    case Type.Utf8View:
      return "string_view";
    case Type.Float:
      return ["halffloat", "float", "double"][(type as Float).precision] ?? "double";
    case Type.List:
      return `list<${inner[0]}>`;
    case Type.LargeList:
      return `large_list<${inner[0]}>`;
    case Type.FixedSizeList:
      return `fixed_size_list<${inner[0]}>`;
    case Type.Struct:
      return `struct<${children.map((field, i) => `${field.name}: ${inner[i]}`).join(", ")}>`;
    case Type.Dictionary:
      return `dictionary<${typeName((type as Dictionary).dictionary)}>`;
    case Type.Map: {
      const [key, value] = children[0]!.type.children as Field[];
      return `map<${typeName(key!.type)}, ${typeName(value!.type)}>`;
    }
    case Type.Decimal:
      return `decimal(${(type as Decimal).precision}, ${(type as Decimal).scale})`;
    default:
      return String(type).toLowerCase();
  }
}
