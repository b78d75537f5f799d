/** The interface of a source of any format: its columns, and its rows or Arrow columns, a batch at a time. */
import type { Data, Field } from "apache-arrow";
import type { Row } from "../arrow/write.ts";

export interface RowBatch {
  readonly rows: readonly Row[];
  /** The position of row `i` of this batch, for messages: "line 7". */
  place(i: number): string;
}

/** A column, whose type is requested only when needed: one that is left out may be of any kind. */
export interface SourceColumn {
  /** @throws InputError that says why no Arrow column can hold its values unchanged */
  field(): Field;
  /** The reason, if its values can be kept unchanged as JSON text instead. */
  readonly mixed?: string;
}

export type SourceColumns = ReadonlyMap<string, SourceColumn>;

/** Arrow columns, all of `length`. */
export interface ArrayBatch {
  readonly length: number;
  readonly columns: readonly Data[];
}

interface Source {
  /** For people: "JSON Lines", "Parquet". */
  readonly format: string;
  /** The columns of all rows; formats without a schema read everything for it. */
  columns(): Promise<SourceColumns>;
  /** The schema's metadata for the whole file, such as the features of `datasets`. */
  readonly metadata?: ReadonlyMap<string, string>;
}

export interface RowSource extends Source {
  /** The rows, with at least the columns called `names`, a batch at a time; may be requested again. */
  batches(names: readonly string[]): AsyncIterable<RowBatch>;
}

/** A source with Arrow columns, which are copied exactly. */
export interface ArraySource extends Source {
  /** The columns called `names`, in their order. */
  arrays(names: readonly string[]): AsyncIterable<ArrayBatch>;
}
