/** What a source of any format gives: its columns, and its rows or its columns of Arrow, a batch at a time. */
import type { Data, Field } from "apache-arrow";
import type { Row } from "../arrow/write.ts";

export interface RowBatch {
  readonly rows: readonly Row[];
  /** Where row `i` of this batch stands, for messages: "line 7". */
  place(i: number): string;
}

/** A column, whose type is asked for when it is needed: one that is left out may be of any kind. */
export interface SourceColumn {
  /** @throws InputError why no Arrow column holds its values as they are */
  field(): Field;
  /** Why, in words, where its values can be kept as JSON text instead, each as it is. */
  readonly mixed?: string;
}

export type SourceColumns = ReadonlyMap<string, SourceColumn>;

/** Columns as Arrow has them, all of `length`. */
export interface ArrayBatch {
  readonly length: number;
  readonly columns: readonly Data[];
}

interface Source {
  /** For people: "JSON Lines", "Parquet". */
  readonly format: string;
  /** The columns of all rows; formats without a schema read everything for it. */
  columns(): Promise<SourceColumns>;
  /** What else a schema says of the whole file, such as the features of `datasets`. */
  readonly metadata?: ReadonlyMap<string, string>;
}

export interface RowSource extends Source {
  /** The rows, with at least the columns called `names`, a batch at a time; may be asked for again. */
  batches(names: readonly string[]): AsyncIterable<RowBatch>;
}

/** A source that has its columns as Arrow: what is copied from it is exact. */
export interface ArraySource extends Source {
  /** The columns called `names`, in their order. */
  arrays(names: readonly string[]): AsyncIterable<ArrayBatch>;
}
