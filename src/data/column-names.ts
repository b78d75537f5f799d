/**
 * Which columns hold the prompt and the answer: named by the settings, a field within a column by dots
 * (`reward_model.ground_truth`, `messages.0.content`), or found by the names that public datasets use.
 */
import { type DataType, type Field, DataType as types } from "apache-arrow";
import { InputError } from "../errors.ts";
import type { Column, Dataset } from "./dataset.ts";

export interface ColumnSettings {
  /** Default: the first of prompt, question, problem, messages that exists. */
  readonly promptColumn?: string | null;
  /** Default: the first of answer, solution, gold, ground_truth, completion that exists, then verl's columns. */
  readonly answerColumn?: string | null;
}

/** A column, or a field within it. */
export interface ColumnPath {
  /** As given or found. */
  readonly name: string;
  readonly column: string;
  /** Fields, list indices and map keys, outermost first. */
  readonly inner: readonly string[];
}

/** Which columns are used, for all rows. */
export interface ExampleColumns {
  readonly prompt: ColumnPath;
  /** Where the gold answer comes from; null: the last message of `messages`, or nowhere. */
  readonly gold: ColumnPath | null;
  /** Where the worked answer comes from. */
  readonly worked: ColumnPath | null;
  /** Remarks on the choice for the user, in sentences. */
  readonly remarks: readonly string[];
}

type Columns = Pick<Dataset, "path" | "columns">;

const promptNames = ["prompt", "question", "problem", "messages"];
const goldNames = ["answer", "solution", "gold", "ground_truth", "completion"];
/** A column of this name holds the worked solution; a column `answer` beside it then holds only the result. */
const workedNames = ["solution", "completion"];
/** Where verl's files have the result, and some of them the worked solution. */
const verlGolds = ["reward_model.ground_truth", "extra_info.answer"];
const VERL_WORKED = "extra_info.answer";

/** @throws InputError if a named column is missing or unusable, or no prompt is found; lists the existing columns */
export function findColumns(dataset: Columns, { promptColumn, answerColumn }: ColumnSettings = {}): ExampleColumns {
  const { path, columns } = dataset;
  const has = (name: string) => columns.some((column) => column.name === name);
  const promptName = promptColumn || promptNames.find(has);
  if (promptName === undefined)
    throw new InputError(
      `${path}: no column for the prompt (${promptNames.join(", ")}); ${listed(columns)}; name it with --prompt_column`,
    );
  const prompt = resolve(dataset, promptName, "prompt_column");
  if (answerColumn) {
    const answer = resolve(dataset, answerColumn, "answer_column");
    return { prompt, gold: answer, worked: answer, remarks: [] };
  }
  return { prompt, ...foundAnswers(dataset, prompt, has) };
}

function foundAnswers(dataset: Columns, prompt: ColumnPath, has: (name: string) => boolean) {
  const remarks: string[] = [];
  const isText = (name: string) => {
    const fields = structFields(dataset.columns.find((column) => column.name === name)?.dataType);
    if (fields === null) return true;
    remarks.push(
      `column "${name}" is a struct, so it is not used as the answer; name one of its fields (${fields.join(", ")}) with --answer_column ${name}.${fields[0]}`,
    );
    return false;
  };
  const other = (name: string) => name !== prompt.column && has(name) && isText(name);
  const within = (name: string) => typeWithin(dataset, name) !== undefined;
  const goldName = goldNames.find(other) ?? verlGolds.find(within);
  if (goldName === undefined) return { gold: null, worked: null, remarks };
  const gold = resolve(dataset, goldName, "answer_column");
  if (gold.inner.length === 0) {
    const workedName = workedNames.find(other) ?? goldName;
    return { gold, worked: resolve(dataset, workedName, "answer_column"), remarks };
  }
  remarks.push(`gold answers are taken from ${goldName}, as verl's files have them`);
  const worked = within(VERL_WORKED) ? resolve(dataset, VERL_WORKED, "answer_column") : gold;
  return { gold, worked, remarks };
}

/** The type of a field named with dots; undefined if there is none. */
function typeWithin({ columns }: Columns, name: string): DataType | undefined {
  const [column, ...inner] = name.split(".");
  let type = columns.find((known) => known.name === column)?.dataType;
  for (const key of inner) type = fieldsOf(type)?.find((field) => field.name === key)?.type;
  return type;
}

/**
 * A name as the user gives it: a column of exactly this name, else the longest prefix that is a column containing the rest.
 * @throws InputError that lists what exists
 */
function resolve({ path, columns }: Columns, name: string, setting: string): ColumnPath {
  const parts = name.split(".");
  let first: InputError | undefined;
  for (let count = parts.length; count > 0; count--) {
    const column = columns.find((known) => known.name === parts.slice(0, count).join("."));
    if (column === undefined) continue;
    try {
      return { name, column: column.name, inner: innerOf(path, column, parts.slice(count), setting) };
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      first ??= error;
    }
  }
  throw first ?? new InputError(`${path}: no column "${name}" (${setting}); ${listed(columns)}`);
}

/** Follows `parts` through a column's type as far as the type goes; a field's name may contain dots too. */
function innerOf(path: string, column: Column, parts: readonly string[], setting: string): string[] {
  if (column.unread !== undefined) throw new InputError(`${column.unread} (${setting})`);
  if (column.missingIn !== undefined)
    throw new InputError(`${column.missingIn}: no column "${column.name}" (${setting}), unlike other files of ${path}`);
  const where = `${path}: column "${column.name}"`;
  const inner: string[] = [];
  let type = column.dataType;
  for (let at = 0; at < parts.length; ) {
    if (type === undefined || types.isMap(type)) return [...inner, ...parts.slice(at)];
    const name = [column.name, ...inner].join(".");
    const fields = fieldsOf(type);
    if (fields !== null) {
      const ends = Array.from({ length: parts.length - at }, (_, i) => parts.length - i);
      const end = ends.find((end) => fields.some((field) => field.name === parts.slice(at, end).join(".")));
      if (end === undefined)
        throw new InputError(`${where}: no field "${parts[at]}" in ${name} (${setting}); it has ${namesOf(fields)}`);
      const field = parts.slice(at, end).join(".");
      type = fields.find((known) => known.name === field)!.type;
      inner.push(field);
      at = end;
    } else {
      const isList = types.isList(type) || types.isLargeList(type) || types.isFixedSizeList(type);
      const key = parts[at++]!;
      if (!isList || !/^\d+$/.test(key)) {
        const has = isList ? "a list, whose items are numbered from 0" : "not a struct";
        throw new InputError(`${where}: no "${key}" in ${name} (${setting}), which is ${has}`);
      }
      type = (type.children as Field[])[0]!.type;
      inner.push(key);
    }
  }
  requireNoStruct(where, [column.name, ...inner].join("."), type, setting);
  return inner;
}

function requireNoStruct(where: string, name: string, type: DataType | undefined, setting: string): void {
  const fields = fieldsOf(type);
  if (fields === null) return;
  const names = fields.map((field) => field.name);
  const likely = names.find((field) => [...goldNames, ...promptNames].includes(field)) ?? names[0];
  throw new InputError(
    `${where}: ${name} is a struct with ${namesOf(fields)}; name one of them, such as --${setting} ${name}.${likely}`,
  );
}

const fieldsOf = (type: DataType | undefined): readonly Field[] | null =>
  type !== undefined && types.isStruct(type) ? (type.children as Field[]) : null;
const structFields = (type: DataType | undefined) => fieldsOf(type)?.map(({ name }) => name) ?? null;
const namesOf = (fields: readonly Field[]) => fields.map(({ name }) => name).join(", ") || "no fields";

function listed(columns: readonly Column[]): string {
  if (columns.length === 0) return "it has no columns";
  const one = ({ name, dataType }: Column) => {
    const fields = structFields(dataType);
    return fields === null ? name : `${name} (with ${fields.map((field) => `${name}.${field}`).join(", ")})`;
  };
  return `it has ${columns.map(one).join(", ")}`;
}

/** The row's value there; null if something on the way is missing. */
export function valueIn(row: Readonly<Record<string, unknown>>, { column, inner }: ColumnPath): unknown {
  let value = row[column];
  for (const key of inner) {
    if (Array.isArray(value)) value = /^\d+$/.test(key) ? value[Number(key)] : entryOf(value, key);
    else if (typeof value === "object" && value !== null && Object.hasOwn(value, key))
      value = (value as Record<string, unknown>)[key];
    else return null;
  }
  return value;
}

/** A map is read as the list of its entries. */
function entryOf(entries: readonly unknown[], key: string): unknown {
  const found = entries.find((entry) => String((entry as { key?: unknown } | null)?.key) === key);
  return (found as { value?: unknown } | undefined)?.value ?? null;
}
