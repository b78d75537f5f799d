/** The columns of a source without a schema, inferred in one pass over all values. */
import { InputError } from "../../errors.ts";
import { type ColumnType, fieldOf, mergeTypes, TypeConflict, typeOfValue } from "../arrow/types.ts";
import type { RowBatch, SourceColumn, SourceColumns } from "./rows.ts";

/** How many positions of a fault are named; the others are counted. */
const NAMED_PLACES = 5;

/** What was found in one column. */
interface Seen {
  type: ColumnType;
  /** Of the first value that is not null. */
  first: string;
  fault?: Fault;
}

interface Fault {
  readonly message: string;
  keepable: boolean;
  /** The rows that do not fit the earlier ones: the first few of `count`. */
  readonly places: string[];
  count: number;
}

/**
 * @param repeated columns in which a key occurs twice, with the position, found while reading the batches
 * @throws InputError if there are no rows; a column whose values do not fit together throws when it is requested
 */
export async function inferColumns(
  path: string,
  batches: AsyncIterable<RowBatch>,
  repeated: ReadonlyMap<string, string> = new Map(),
): Promise<SourceColumns> {
  const columns = new Map<string, Seen>();
  for await (const { rows, place } of batches) {
    for (const [i, row] of rows.entries()) {
      for (const name of Object.keys(row)) {
        const value = row[name];
        let seen = columns.get(name);
        // Nearly every value is text in a column of text.
        if (typeof value === "string" && seen?.type.kind === "string" && value.isWellFormed()) continue;
        if (seen === undefined) {
          seen = { type: { kind: "null" }, first: "" };
          columns.set(name, seen);
        }
        look(seen, value, () => place(i));
      }
    }
  }
  if (columns.size === 0) throw new InputError(`${path}: it has no rows`);
  return new Map([...columns].map(([name, seen]) => [name, columnOf(path, name, seen, repeated.get(name))]));
}

function look(seen: Seen, value: unknown, place: () => string): void {
  try {
    const type = typeOfValue(value);
    const merged = mergeTypes(seen.type, type);
    if (seen.first === "" && merged.kind !== "null") seen.first = place();
    if (seen.fault === undefined) seen.type = merged;
  } catch (error) {
    if (!(error instanceof TypeConflict)) throw error;
    const message = error.message.replace(/ before\b/, seen.first === "" ? "$&" : `$& (${seen.first})`);
    seen.fault ??= { message, keepable: true, places: [], count: 0 };
    seen.fault.keepable &&= error.keepable;
    seen.fault.count++;
    if (seen.fault.places.length < NAMED_PLACES) seen.fault.places.push(place());
  }
}

function columnOf(path: string, name: string, { type, fault }: Seen, repeated: string | undefined): SourceColumn {
  const cure = "or leave it out with --columns";
  if (repeated !== undefined) {
    const message = `${path}: ${repeated}; keep one of the two, ${cure}`;
    return {
      field() {
        throw new InputError(message);
      },
    };
  }
  if (fault === undefined) return { field: () => fieldOf(name, type) };
  const [first, ...others] = fault.places;
  const rest = fault.count - fault.places.length;
  const also = others.length === 0 ? "" : `; likewise in ${others.join(", ")}${rest > 0 ? ` and ${rest} more` : ""}`;
  return {
    field() {
      throw new InputError(
        `${path}: ${first}: column "${name}" has ${fault.message}${also}; give it one type, ${cure}`,
      );
    },
    ...(fault.keepable && { mixed: `${first}: ${fault.message}` }),
  };
}
