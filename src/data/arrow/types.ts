/**
 * The column types of JSON values: null, bool, int64, uint64, float64, string, list and struct, all of them nullable.
 * Leaves out columns from a schema, which keep their own types, and writing (write.ts).
 */
import { Bool, type DataType, Field, Float64, Int64, List, Null, Struct, Uint64, Utf8 } from "apache-arrow";
import { JsonNumber } from "../json-text.ts";

export type ColumnType =
  | { readonly kind: "null" | "bool" | "uint64" | "float64" | "string" }
  | {
      readonly kind: "int64";
      /** Past 2^53, where a double cannot hold every whole number. */
      readonly wide?: boolean;
      readonly negative?: boolean;
    }
  | { readonly kind: "list"; readonly item: ColumnType }
  | { readonly kind: "struct"; readonly fields: ReadonlyMap<string, ColumnType> };

/** Two values, or a value and a type, that do not fit into one column; the caller adds the position. */
export class TypeConflict extends Error {
  /** Whether the values can be kept as JSON, as they are written. */
  readonly keepable: boolean;

  constructor(message: string, { keepable = true } = {}) {
    super(message);
    this.keepable = keepable;
  }
}

const nothing: ColumnType = { kind: "null" };
const text: ColumnType = { kind: "string" };
const truth: ColumnType = { kind: "bool" };
const real: ColumnType = { kind: "float64" };
const whole: ColumnType = { kind: "int64" };
const negative: ColumnType = { kind: "int64", negative: true };

/** As Arrow files are read here; see arrow/metadata.ts. */
const MAX_DEPTH = 60;

/**
 * The type of a plain value; whole numbers are int64 if a double holds them exactly, and as bigint.
 * @throws TypeConflict for a value that no column can hold
 */
export function typeOfValue(value: unknown, depth = 0): ColumnType {
  if (value === null || value === undefined) return nothing;
  switch (typeof value) {
    case "string":
      if (!value.isWellFormed())
        throw new TypeConflict("half of a surrogate pair in a text, which UTF-8 cannot encode");
      return text;
    case "boolean":
      return truth;
    case "bigint":
      return typeOfBigint(value);
    case "number":
      if (!Number.isSafeInteger(value) || Object.is(value, -0)) return real;
      return value < 0 ? negative : whole;
  }
  if (depth > MAX_DEPTH) throw new TypeConflict(`values nested deeper than ${MAX_DEPTH} levels`, { keepable: false });
  if (Array.isArray(value)) {
    let item = nothing;
    for (const inner of value) item = mergeTypes(item, typeOfValue(inner, depth + 1));
    return { kind: "list", item };
  }
  if (ArrayBuffer.isView(value)) throw new TypeConflict("bytes, which JSON has not", { keepable: false });
  if (value instanceof JsonNumber) {
    if (!value.fits) throw new TypeConflict(`${shortened(value.text)}, which no double is close to`);
    return real;
  }
  const fields = Object.entries(value as object).map(([name, inner]) => [name, typeOfValue(inner, depth + 1)] as const);
  return { kind: "struct", fields: new Map(fields) };
}

function typeOfBigint(value: bigint): ColumnType {
  if (BigInt.asIntN(64, value) === value) return { kind: "int64", wide: true, negative: value < 0n };
  if (BigInt.asUintN(64, value) === value) return { kind: "uint64" };
  throw new TypeConflict(`${shortened(String(value))}, which does not fit in 64 bits`);
}

const shortened = (digits: string) => (digits.length > 40 ? `${digits.slice(0, 40)}…` : digits);

/**
 * The type that holds values of both: null yields to any other, int64 widens to uint64 and, up to 2^53, to float64;
 * structs merge their fields.
 * @throws TypeConflict for any other pair
 */
export function mergeTypes(a: ColumnType, b: ColumnType): ColumnType {
  if (a === b || b.kind === "null") return a;
  if (a.kind === "null") return b;
  if (a.kind === "list" && b.kind === "list") return { kind: "list", item: mergeTypes(a.item, b.item) };
  if (a.kind === "struct" && b.kind === "struct") return { kind: "struct", fields: mergeFields(a.fields, b.fields) };
  if (a.kind === "int64" && b.kind === "int64") {
    const wide = (a.wide ?? false) || (b.wide ?? false);
    if (!wide) return a.negative ? a : b;
    return { kind: "int64", wide, negative: (a.negative ?? false) || (b.negative ?? false) };
  }
  if (a.kind === b.kind) return a;
  const kinds = [a.kind, b.kind];
  if (kinds.includes("int64") && kinds.includes("uint64")) {
    if (![a, b].some((type) => type.kind === "int64" && type.negative)) return { kind: "uint64" };
    throw new TypeConflict("negative whole numbers and ones past 2^63, which no single 64-bit type holds");
  }
  if (kinds.includes("float64") && (kinds.includes("int64") || kinds.includes("uint64"))) {
    if (![a, b].some((type) => type.kind === "uint64" || (type.kind === "int64" && type.wide))) return real;
    throw new TypeConflict(
      `${b.kind === "float64" ? "a real number here but a whole one past 2^53" : "a whole number past 2^53 here but a real one"} before, and no single type holds both`,
    );
  }
  throw new TypeConflict(`${describeType(b)} here but ${describeType(a)} before`);
}

/** @throws TypeConflict that names the field */
function mergeFields(
  a: ReadonlyMap<string, ColumnType>,
  b: ReadonlyMap<string, ColumnType>,
): ReadonlyMap<string, ColumnType> {
  const merged = new Map(a);
  for (const [name, type] of b) {
    const before = a.get(name);
    try {
      merged.set(name, before === undefined ? type : mergeTypes(before, type));
    } catch (error) {
      if (error instanceof TypeConflict) throw new TypeConflict(`"${name}": ${error.message}`, error);
      throw error;
    }
  }
  return merged;
}

function describeType(type: ColumnType): string {
  if (type.kind === "list") return `a list of ${describeType(type.item)}`;
  return type.kind === "struct" ? "an object" : type.kind;
}

/** A column of a written file. */
export const fieldOf = (name: string, type: ColumnType): Field => new Field(name, arrowType(type), true);

function arrowType(type: ColumnType): DataType {
  switch (type.kind) {
    case "null":
      return new Null();
    case "bool":
      return new Bool();
    case "int64":
      return new Int64();
    case "uint64":
      return new Uint64();
    case "float64":
      return new Float64();
    case "string":
      return new Utf8();
    case "list":
      return new List(fieldOf("item", type.item));
    case "struct":
      return new Struct([...type.fields].map(([name, field]) => fieldOf(name, field)));
  }
}
