/** The columns of a source: inferred by one look at every value, or taken from the schema that it has. */
import { InputError } from "../../errors.ts";
import { type ColumnType, mergeTypes, TypeConflict, typeOfValue } from "../arrow/types.ts";
import type { RowBatch, SourceColumns } from "./source.ts";

/** @throws InputError when there are no rows; a column whose values do not fit together throws when it is asked for */
export async function inferColumns(path: string, batches: AsyncIterable<RowBatch>): Promise<SourceColumns> {
  const types = new Map<string, ColumnType>();
  const conflicts = new Map<string, string>();
  for await (const { rows, place } of batches) {
    for (const [i, row] of rows.entries()) {
      for (const [name, value] of Object.entries(row)) {
        const known = types.get(name);
        // Nearly every value is text in a column of text.
        if (typeof value === "string" && known?.kind === "string") continue;
        if (conflicts.has(name)) continue;
        try {
          const type = typeOfValue(value);
          types.set(name, known === undefined ? type : mergeTypes(known, type));
        } catch (error) {
          if (!(error instanceof TypeConflict)) throw error;
          conflicts.set(name, `${place(i)}: column "${name}" has ${error.message}; give it one type`);
        }
      }
    }
  }
  if (types.size === 0) throw new InputError(`${path}: there are no rows in it`);
  const typeOf = (name: string, type: ColumnType) => () => {
    const conflict = conflicts.get(name);
    if (conflict !== undefined) throw new InputError(`${path}: ${conflict}, or leave it out with --columns`);
    return type;
  };
  return new Map([...types].map(([name, type]) => [name, typeOf(name, type)]));
}

/** A column with a schema's type: `find` throws a TypeConflict where it cannot be written. */
export function schemaColumn(path: string, name: string, find: () => ColumnType): [string, () => ColumnType] {
  return [
    name,
    () => {
      try {
        return find();
      } catch (error) {
        if (!(error instanceof TypeConflict)) throw error;
        throw new InputError(`${path}: column "${name}" is ${error.message}; leave it out with --columns`);
      }
    },
  ];
}
