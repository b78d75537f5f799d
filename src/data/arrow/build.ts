/**
 * Plain values → one column in Arrow's layout, in the type of its field. Values from JSON are strings, numbers, bigints,
 * lists and objects; values from a file with a schema are the numbers and bytes of that schema: a timestamp is its count
 * of units, a decimal its unscaled whole number, text may be its bytes. A value that does not fit its type is refused,
 * never rounded.
 */
import {
  type Data,
  type DataType,
  type Decimal,
  type Field,
  type FixedSizeBinary,
  type FixedSizeList,
  type Float,
  type Int,
  makeData,
  Type,
} from "apache-arrow";
import { JsonNumber } from "../json-text.ts";
import { TypeConflict } from "./types.ts";

export type Row = Readonly<Record<string, unknown>>;

/** A row without the column has null there, even if the column has the name of something that every object inherits. */
export function cellOf(row: Row, name: string): unknown {
  return Object.hasOwn(row, name) ? row[name] : null;
}

/** The common interface of typed arrays, for `fill`. */
interface NumberArray {
  readonly length: number;
  [index: number]: number | bigint;
}

/**
 * The values of one column. `what` names it in errors.
 * @throws TypeConflict for a value that does not fit
 */
export function columnData(type: DataType, values: readonly unknown[], what: string): Data {
  const length = values.length;
  const { nullCount, nullBitmap } = nullsOf(values);
  const shared = { type, length, nullCount, nullBitmap };
  const flat = (data: ArrayBufferView) => makeData({ ...shared, data } as never);
  const wholes = (isSigned: boolean, bits: number) => {
    const one = (value: unknown) => wholeOf(value, isSigned, bits, what);
    const into = new type.ArrayType(length) as NumberArray;
    return flat(fill(into, values, bits === 64 ? one : (value) => Number(one(value))));
  };
  switch (type.typeId) {
    case Type.Null:
      if (nullCount < length) throw new TypeConflict(`${what} has a value where every other row has none`);
      return makeData({ type, length } as never);
    case Type.Bool: {
      const data = new Uint8Array(Math.ceil(length / 8));
      for (let i = 0; i < length; i++) if (boolOf(values[i], what)) data[i >> 3]! |= 1 << (i & 7);
      return flat(data);
    }
    case Type.Int:
      return wholes((type as Int).isSigned, (type as Int).bitWidth);
    case Type.Float:
      return flat(floatsOf(type as Float, values, what));
    case Type.Date:
    case Type.Time:
    case Type.Timestamp:
    case Type.Duration:
      return wholes(true, type.ArrayType === BigInt64Array ? 64 : 32);
    case Type.Decimal:
      return flat(decimalsOf(type as Decimal, values, what));
    case Type.Utf8:
    case Type.Binary:
    case Type.LargeUtf8:
    case Type.LargeBinary: {
      const large = type.typeId === Type.LargeUtf8 || type.typeId === Type.LargeBinary;
      const isText = type.typeId === Type.Utf8 || type.typeId === Type.LargeUtf8;
      const { ends, data } = isText ? textBuffers(values, what) : bytesBuffers(values, what);
      return makeData({ ...shared, valueOffsets: large ? BigInt64Array.from(ends, BigInt) : ends, data } as never);
    }
    case Type.FixedSizeBinary: {
      const { byteWidth } = type as FixedSizeBinary;
      const data = new Uint8Array(length * byteWidth);
      values.forEach((value, i) => {
        const bytes = bytesOf(value, what);
        if (!absent(value) && bytes.length !== byteWidth) throw unfit(value, `${byteWidth} bytes`, what);
        data.set(bytes, i * byteWidth);
      });
      return flat(data);
    }
    case Type.List:
    case Type.LargeList:
    case Type.Map: {
      const lists = values.map((value) => listOf(value, what));
      const child = columnData((type.children[0] as Field).type, lists.flat(), what);
      const ends = offsetsOf(lists.map((list) => list.length));
      const valueOffsets = type.typeId === Type.LargeList ? BigInt64Array.from(ends, BigInt) : ends;
      return makeData({ ...shared, valueOffsets, child } as never);
    }
    case Type.FixedSizeList: {
      const { listSize } = type as FixedSizeList;
      const items = values.flatMap((value) => {
        if (absent(value)) return Array(listSize).fill(null);
        const list = listOf(value, what);
        if (list.length !== listSize) throw unfit(value, `lists of ${listSize}`, what);
        return list;
      });
      return makeData({ ...shared, child: columnData((type.children[0] as Field).type, items, what) } as never);
    }
    case Type.Struct: {
      const structs = values.map((value) => structOf(value, what));
      const children = (type.children as Field[]).map((field) =>
        columnData(
          field.type,
          structs.map((struct) => cellOf(struct, field.name)),
          `${what}.${field.name}`,
        ),
      );
      return makeData({ ...shared, children } as never);
    }
    default:
      throw new TypeConflict(`${what} is ${String(type).toLowerCase()}, which cannot be written`);
  }
}

function nullsOf(values: readonly unknown[]): { nullCount: number; nullBitmap: Uint8Array } {
  const nullBitmap = new Uint8Array(Math.ceil(values.length / 8));
  let nullCount = 0;
  for (let i = 0; i < values.length; i++) {
    if (absent(values[i])) nullCount++;
    else nullBitmap[i >> 3]! |= 1 << (i & 7);
  }
  return { nullCount, nullBitmap: nullCount === 0 ? new Uint8Array(0) : nullBitmap };
}

function fill<T extends NumberArray>(into: T, values: readonly unknown[], read: (value: unknown) => number | bigint) {
  for (let i = 0; i < values.length; i++) into[i] = read(values[i]);
  return into as unknown as ArrayBufferView;
}

function offsetsOf(lengths: readonly number[]): Int32Array {
  const offsets = new Int32Array(lengths.length + 1);
  for (let i = 0; i < lengths.length; i++) offsets[i + 1] = offsets[i]! + lengths[i]!;
  return offsets;
}

interface Pieces {
  readonly ends: Int32Array;
  readonly data: Uint8Array;
}

/** All texts are encoded at once; one by one takes several times as long. */
function textBuffers(values: readonly unknown[], what: string): Pieces {
  if (values.some((value) => value instanceof Uint8Array)) return bytesBuffers(values, what);
  const texts = values.map((value) => stringOf(value, what));
  return {
    ends: offsetsOf(texts.map((text) => Buffer.byteLength(text, "utf8"))),
    data: Buffer.from(texts.join(""), "utf8"),
  };
}

function bytesBuffers(values: readonly unknown[], what: string): Pieces {
  const pieces = values.map((value) => bytesOf(value, what));
  return { ends: offsetsOf(pieces.map((bytes) => bytes.length)), data: Buffer.concat(pieces) };
}

/** Whole units of `scale` as two's complement of the type's width, least byte first. */
function decimalsOf({ bitWidth, precision }: Decimal, values: readonly unknown[], what: string): Uint32Array {
  const words = bitWidth / 32;
  const data = new Uint32Array(values.length * words);
  const limit = 10n ** BigInt(precision);
  values.forEach((value, i) => {
    let rest = wholeOf(value, true, bitWidth, what);
    if (rest >= limit || rest <= -limit) throw unfit(value, `decimals of ${precision} digits`, what);
    for (let word = 0; word < words; word++, rest >>= 32n) data[i * words + word] = Number(BigInt.asUintN(32, rest));
  });
  return data;
}

const HALF = 0;
const SINGLE = 1;

/** A half is given as its two bytes; a number that does not fit a single is refused. */
function floatsOf({ precision }: Float, values: readonly unknown[], what: string): ArrayBufferView {
  if (precision === HALF)
    return Uint16Array.from(values, (value) => {
      const [low = 0, high = 0] = bytesOf(value, what);
      return low | (high << 8);
    });
  if (precision !== SINGLE) return Float64Array.from(values, (value) => floatOf(value, what));
  return Float32Array.from(values, (value) => {
    const single = floatOf(value, what);
    if (!Object.is(Math.fround(single), single)) throw unfit(value, "float32", what);
    return single;
  });
}

function unfit(value: unknown, wanted: string, what: string): TypeConflict {
  const found =
    value instanceof Uint8Array
      ? `${value.length} bytes`
      : typeof value === "object"
        ? Array.isArray(value)
          ? "a list"
          : "an object"
        : `${typeof value} ${value}`;
  return new TypeConflict(`${what} is ${found.slice(0, 60)} where the column has ${wanted}`);
}

const absent = (value: unknown) => value === null || value === undefined;

function boolOf(value: unknown, what: string): boolean {
  if (absent(value)) return false;
  if (typeof value !== "boolean") throw unfit(value, "bool", what);
  return value;
}

function wholeOf(value: unknown, isSigned: boolean, bits: number, what: string): bigint {
  if (absent(value)) return 0n;
  const whole = typeof value === "number" && Number.isInteger(value) ? BigInt(value) : value;
  const wrap = isSigned ? BigInt.asIntN : BigInt.asUintN;
  if (typeof whole !== "bigint" || wrap(bits, whole) !== whole)
    throw unfit(value, `${isSigned ? "int" : "uint"}${bits}`, what);
  return whole;
}

function floatOf(value: unknown, what: string): number {
  if (absent(value)) return 0;
  const number = Number(value);
  const whole = typeof value === "bigint" && BigInt(number) === value;
  if (typeof value !== "number" && !whole && !(value instanceof JsonNumber)) throw unfit(value, "float64", what);
  return number;
}

function stringOf(value: unknown, what: string): string {
  if (absent(value)) return "";
  if (typeof value !== "string") throw unfit(value, "string", what);
  return value;
}

function bytesOf(value: unknown, what: string): Uint8Array {
  if (absent(value)) return new Uint8Array(0);
  if (typeof value === "string") return Buffer.from(value, "utf8");
  if (!(value instanceof Uint8Array)) throw unfit(value, "bytes", what);
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
