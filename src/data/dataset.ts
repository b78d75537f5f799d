/**
 * A dataset in Arrow files, opened over mmap: one file, a folder as `datasets` saves it (`save_to_disk`, one split or
 * several, any number of shards), or a folder of .arrow files. Rows are numbered across all shards.
 * Leaves out other formats and the hub (load.ts), and the meaning of columns (columns.ts).
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { InputError } from "../errors.ts";
import { requireFile } from "../files/paths.ts";
import { datasetName } from "../hub/names.ts";
import { type ArrowTable, type Column, openTable } from "./arrow/table.ts";
import { chooseSplit } from "./splits.ts";

export type { Column } from "./arrow/table.ts";

export interface Dataset {
  /** As given: a file or a folder. */
  readonly path: string;
  readonly numRows: number;
  readonly columns: readonly Column[];
  /** The files, in the order of the rows. */
  readonly shards: readonly Omit<ArrowTable, "row" | "close">[];
  /**
   * Row `index` (from 0) as plain values: strings, numbers (bigint past 2^53), booleans, null, arrays, objects, bytes. A
   * column that its shard lacks, or of an unsupported type, is left out.
   * @throws InputError if its batch turns out to be damaged
   */
  row(index: number): Record<string, unknown>;
  /** Unmaps the files; rows that were read stay valid. */
  close(): void;
}

export interface DatasetOptions {
  /** Which of several splits. Default: train. */
  readonly split?: string;
}

/** @throws InputError if there is no such dataset, or one of its files is not valid Arrow */
export function openDataset(path: string, { split = "train" }: DatasetOptions = {}): Dataset {
  return openFiles(path, arrowFiles(path, split));
}

/**
 * Several Arrow files as one dataset.
 * @param path the dataset's name in messages
 */
export function openFiles(path: string, files: readonly string[]): Dataset {
  const tables: ArrowTable[] = [];
  try {
    for (const file of files) tables.push(openTable(file));
    return joined(path, tables);
  } catch (error) {
    for (const table of tables) table.close();
    throw error;
  }
}

function joined(path: string, tables: readonly ArrowTable[]): Dataset {
  const ends: number[] = []; // ends[t]: rows in shards 0..t
  for (const table of tables) ends.push((ends.at(-1) ?? 0) + table.numRows);
  const numRows = ends.at(-1) ?? 0;
  return {
    path,
    numRows,
    columns: joinedColumns(tables),
    shards: tables,
    row(index) {
      if (!Number.isInteger(index) || index < 0 || index >= numRows)
        throw new RangeError(`${path}: row ${index} of ${numRows}`);
      const shard = ends.findIndex((end) => index < end);
      return tables[shard]!.row(index - (shard === 0 ? 0 : ends[shard - 1]!));
    },
    close() {
      for (const table of tables) table.close();
    },
  };
}

/** The columns of all shards. Rows are plain values, so a column may have a different type in every shard. */
function joinedColumns(tables: readonly ArrowTable[]): Column[] {
  const columns = new Map<string, Column>();
  for (const table of tables) {
    for (const column of table.columns) {
      const known = columns.get(column.name);
      if (known === undefined) columns.set(column.name, column);
      else if (known.type !== column.type) columns.set(column.name, joinedColumn(known, column));
    }
  }
  for (const [name, column] of columns) {
    const without = tables.find((table) => !table.columns.some((other) => other.name === name));
    if (without !== undefined) columns.set(name, { ...column, missingIn: without.path });
  }
  return [...columns.values()];
}

function joinedColumn({ name, type, unread }: Column, other: Column): Column {
  const types = type.split(" or ").includes(other.type) ? type : `${type} or ${other.type}`;
  const reason = unread ?? other.unread;
  return { name, type: types, ...(reason !== undefined && { unread: reason }) };
}

/**
 * Checks shards that are to become one table.
 * @throws InputError for a column that not every shard has in the same type
 */
export function checkSameColumn({ shards }: Dataset, name: string): void {
  const [first, ...others] = shards;
  const typeIn = (shard: Dataset["shards"][number]) => {
    const column = shard.columns.find((column) => column.name === name);
    return column === undefined ? "not there" : column.type;
  };
  for (const shard of others) {
    if (typeIn(shard) === typeIn(first!)) continue;
    throw new InputError(
      `${shard.path}: column "${name}" is ${typeIn(shard)}, and ${typeIn(first!)} in ${first!.path}; ` +
        "give it one type, or leave it out with --columns",
    );
  }
}

/** The files of one split, in order. */
function arrowFiles(path: string, split: string): readonly string[] {
  requireFile(path);
  if (!existsSync(path)) {
    const hub = datasetName(path) !== null ? ", or fetch it from the hub with: grpo data download" : "";
    throw new InputError(`${path}: no such file or folder; check the path${hub && `${hub} ${path}`}`);
  }
  return statSync(path).isDirectory() ? folderFiles(path, split) : [path];
}

function folderFiles(folder: string, split: string): readonly string[] {
  if (existsSync(join(folder, "dataset_dict.json"))) {
    const { splits } = readJson(join(folder, "dataset_dict.json"), datasetDict);
    if (!splits.includes(split)) throw noSplit(folder, split, splits);
    return folderFiles(join(folder, split), split);
  }
  if (existsSync(join(folder, "state.json"))) return savedFiles(folder);
  if (!existsSync(folder)) throw new InputError(`${folder}: no such folder; the dataset was not copied whole`);
  const names = readdirSync(folder).sort();
  const tables = chooseSplit(
    names.filter((name) => name.endsWith(".arrow") && !isLeftover(name)),
    split,
  );
  if (tables.files.length > 0) return tables.files.map((name) => join(folder, name));
  if (tables.splits.length > 0) throw noSplit(folder, split, tables.splits);
  if (names.includes(split) && statSync(join(folder, split)).isDirectory())
    return folderFiles(join(folder, split), split);
  throw new InputError(
    `${folder}: no .arrow files in it; give a folder as save_to_disk writes it, or make a file with: grpo data convert`,
  );
}

/** Files that `datasets` leaves beside the data: results of `map`, unfinished files. */
export const isLeftover = (path: string): boolean => /(?:^|\/)(?:cache-|tmp|\.)[^/]*$/.test(path);

export function noSplit(folder: string, split: string, splits: readonly string[]): InputError {
  return new InputError(`${folder}: no split "${split}"; it has ${splits.join(", ")} (dataset_split, eval_split)`);
}

const datasetDict = z.object({ splits: z.array(z.string()) });
const savedState = z.object({
  _data_files: z.array(z.object({ filename: z.string() })),
  _indices_data_files: z.array(z.unknown()).nullish(),
});

/** The shards that `save_to_disk` lists in state.json. */
function savedFiles(folder: string): readonly string[] {
  const state = readJson(join(folder, "state.json"), savedState);
  if (state._indices_data_files?.length)
    throw new InputError(
      `${folder}: saved with a selection of rows beside it (_indices_data_files); save it again after flatten_indices()`,
    );
  const files = state._data_files.map(({ filename }) => join(folder, filename));
  if (files.length === 0) throw new InputError(`${join(folder, "state.json")}: _data_files is empty; save it again`);
  const missing = files.find((file) => !existsSync(file));
  if (missing !== undefined)
    throw new InputError(`${missing}: this shard, of ${files.length} in state.json, is missing; copy the whole folder`);
  return files;
}

function readJson<T>(path: string, shape: z.ZodType<T>): T {
  requireFile(path);
  try {
    return shape.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch (error) {
    const why = error instanceof z.ZodError ? `unexpected "${error.issues[0]?.path.join(".")}"` : "it is not JSON";
    throw new InputError(`${path}: not as datasets writes it (${why}); save the dataset again`);
  }
}
