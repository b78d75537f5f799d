/**
 * What a dataset is read from when it is converted: a file of any known format, recognized by what is in it and not by its
 * name. Each format is one file beside this one.
 */
import { existsSync, statSync } from "node:fs";
import type { Data, Field } from "apache-arrow";
import { InputError } from "../../errors.ts";
import { requireFile } from "../../files.ts";
import type { Row } from "../arrow/write.ts";
import { arrowSource } from "./arrow.ts";
import { jsonSource } from "./json.ts";
import { jsonLinesSource } from "./json-lines.ts";
import { openText } from "./packed.ts";
import { parquetSource } from "./parquet.ts";

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

/**
 * @param split which one, where `path` is a folder with several
 * @throws InputError when there is nothing at `path`, or it is of no known format
 */
export async function openSource(path: string, split?: string): Promise<RowSource | ArraySource> {
  requireFile(path);
  if (!existsSync(path)) throw new InputError(`${path}: no such file or folder; check the path`);
  if (statSync(path).isDirectory()) return arrowSource(path, split);
  const start = await firstBytes(path);
  const signature = start.toString("latin1", 0, 6);
  if (start.length === 0) throw new InputError(`${path}: the file is empty; copy it again`);
  if (signature.startsWith("PAR1")) return parquetSource(path);
  if (signature === "ARROW1" || signature.startsWith("\xff\xff\xff\xff")) return arrowSource(path, split);
  if (start.toString("utf8").startsWith("version https://git-lfs"))
    throw new InputError(`${path}: a Git LFS pointer, not the data itself; fetch it with: git lfs pull`);
  const text = await firstText(path);
  if (text.startsWith("{")) return jsonLinesSource(path);
  if (text.startsWith("[")) return jsonSource(path);
  throw new InputError(
    `${path}: neither JSON Lines, a JSON array, Parquet nor Arrow; convert it to one of these first`,
  );
}

async function firstBytes(path: string): Promise<Buffer> {
  return Buffer.from(await Bun.file(path).slice(0, 64).arrayBuffer());
}

/** The first text that is no blank, unpacked. */
async function firstText(path: string): Promise<string> {
  for await (const bytes of openText(path)) {
    const text = Buffer.from(bytes)
      .toString("utf8")
      .replace(/^\uFEFF/, "")
      .trimStart();
    if (text !== "") return text.slice(0, 16);
  }
  return "";
}
