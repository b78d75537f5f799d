/** TensorBoard's messages (event.proto, summary.proto, tensor.proto), as far as scalars and texts need them. */
import { bytesField, doubleField, fieldsOf, floatField, messageField, wholeField } from "../protobuf.ts";

type Fields = readonly Uint8Array[];

const event = (wallTime: number, step: number, content: Uint8Array): Fields => [
  doubleField(1, wallTime),
  wholeField(2, step),
  content,
];

/** The first event of every file. @param wallTime seconds since 1970, here and below */
export const versionEvent = (wallTime: number): Fields => [doubleField(1, wallTime), bytesField(3, "brain.Event:2")];

/** A run begins or goes on at this step: what earlier files have of it and of later steps is no longer shown. */
export const startEvent = (wallTime: number, step: number): Fields =>
  event(wallTime, step, messageField(7, [wholeField(1, 1)]));

/** One value per tag, as 32-bit floats, which is what TensorBoard plots. */
export function scalarsEvent(wallTime: number, step: number, values: readonly (readonly [string, number])[]): Fields {
  const each = values.map(([tag, value]) => messageField(1, [bytesField(1, tag), floatField(2, value)]));
  return event(wallTime, step, messageField(5, each));
}

const stringType = 7;

/** A table of texts in Markdown, which the tab "Text" shows. @param cells (rows)(columns) */
export function textEvent(wallTime: number, step: number, tag: string, cells: readonly (readonly string[])[]): Fields {
  const shape = [cells.length, cells[0]?.length ?? 0].map((size) => messageField(2, [wholeField(1, size)]));
  const tensor = [
    wholeField(1, stringType),
    messageField(2, shape),
    ...cells.flat().map((cell) => bytesField(8, cell)),
  ];
  const metadata = messageField(9, [messageField(1, [bytesField(1, "text")])]);
  return event(
    wallTime,
    step,
    messageField(5, [messageField(1, [bytesField(1, tag), metadata, messageField(8, tensor)])]),
  );
}

/** What an event says, as far as a resumed run must know. */
export interface ReadEvent {
  readonly step: number;
  readonly isStart: boolean;
  /** The first tag of its scalars; null: it has none. */
  readonly scalarTag: string | null;
}

const decoder = new TextDecoder();

/** @throws RangeError for bytes that are no message */
export function readEvent(bytes: Uint8Array): ReadEvent {
  let step = 0;
  let isStart = false;
  let scalarTag: string | null = null;
  for (const [field, content] of fieldsOf(bytes)) {
    if (field === 2 && typeof content === "number") step = content;
    if (field === 7) isStart = true;
    if (field === 5 && typeof content !== "number") scalarTag = firstScalar(content);
  }
  return { step, isStart, scalarTag };
}

function firstScalar(summary: Uint8Array): string | null {
  for (const [field, value] of fieldsOf(summary)) {
    if (field !== 1 || typeof value === "number") continue;
    const parts = new Map(fieldsOf(value));
    return parts.has(2) ? decoder.decode(parts.get(1) as Uint8Array) : null;
  }
  return null;
}
