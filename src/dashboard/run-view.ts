/**
 * A run's folder as the page sees it: its record, its metrics as columns, its generations. Everything is read in slices and
 * looked for again at every poll; a run that is cut back, begun anew or removed is followed too. Writes nothing.
 */
import { readSync, realpathSync } from "node:fs";
import { basename } from "node:path";
import { z } from "zod";
import { completionsFolder, metricsFile, runFile } from "../checkpoint/held.ts";
import { type CompletionsIndex, indexCompletions } from "./completions.ts";
import { listInside, openInside } from "./inside.ts";
import type { MemoryPicture, RunInfo, RunState, TableName } from "./protocol.ts";
import { createTable, type Table } from "./table.ts";
import { followLines } from "./tail.ts";

/** Indexes of completions that are kept. */
const INDEXES = 6;
/** Largest run.json, in bytes. */
const LARGEST_RECORD = 4 << 20;

export interface RunView {
  readonly folder: string;
  info(): RunInfo;
  state(): RunState;
  table(name: TableName): Table;
  /** The first step of each generation whose rollouts are recorded, ascending, and a number that changes when some go. */
  generations(): { readonly epoch: number; readonly steps: readonly number[] };
  /** The index of a generation's completions; null: not recorded. */
  completions(step: number): CompletionsIndex | null;
  /** Reads what is new, a slice of it. @returns whether there is more to read at once */
  poll(): boolean;
  close(): void;
}

const memoryPicture = z.object({
  parts: z.array(
    z.object({
      owner: z.string(),
      group: z.string(),
      held: z.string(),
      lifetime: z.union([z.literal("always"), z.array(z.string())]),
      bytes: z.number(),
    }),
  ),
  times: z.array(z.string()),
  plannedBytes: z.number(),
  scratchBytes: z.number(),
  programBytes: z.number(),
  reserveBytes: z.number(),
  peakBytes: z.number(),
});

const record = z.object({
  command: z.string(),
  totalSteps: z.number().optional(),
  settings: z.record(z.string(), z.unknown()),
  memory: z.unknown().optional(),
});

const generationName = /^step-(\d{6,9})\.jsonl$/;

/** @param name how the page calls it, by default as its folder */
export function viewRun(path: string, run: number, name = basename(path)): RunView {
  // Without a folder yet, the path itself is it: `poll` then finds nothing until it is made.
  const folder = realPath(path);
  const tail = followLines(folder, metricsFile);
  const found: Record<TableName, Table> = { steps: createTable(), evaluations: createTable() };
  let epoch = 1;
  let damaged = 0;
  let written: number | null = null;
  let read = false;
  let recordVersion = "";
  let records = 0;
  let about: z.output<typeof record> | null = null;
  let memory: MemoryPicture | null = null;
  let listed: number | null = null;
  let generations: number[] = [];
  let generationsEpoch = 1;
  const indexes = new Map<string, CompletionsIndex>();

  const reset = (): void => {
    for (const table of Object.values(found)) table.clear();
    damaged = 0;
    epoch++;
  };
  const take = (line: string): void => {
    if (line === "") return;
    let row: Record<string, unknown>;
    try {
      row = JSON.parse(line);
    } catch {
      damaged++;
      return;
    }
    const step = row?.step;
    if (typeof step !== "number") {
      damaged++;
      return;
    }
    let evaluates = false;
    for (const key in row) if (key.startsWith("eval_")) evaluates = true;
    found[evaluates ? "evaluations" : "steps"].add(step, row);
  };
  const pollRecord = (): void => {
    const file = openInside(folder, runFile);
    if (file === null) return;
    try {
      if (file.version === recordVersion || file.size > LARGEST_RECORD) return;
      recordVersion = file.version;
      const bytes = Buffer.alloc(file.size);
      readSync(file.fd, bytes, 0, file.size, 0);
      const parsed = record.safeParse(parsedJson(bytes.toString("utf8")));
      if (!parsed.success) return;
      about = parsed.data;
      const picture = memoryPicture.safeParse(about.memory);
      memory = picture.success ? picture.data : null;
      records++;
    } finally {
      file.close();
    }
  };
  const pollGenerations = (): void => {
    const list = listInside(folder, completionsFolder, listed);
    if (list === null) {
      if (generations.length > 0) generationsEpoch++;
      [generations, listed] = [[], null];
      return;
    }
    if (list.names === null) return;
    // The clock of a file system may stand still between two changes: a fresh time is looked at again.
    listed = Date.now() - list.modified > 2000 ? list.modified : null;
    const steps = list.names.flatMap((each) => generationName.exec(each)?.[1] ?? []).map(Number);
    steps.sort((a, b) => a - b);
    if (generations.some((step, i) => steps[i] !== step)) generationsEpoch++;
    generations = steps;
  };

  const state = (): RunState => {
    const { steps, evaluations } = found;
    return {
      ...{ run, epoch, damaged, written, read },
      rows: { steps: steps.rows, evaluations: evaluations.rows },
      columns: { steps: steps.names.length, evaluations: evaluations.names.length },
      step: steps.lastStep,
      generations: generations.length,
      record: records,
    };
  };
  return {
    ...{ folder, state },
    info() {
      const { command = null, totalSteps = null, settings = {} } = about ?? {};
      const names = { steps: found.steps.names, evaluations: found.evaluations.names };
      return { ...{ run, name, folder: path, command, totalSteps, settings, memory, names }, state: state() };
    },
    table: (of) => found[of],
    generations: () => ({ epoch: generationsEpoch, steps: generations }),
    completions(step) {
      const file = `step-${String(step).padStart(6, "0")}.jsonl`;
      const open = openInside(folder, completionsFolder, file);
      if (open === null) return null;
      open.close();
      const key = `${step} ${open.version}`;
      const known = indexes.get(key) ?? indexCompletions(folder, [completionsFolder, file]);
      if (known === null) return null;
      // The one used last is the last to go.
      indexes.delete(key);
      indexes.set(key, known);
      for (const [old, index] of indexes) {
        if (indexes.size <= INDEXES) break;
        index.close();
        indexes.delete(old);
      }
      return known;
    },
    poll() {
      const look = tail.look();
      if (look.reset) reset();
      for (const line of look.lines) take(line);
      written = look.modified;
      pollRecord();
      pollGenerations();
      read = !look.more;
      return look.more;
    },
    close() {
      for (const index of indexes.values()) index.close();
      indexes.clear();
    },
  };
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
