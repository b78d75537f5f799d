/**
 * A run as W&B's client writes it without a network, in a folder `offline-run-DATE-ID` that `wandb sync` uploads. Each record
 * is on its way to the disk when the call returns. A resumed run goes on in the same file: what came after its checkpoint is
 * cut off.
 */
import { createHash } from "node:crypto";
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { dirname, join } from "node:path";
import { writeWhole } from "../../files/atomic.ts";
import type { CompletionTable } from "../completion-table.ts";
import { concatenate } from "../protobuf.ts";
import { rowKey } from "../tracked-names.ts";
import { framedAt, logHead, recordsOf } from "./record-log.ts";
import * as records from "./records.ts";

/** The x axis of all charts, under transformers' name. */
const stepName = "train/global_step";

export interface OfflineRun {
  /** The folder that `wandb sync` takes. */
  readonly folder: string;
  /** The rows from before resuming, by `rowKey`. */
  readonly held: ReadonlySet<string>;
  row(step: number, values: Readonly<Record<string, number>>): void;
  table(step: number, name: string, table: CompletionTable): void;
  /** Ends the run, so that W&B shows it as finished. */
  close(): void;
}

export interface OfflineRunOptions {
  readonly about: Omit<records.RunDescription, "id" | "host" | "startTime">;
  /** The name and version of the program. */
  readonly producer: string;
  /** The step after which the run goes on; null: it begins. */
  readonly resumeStep: number | null;
  /** Seconds since 1970. */
  readonly now?: () => number;
}

const letters = "abcdefghijklmnopqrstuvwxyz0123456789";
const newId = (): string =>
  Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => letters[byte % letters.length]).join("");

function dateOf(seconds: number): string {
  const date = new Date(seconds * 1000);
  const two = (value: number) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}${two(date.getMonth() + 1)}${two(date.getDate())}`;
  return `${day}_${two(date.getHours())}${two(date.getMinutes())}${two(date.getSeconds())}`;
}

/** Where a run stands. */
interface Place {
  readonly folder: string;
  readonly id: string;
  /** Bytes of the log, records in it, rows of the charts, and seconds before this process began. */
  readonly size: number;
  readonly count: number;
  readonly rows: number;
  readonly runtime: number;
  readonly held: ReadonlySet<string>;
}

/** The step, time, seconds and number of a row come first, then its values. */
const readItems = 5;

const logOf = (folder: string, id: string): string => join(folder, `run-${id}.wandb`);

/** The newest run below `parent`, cut after `step`; null: there is none. */
function cutAfter(parent: string, step: number): Place | null {
  const name = readdirSync(parent)
    .filter((each) => /^offline-run-\d{8}_\d{6}-\w+$/.test(each))
    .sort()
    .at(-1);
  if (name === undefined) return null;
  const folder = join(parent, name);
  const id = name.slice(name.lastIndexOf("-") + 1);
  const logged = recordsOf(readFileSync(logOf(folder, id)));
  if (logged === null || logged.length === 0) return null;
  const held = new Set<string>();
  let place: Place = { folder, id, size: logHead.length, count: 0, rows: 0, runtime: 0, held };
  for (const { record, end } of logged) {
    const { number, kind, row } = records.readRecord(record, readItems);
    const at = row?.numbers.get(stepName);
    if (kind === "exit" || (at ?? 0) > step) break;
    const { rows, runtime } = place;
    place = { ...place, size: end, count: number };
    if (row === null || at === undefined) continue;
    const { numbers, lastName } = row;
    place = { ...place, rows: (numbers.get("_step") ?? rows) + 1, runtime: numbers.get("_runtime") ?? runtime };
    held.add(rowKey(at, lastName));
  }
  truncateSync(logOf(folder, id), place.size);
  return place;
}

/**
 * @param parent the folder for the run's own, which exists
 * @throws whatever the system refuses, here and in each call; a refused record leaves no part of itself
 */
export function openOfflineRun(parent: string, options: OfflineRunOptions): OfflineRun {
  const { about, producer, resumeStep, now = () => Date.now() / 1000 } = options;
  const started = now();
  const earlier = resumeStep === null ? null : cutAfter(parent, resumeStep);
  const id = earlier?.id ?? newId();
  const folder = earlier?.folder ?? join(parent, `offline-run-${dateOf(started)}-${id}`);
  const before = earlier?.runtime ?? 0;
  let { size, count, rows } = earlier ?? { size: 0, count: 0, rows: 0 };
  mkdirSync(join(folder, "files"), { recursive: true });
  let file: number | null = openSync(logOf(folder, id), "a");

  const append = (bytes: Uint8Array): void => {
    try {
      writeWhole(file!, bytes);
    } catch (error) {
      ftruncateSync(file!, size);
      throw error;
    }
    size += bytes.length;
  };
  const write = (kind: records.Kind, content: readonly Uint8Array[]): void => {
    append(framedAt(size, concatenate(records.record(count + 1, id, kind, content))));
    count++;
  };
  const row = (step: number, values: records.Values): void => {
    const at = now();
    const whole = { [stepName]: step, _timestamp: at, _runtime: before + at - started, _step: rows, ...values };
    write("history", records.history(rows, whole));
    rows++;
    write("summary", records.summary(whole));
  };
  if (earlier === null) {
    append(logHead);
    write("header", records.header(producer, oldestReader));
    write("run", records.run({ ...about, id, host: hostname(), startTime: started }));
    write("metric", records.stepMetric(stepName));
    write("metric", records.overStepMetric(stepName));
  }
  return {
    folder,
    held: earlier?.held ?? new Set(),
    row,
    table(step, name, table) {
      const bytes = Buffer.from(JSON.stringify(table));
      const sha256 = createHash("sha256").update(bytes).digest("hex");
      const path = `media/table/${name}_${rows}_${sha256.slice(0, 20)}.table.json`;
      const place = join(folder, "files", path);
      mkdirSync(dirname(place), { recursive: true });
      writeFileSync(place, bytes);
      write("files", records.files(path));
      const { columns, data } = table;
      const sizes = { size: bytes.length, ncols: columns.length, nrows: data.length };
      row(step, { [name]: { _type: "table-file", path, sha256, ...sizes } });
    },
    close() {
      if (file === null) return;
      write("exit", records.exit(Math.round(before + now() - started)));
      closeSync(file);
      file = null;
    },
  };
}

/** What W&B's own client says of the records that are used here. */
const oldestReader = "0.70.0";
