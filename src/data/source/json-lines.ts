/** JSON Lines: one object a line, as a file or packed. Lines are counted from 1, blank ones too. */
import { InputError } from "../../errors.ts";
import { inferColumns } from "./infer.ts";
import { openText } from "./packed.ts";
import type { RowBatch, RowSource } from "./source.ts";

const BATCH_ROWS = 1000;
const decoder = new TextDecoder("utf-8", { fatal: true });

export function jsonLinesSource(path: string): RowSource {
  const batches = () => rowsOf(path);
  return { format: "JSON Lines", columns: () => inferColumns(path, batches()), batches };
}

async function* rowsOf(path: string): AsyncGenerator<RowBatch> {
  let rows: Record<string, unknown>[] = [];
  let lines: number[] = [];
  const batch = (): RowBatch => {
    const numbers = lines;
    const full = { rows, place: (i: number) => `line ${numbers[i]}` };
    [rows, lines] = [[], []];
    return full;
  };
  let number = 0;
  for await (const line of linesOf(openText(path))) {
    number++;
    const text = textOf(path, number, line);
    if (text.trim() === "") continue;
    rows.push(objectOf(path, `line ${number}`, parsed(path, number, text)));
    lines.push(number);
    if (rows.length === BATCH_ROWS) yield batch();
  }
  if (rows.length > 0) yield batch();
}

/** Cuts a stream at its newlines; a line may reach over many chunks. */
async function* linesOf(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let begun: Uint8Array[] = [];
  for await (const chunk of chunks) {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      const piece = chunk.subarray(start, end);
      yield begun.length === 0 ? piece : Buffer.concat([...begun, piece]);
      begun = [];
      start = end + 1;
    }
    if (start < chunk.length) begun.push(chunk.slice(start));
  }
  if (begun.length > 0) yield Buffer.concat(begun);
}

function textOf(path: string, line: number, bytes: Uint8Array): string {
  try {
    return decoder.decode(bytes);
  } catch {
    throw new InputError(`${path}: line ${line} is not UTF-8; save the file as UTF-8`);
  }
}

function parsed(path: string, line: number, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    const shown = text.trim().length > 40 ? `${text.trim().slice(0, 40)}…` : text.trim();
    throw new InputError(`${path}: line ${line} is not JSON (${shown}); one object a line is needed`);
  }
}

/** @throws InputError for anything but an object */
export function objectOf(path: string, place: string, value: unknown): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  const kind = value === null ? "null" : Array.isArray(value) ? "a list" : `a ${typeof value}`;
  throw new InputError(`${path}: ${place} is ${kind}; an object with the row's columns is needed`);
}
