/** W&B's records (wandb_internal.proto), as far as an offline run of metrics and tables needs them. */
import { bytesField, fieldsOf, messageField, wholeField } from "../protobuf.ts";

type Fields = readonly Uint8Array[];

/** Field numbers of Record. */
const kinds = { history: 2, summary: 3, files: 6, metric: 12, run: 17, exit: 18, header: 21 } as const;
export type Kind = keyof typeof kinds;

/** A record of the run, numbered from 1. */
export const record = (number: number, runId: string, kind: Kind, content: Fields): Fields => [
  wholeField(1, number),
  messageField(kinds[kind], content),
  messageField(200, [bytesField(1, runId)]),
];

/** @param oldestReader the version of W&B's client that can read what follows */
export const header = (producer: string, oldestReader: string): Fields => [
  messageField(1, [bytesField(1, producer), bytesField(2, oldestReader)]),
];

export interface RunDescription {
  readonly id: string;
  readonly project: string;
  readonly entity: string | undefined;
  readonly name: string | undefined;
  readonly group: string | undefined;
  readonly jobType: string | undefined;
  readonly notes: string | undefined;
  readonly tags: readonly string[];
  readonly host: string;
  /** Seconds since 1970. */
  readonly startTime: number;
  readonly config: Readonly<Record<string, unknown>>;
}

const maybe = (field: number, value: string | undefined): Fields =>
  value === undefined ? [] : [bytesField(field, value)];

export function run(about: RunDescription): Fields {
  const config = Object.entries(about.config).map(([key, value]) =>
    messageField(1, [bytesField(1, key), bytesField(16, json(value))]),
  );
  const seconds = Math.floor(about.startTime);
  return [
    bytesField(1, about.id),
    ...maybe(2, about.entity),
    bytesField(3, about.project),
    messageField(4, config),
    ...maybe(6, about.group),
    ...maybe(7, about.jobType),
    ...maybe(8, about.name),
    ...maybe(9, about.notes),
    ...about.tags.map((tag) => bytesField(10, tag)),
    bytesField(13, about.host),
    messageField(17, [wholeField(1, seconds), wholeField(2, Math.floor((about.startTime - seconds) * 1e9))]),
  ];
}

/** All metrics are drawn over the metric `over`, which itself is none of them. */
export const stepMetric = (over: string): Fields => [bytesField(1, over), messageField(6, [wholeField(3, 1)])];
export const overStepMetric = (over: string): Fields => [
  bytesField(2, "*"),
  bytesField(4, over),
  messageField(6, [wholeField(1, 1), wholeField(3, 1)]),
];

/** A value, or the values of a table's description by name. */
export type Value = number | Readonly<Record<string, number | string>>;
export type Values = Readonly<Record<string, Value>>;

/** JSON with Python's words for what JSON lacks, which W&B reads. */
function json(value: unknown): string {
  if (typeof value !== "number" || Number.isFinite(value)) return JSON.stringify(value ?? null);
  return Number.isNaN(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
}

const items = (field: number, values: Values): Fields =>
  Object.entries(values).flatMap(([name, value]) => {
    const each = typeof value === "object" ? Object.entries(value) : [[null, value] as const];
    return each.map(([inner, of]) =>
      messageField(field, [
        bytesField(2, name),
        ...(inner === null ? [] : [bytesField(2, inner)]),
        bytesField(16, json(of)),
      ]),
    );
  });

/** A row of the charts. @param step W&B's own count of rows, from 0 */
export const history = (step: number, values: Values): Fields => [
  ...items(1, values),
  messageField(2, [wholeField(1, step)]),
];

export const summary = (values: Values): Fields => items(1, values);

/** A file below the run's `files` to be uploaded. */
export const files = (path: string): Fields => [messageField(1, [bytesField(1, path)])];

/** @param runtime whole seconds */
export const exit = (runtime: number): Fields => [wholeField(1, 0), wholeField(2, runtime)];

/** What a record is and says, as far as a resumed run must know. */
export interface ReadRecord {
  readonly number: number;
  readonly kind: Kind | null;
  /** Of a row of the charts. */
  readonly row: ReadRow | null;
}

export interface ReadRow {
  /** The first numbers, by name. */
  readonly numbers: ReadonlyMap<string, number>;
  /** The last name among them. */
  readonly lastName: string;
}

/**
 * @param items how many of a row's items are read
 * @throws RangeError for bytes that are no message
 */
export function readRecord(bytes: Uint8Array, items: number): ReadRecord {
  let number = 0;
  let kind: Kind | null = null;
  let row: ReadRow | null = null;
  for (const [field, value] of fieldsOf(bytes)) {
    if (field === 1 && typeof value === "number") number = value;
    const found = (Object.keys(kinds) as Kind[]).find((name) => kinds[name] === field);
    if (found === undefined || typeof value === "number") continue;
    kind = found;
    if (found === "history") row = readRow(value, items);
  }
  return { number, kind, row };
}

const decoder = new TextDecoder();

function readRow(content: Uint8Array, items: number): ReadRow {
  const numbers = new Map<string, number>();
  let lastName = "";
  let count = 0;
  for (const [field, item] of fieldsOf(content)) {
    if (field !== 1 || typeof item === "number") continue;
    if (count++ === items) break;
    const parts = [...fieldsOf(item)].map(([inner, part]) => [inner, decoder.decode(part as Uint8Array)] as const);
    lastName = parts.find(([inner]) => inner === 2)?.[1] ?? "";
    const value = Number(parts.find(([inner]) => inner === 16)?.[1]);
    if (Number.isFinite(value)) numbers.set(lastName, value);
  }
  return { numbers, lastName };
}
