/**
 * The few column types that a written file has, inferred from plain values or taken over from Arrow types: null, bool,
 * int64, float64, string, list and struct, every one of them nullable. Leaves out the writing (write.ts).
 */
import { Bool, type DataType, Field, Float64, Int64, List, Null, Struct, Type, Utf8 } from "apache-arrow";

export type ColumnType =
  | { readonly kind: "null" | "bool" | "int64" | "float64" | "string" }
  | { readonly kind: "list"; readonly item: ColumnType }
  | { readonly kind: "struct"; readonly fields: ReadonlyMap<string, ColumnType> };

/** Two values, or a value and a type, that cannot stand in one column; the caller adds the place. */
export class TypeConflict extends Error {}

const nothing: ColumnType = { kind: "null" };

/** The type of a plain value; whole numbers are int64 while a double holds them exactly. */
export function typeOfValue(value: unknown): ColumnType {
  if (value === null || value === undefined) return nothing;
  switch (typeof value) {
    case "string":
      return { kind: "string" };
    case "boolean":
      return { kind: "bool" };
    case "bigint":
      return { kind: BigInt.asIntN(64, value) === value ? "int64" : "float64" };
    case "number":
      return { kind: Number.isSafeInteger(value) && !Object.is(value, -0) ? "int64" : "float64" };
  }
  if (Array.isArray(value)) return { kind: "list", item: value.map(typeOfValue).reduce(mergeTypes, nothing) };
  if (ArrayBuffer.isView(value)) throw new TypeConflict("bytes, which are not written");
  return { kind: "struct", fields: new Map(Object.entries(value as object).map(([k, v]) => [k, typeOfValue(v)])) };
}

/**
 * The type that holds values of both: null gives way, int64 widens to float64, structs take each other's fields.
 * @throws TypeConflict for any other two
 */
export function mergeTypes(a: ColumnType, b: ColumnType): ColumnType {
  if (a.kind === "null") return b;
  if (b.kind === "null") return a;
  if (a.kind === "list" && b.kind === "list") return { kind: "list", item: mergeTypes(a.item, b.item) };
  if (a.kind === "struct" && b.kind === "struct") return { kind: "struct", fields: mergeFields(a.fields, b.fields) };
  if (a.kind === b.kind) return a;
  const pair = [a.kind, b.kind];
  if (pair.includes("int64") && pair.includes("float64")) return { kind: "float64" };
  throw new TypeConflict(`${describeType(b)} here but ${describeType(a)} before`);
}

/** @throws TypeConflict that names the field */
export function mergeFields(
  a: ReadonlyMap<string, ColumnType>,
  b: ReadonlyMap<string, ColumnType>,
): ReadonlyMap<string, ColumnType> {
  const merged = new Map(a);
  for (const [name, type] of b) {
    const before = a.get(name);
    try {
      merged.set(name, before === undefined ? type : mergeTypes(before, type));
    } catch (error) {
      if (error instanceof TypeConflict) throw new TypeConflict(`"${name}": ${error.message}`);
      throw error;
    }
  }
  return merged;
}

export function describeType(type: ColumnType): string {
  if (type.kind === "list") return `a list of ${describeType(type.item)}`;
  return type.kind === "struct" ? "an object" : type.kind;
}

/** The type that values read from an Arrow column are written as (see values.ts for what they are read as). */
export function typeOfArrow(type: DataType): ColumnType {
  const children = (type.children ?? []) as Field[];
  switch (type.typeId) {
    case Type.Null:
      return nothing;
    case Type.Bool:
      return { kind: "bool" };
    case Type.Int:
    case Type.Time:
    case Type.Duration:
      return { kind: "int64" };
    case Type.Float:
      return { kind: "float64" };
    case Type.Utf8:
    case Type.LargeUtf8:
    case Type.Utf8View:
    case Type.Timestamp:
    case Type.Date:
    case Type.Decimal:
      return { kind: "string" };
    case Type.Dictionary:
      return typeOfArrow((type as unknown as { dictionary: DataType }).dictionary);
    case Type.List:
    case Type.LargeList:
    case Type.FixedSizeList:
      return { kind: "list", item: typeOfArrow(children[0]!.type) };
    case Type.Struct:
      return { kind: "struct", fields: new Map(children.map((field) => [field.name, typeOfArrow(field.type)])) };
    case Type.Map: {
      const [key, value] = children[0]!.type.children as Field[];
      const fields = new Map([key!, value!].map((field, i) => [i === 0 ? "key" : "value", typeOfArrow(field.type)]));
      return { kind: "list", item: { kind: "struct", fields } };
    }
    default:
      throw new TypeConflict(`${String(type).toLowerCase()}, which is not written`);
  }
}

export function arrowType(type: ColumnType): DataType {
  switch (type.kind) {
    case "null":
      return new Null();
    case "bool":
      return new Bool();
    case "int64":
      return new Int64();
    case "float64":
      return new Float64();
    case "string":
      return new Utf8();
    case "list":
      return new List(new Field("item", arrowType(type.item), true));
    case "struct":
      return new Struct([...type.fields].map(([name, field]) => new Field(name, arrowType(field), true)));
  }
}
