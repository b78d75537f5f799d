/** What the page's server sends and the page reads: types only, for both sides. */

/** A part of the memory plan: buffers of one group and lifetime. */
export interface MemoryPart {
  /** The model that it belongs to: "policy", "reference", … */
  readonly owner: string;
  readonly group: string;
  /** When it is held, in words. */
  readonly held: string;
  /** The times at which it is held. */
  readonly lifetime: "always" | readonly string[];
  readonly bytes: number;
}

/** The memory plan as `run.json` has it. */
export interface MemoryPicture {
  readonly parts: readonly MemoryPart[];
  /** Phases that have buffers of their own, or their stages, in the order of a step: never two at once. */
  readonly times: readonly string[];
  readonly plannedBytes: number;
  readonly scratchBytes: number;
  readonly programBytes: number;
  readonly reserveBytes: number;
  readonly peakBytes: number;
}

/** Rows of optimizer steps, and of evaluations. */
export const tables = ["steps", "evaluations"] as const;
export type TableName = (typeof tables)[number];

/** Rows that are new since the event before, so that a page which follows need not ask for them. */
export interface FreshRows {
  /** The number of the first. */
  readonly from: number;
  readonly steps: readonly number[];
  /** All columns in the order of the table's names, each with a value per row; null: NaN. */
  readonly values: readonly (readonly (number | null)[])[];
}

/** How far a run has come: small, sent whenever it changes. */
export interface RunState {
  readonly run: number;
  /** Changes when everything read so far is void: the metrics were cut or replaced. */
  readonly epoch: number;
  readonly rows: Readonly<Record<TableName, number>>;
  /** How many columns each table has; names are only added within an epoch. */
  readonly columns: Readonly<Record<TableName, number>>;
  /** The last optimizer step; 0: none. */
  readonly step: number;
  readonly generations: number;
  /** Changes with run.json. */
  readonly record: number;
  /** Lines of metrics.jsonl that are not JSON objects. */
  readonly damaged: number;
  /** When metrics.jsonl was written last, in ms since 1970; null: never. */
  readonly written: number | null;
  /** The server has read everything that there was. */
  readonly read: boolean;
}

/** A run as the page first asks for it. */
export interface RunInfo {
  readonly run: number;
  /** Short, and different for every run shown. */
  readonly name: string;
  readonly folder: string;
  readonly command: string | null;
  readonly totalSteps: number | null;
  readonly settings: Readonly<Record<string, unknown>>;
  readonly memory: MemoryPicture | null;
  readonly state: RunState;
  /** The columns of each table. */
  readonly names: Readonly<Record<TableName, readonly string[]>>;
}

export type Status = "running" | "ended" | "unknown";

export interface StateMessage {
  /** Of the run that the server belongs to; "unknown" for runs that are only shown. */
  readonly status: Status;
  readonly runs: readonly RunState[];
  /** By run; null where there is nothing new, or more than an event carries: the page then asks. */
  readonly fresh?: readonly (Readonly<Partial<Record<TableName, FreshRows>>> | null)[];
}

/** The trainer's own report on the phase that runs. */
export interface ProgressMessage {
  readonly step: number;
  readonly steps: number;
  readonly phase: string;
  readonly done?: number;
  readonly total?: number;
}

/** Before the columns of an answer: Float64 steps, then Float32 values, column by column, each of `rows`. */
export interface ColumnsHead {
  readonly epoch: number;
  readonly from: number;
  readonly rows: number;
  readonly names: readonly string[];
}

/**
 * Before an overview of columns: of each of the names, Float32 means, least and largest values of buckets of `stride` steps,
 * `buckets` of each. Bucket 0 begins at step 0; NaN: no value.
 */
export interface OverviewHead {
  readonly epoch: number;
  readonly stride: number;
  readonly buckets: number;
  readonly names: readonly string[];
  /** The first and the newest value of each column. */
  readonly ends: readonly (readonly [first: number | null, last: number | null])[];
}

/** A completion as the list shows it. */
export interface CompletionLine {
  readonly group: number;
  readonly reward: number | null;
  readonly finished: boolean;
  readonly tokens: number;
  /** Mean over tokens where each has its own; null: not recorded. */
  readonly advantage: number | null;
  /** What the verifier said: "equal", "different", "unparsed", "timeout"; null: not recorded. */
  readonly verdict: string | null;
  /** Beginnings; the prompt only of the first line of a group. */
  readonly prompt: string;
  readonly text: string;
}

export interface CompletionsMessage {
  /** Of the file; a line is asked for with it, so that nothing of a replaced file is shown. */
  readonly version: string;
  /** The whole file has been looked through. */
  readonly complete: boolean;
  /** Lines left out: not JSON, too long, or beyond the limit. */
  readonly omitted: number;
  readonly from: number;
  readonly lines: readonly CompletionLine[];
}
