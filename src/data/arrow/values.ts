/**
 * Arrow columns → plain JavaScript values: strings, numbers, booleans, null, arrays, objects, bytes. Whole numbers become
 * numbers if exact and bigint past 2^53; dates and timestamps ISO text with as many digits as their unit has; times of
 * day and durations a count of units; decimals text; maps a list of keys and values; null is null at every level. Also
 * the names of types, in pyarrow's words.
 */
import {
  type Data,
  type DataType,
  type Date_,
  type Decimal,
  type Dictionary,
  type Duration,
  type Field,
  type FixedSizeBinary,
  type FixedSizeList,
  type Float,
  type Interval,
  IntervalUnit,
  type Time,
  type Timestamp,
  type TimeUnit,
  Type,
  type Union,
  UnionMode,
} from "apache-arrow";
import { instance as getter } from "apache-arrow/visitor/get";
import { DamagedColumn, isNull } from "./check.ts";

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
    case Type.Utf8View:
      return decodeText(viewAt(data, index));
    case Type.BinaryView:
      return viewAt(data, index).slice();
    case Type.FixedSizeBinary:
      return data.values.slice(index * data.stride, (index + 1) * data.stride);
    case Type.Timestamp:
      return timestampText(data.values[index] as bigint, (data.type as Timestamp).unit);
    case Type.Date:
      return isoText(getter.visit(data, index));
    case Type.Union:
      return memberAt(data, index);
    case Type.Decimal:
      return decimalText(decimalAt(data, index), (data.type as Decimal).scale);
    case Type.Interval:
      return intervalAt(data, index);
    default:
      return plain(getter.visit(data, index));
  }
}

function bytesOf(data: Data, index: number): Uint8Array {
  return data.values.subarray(Number(data.valueOffsets[index]!), Number(data.valueOffsets[index + 1]!));
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Invalid UTF-8 becomes U+FFFD, as everywhere on the web. */
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

/** Entry `index` of a column's dictionary, which may consist of several pieces. */
function entryAt(data: Data, index: number): unknown {
  let rest = index;
  for (const piece of data.dictionary?.data ?? []) {
    if (rest >= 0 && rest < piece.length) return valueAt(piece, rest);
    rest -= piece.length;
  }
  throw new DamagedColumn(`entry ${index} of a dictionary of ${data.dictionary?.length ?? 0}`);
}

/** A view: its length, then the text itself if up to 12 bytes, else its first 4 bytes and its buffer and offset. */
function viewAt(data: Data, index: number): Uint8Array {
  const { values, variadicBuffers = [] } = data as Data & { variadicBuffers?: readonly Uint8Array[] };
  const at = index * 16;
  const view = new DataView(values.buffer, values.byteOffset, values.byteLength);
  const length = view.getInt32(at, true);
  if (length <= 12) return values.subarray(at + 4, at + 4 + Math.max(0, length));
  const [buffer, offset] = [view.getInt32(at + 8, true), view.getInt32(at + 12, true)];
  const bytes = variadicBuffers[buffer];
  if (bytes === undefined || offset < 0 || offset + length > bytes.length)
    throw new DamagedColumn(`value ${index} lies beyond its data`);
  return bytes.subarray(offset, offset + length);
}

/** The value of the type that a union has at `index`. */
function memberAt(data: Data, index: number): unknown {
  const typeId = (data.typeIds as Int8Array)[index];
  const member = data.children[(data.type as Union).typeIds.indexOf(typeId as number)];
  const dense = (data.type as Union).mode === UnionMode.Dense;
  const within = dense ? Number(data.valueOffsets[index]) : index;
  if (member === undefined || !(within >= 0 && within < member.length))
    throw new DamagedColumn(`value ${index} of a union lies in none of its types`);
  return valueAt(member, within);
}

/** Digits after the seconds, by unit: s, ms, us, ns. */
const unitDigits = [0, 3, 6, 9];

/** ISO text to the unit's last digit, and at least to milliseconds. */
function timestampText(value: bigint, unit: TimeUnit): string | number | bigint {
  const digits = unitDigits[unit]!;
  if (digits <= 3) return isoText(exactNumber(digits === 0 ? value * 1000n : value));
  const perMilli = 10n ** BigInt(digits - 3);
  const below = ((value % perMilli) + perMilli) % perMilli;
  const text = isoText(exactNumber((value - below) / perMilli));
  const rest = String(below)
    .padStart(digits - 3, "0")
    .replace(/0+$/, "");
  return typeof text === "string" ? text.replace("Z", `${rest}Z`) : exactNumber(value);
}

function isoText(milliseconds: unknown): string | number | bigint {
  if (typeof milliseconds === "bigint") return milliseconds;
  const time = Number(milliseconds);
  return Math.abs(time) <= 8.64e15 ? new Date(time).toISOString() : time;
}

/** No decimal type has more digits than the 76 of decimal256. */
const MAX_SCALE = 76;

/** Two's complement of the type's width, in words of 32 bits, the lowest first. */
function decimalAt({ values, stride, type }: Data, index: number): bigint {
  let unscaled = 0n;
  for (let word = stride - 1; word >= 0; word--) unscaled = (unscaled << 32n) | BigInt(values[index * stride + word]!);
  return BigInt.asIntN((type as Decimal).bitWidth, unscaled);
}

function intervalAt({ values, stride, type }: Data, index: number): unknown {
  const [first, second, low, high] = (values as Int32Array).subarray(index * stride, (index + 1) * stride);
  switch ((type as Interval).unit) {
    case IntervalUnit.YEAR_MONTH:
      return first;
    case IntervalUnit.DAY_TIME:
      return { days: first, milliseconds: second };
    default:
      return {
        months: first,
        days: second,
        nanoseconds: exactNumber((BigInt(high!) << 32n) | BigInt.asUintN(32, BigInt(low!))),
      };
  }
}

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

/** As a number if nothing is lost. */
function exactNumber(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

const units = ["s", "ms", "us", "ns"];

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
    case Type.LargeBinary:
      return "large_binary";
    case Type.BinaryView:
      return "binary_view";
    case Type.FixedSizeBinary:
      return `fixed_size_binary[${(type as FixedSizeBinary).byteWidth}]`;
    case Type.Date:
      return (type as Date_).unit === 0 ? "date32[day]" : "date64[ms]";
    case Type.Time:
      return `time${(type as Time).bitWidth}[${units[(type as Time).unit]}]`;
    case Type.Timestamp: {
      const { unit, timezone } = type as Timestamp;
      return `timestamp[${units[unit]}${timezone ? `, tz=${timezone}` : ""}]`;
    }
    case Type.Duration:
      return `duration[${units[(type as Duration).unit]}]`;
    case Type.Float:
      return ["halffloat", "float", "double"][(type as Float).precision] ?? "double";
    case Type.List:
      return `list<${inner[0]}>`;
    case Type.LargeList:
      return `large_list<${inner[0]}>`;
    case Type.FixedSizeList:
      return `fixed_size_list<${inner[0]}>[${(type as FixedSizeList).listSize}]`;
    case Type.Struct:
      return `struct<${children.map((field, i) => `${field.name}: ${inner[i]}`).join(", ")}>`;
    case Type.Dictionary:
      return `dictionary<${typeName((type as Dictionary).dictionary)}>`;
    case Type.Map: {
      const [key, value] = children[0]!.type.children as Field[];
      return `map<${typeName(key!.type)}, ${typeName(value!.type)}>`;
    }
    case Type.Decimal:
      return `decimal${(type as Decimal).bitWidth}(${(type as Decimal).precision}, ${(type as Decimal).scale})`;
    case Type.Interval:
      return ["interval[year_month]", "interval[day_time]", "month_day_nano_interval"][(type as Interval).unit]!;
    case Type.Union: {
      const { mode, typeIds } = type as Union;
      const members = children.map((field, i) => `${field.name}: ${inner[i]}=${typeIds[i]}`);
      return `${mode === UnionMode.Dense ? "dense" : "sparse"}_union<${members.join(", ")}>`;
    }
    default:
      return String(type).toLowerCase();
  }
}
