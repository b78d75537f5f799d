/**
 * A run's event files: each event is on its way to the disk when the call returns; a file that has grown large is followed
 * by another. A resumed run begins a file of its own, whose first event hides the steps that it repeats.
 */
import { closeSync, ftruncateSync, openSync, readdirSync, readFileSync, truncateSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { writeWhole } from "../../files/atomic.ts";
import { concatenate } from "../protobuf.ts";
import { rowKey } from "../tracked-names.ts";
import { readEvent, scalarsEvent, startEvent, textEvent, versionEvent } from "./events.ts";
import { framed, wholeRecords } from "./tfrecord.ts";

export interface EventFiles {
  /** The rows of scalars from before resuming, by `rowKey`. */
  readonly held: ReadonlySet<string>;
  scalars(step: number, values: readonly (readonly [string, number])[]): void;
  /** @param cells Markdown (rows)(columns) */
  text(step: number, tag: string, cells: readonly (readonly string[])[]): void;
  close(): void;
}

export interface EventFilesOptions {
  /** The step after which the run goes on; null: it begins. */
  readonly resumeStep: number | null;
  /** Seconds since 1970. */
  readonly now?: () => number;
  /** The size at which a file is closed and the next one begun. */
  readonly maxBytes?: number;
}

const eventFile = /^events\.out\.tfevents\.(\d+)\./;

/** Event files by age. Readers take them in the order of their names. */
function eventFilesIn(folder: string): { readonly name: string; readonly seconds: number }[] {
  return readdirSync(folder)
    .flatMap((name) => {
      const seconds = eventFile.exec(name)?.[1];
      return seconds === undefined ? [] : [{ name, seconds: Number(seconds) }];
    })
    .sort((a, b) => a.seconds - b.seconds);
}

/**
 * Begins the next file in `folder`, which exists.
 * @throws whatever the system refuses, here and in each call; a refused event leaves no part of itself
 */
export function openEventFiles(folder: string, options: EventFilesOptions): EventFiles {
  const { resumeStep, now = () => Date.now() / 1000, maxBytes = 32 << 20 } = options;
  const earlier = eventFilesIn(folder);
  const held = new Set<string>();
  if (resumeStep !== null) for (const { name } of earlier) readRows(join(folder, name), resumeStep, held);
  let newest = earlier.at(-1)?.seconds ?? 0;
  let file: number | null = null;
  let size = 0;

  const write = (fields: readonly Uint8Array[]): void => {
    const bytes = framed(concatenate(fields));
    try {
      writeWhole(file!, bytes);
    } catch (error) {
      ftruncateSync(file!, size);
      throw error;
    }
    size += bytes.length;
  };
  const begin = (): void => {
    // Names are their order: two files of one second must not share it.
    newest = Math.max(Math.floor(now()), newest + 1);
    const name = `events.out.tfevents.${String(newest).padStart(10, "0")}.${hostname()}.${process.pid}.0`;
    file = openSync(join(folder, name), "wx");
    size = 0;
    write(versionEvent(now()));
  };
  const close = (): void => {
    if (file !== null) closeSync(file);
    file = null;
  };
  const add = (fields: readonly Uint8Array[]): void => {
    if (file !== null && size >= maxBytes) close();
    if (file === null) begin();
    write(fields);
  };
  begin();
  if (resumeStep !== null) write(startEvent(now(), resumeStep + 1));
  return {
    held,
    scalars: (step, values) => add(scalarsEvent(now(), step, values)),
    text: (step, tag, cells) => add(textEvent(now(), step, tag, cells)),
    close,
  };
}

/** Adds a file's rows up to `last`, less what it repeats; cuts a torn record off, which would keep readers from what follows. */
function readRows(path: string, last: number, held: Set<string>): void {
  const bytes = readFileSync(path);
  const { records, end } = wholeRecords(bytes);
  for (const { step, isStart, scalarTag } of records.map(readEvent)) {
    if (isStart) for (const key of held) if (Number.parseInt(key, 10) >= step) held.delete(key);
    if (scalarTag !== null && step <= last) held.add(rowKey(step, scalarTag));
  }
  if (end < bytes.length) truncateSync(path, end);
}
