/** JSON Lines: one object per line, plain or compressed. Lines are counted from 1, including blank ones. */
import { InputError } from "../../errors.ts";
import {
  hasChangedNumber,
  hasUnusualNumber,
  NotJson,
  type ParseOptions,
  parseJson,
  type RepeatedKey,
} from "../json-text.ts";
import { inferColumns } from "./infer.ts";
import { openText } from "./packed.ts";
import type { RowBatch, RowSource } from "./rows.ts";

const BATCH_ROWS = 1000;
const decoder = new TextDecoder("utf-8", { fatal: true });

/**
 * Lines whose numbers need the exact parser, remembered from the pass that infers the columns; later lines are checked
 * again. A number's spelling determines its column's type; once that is known, 12.0 may be read as 12.
 */
const REMEMBERED_LINES = 1_000_000;

export function jsonLinesSource(path: string): RowSource {
  let changed: ReadonlySet<number> | null = null;
  return {
    format: "JSON Lines",
    async columns() {
      const found = new Set<number>();
      const repeated = new Map<string, string>();
      const parse = (text: string, line: number) => {
        const options = { unusual: hasUnusualNumber(text), onRepeated: noteRepeated(repeated, `line ${line}`) };
        if (options.unusual && found.size <= REMEMBERED_LINES && hasChangedNumber(text)) found.add(line);
        return parsed(path, line, text, options);
      };
      const columns = await inferColumns(path, rowsOf(path, parse), repeated);
      changed = found.size <= REMEMBERED_LINES ? found : null;
      return columns;
    },
    batches: () =>
      rowsOf(path, (text, line) => parsed(path, line, text, { unusual: changed?.has(line) ?? hasChangedNumber(text) })),
  };
}

/** Keeps, for each column, the first key that occurs twice in it. `at`: how many keys of `way` are outside the row. */
export function noteRepeated(repeated: Map<string, string>, place: string, at = 0): (way: RepeatedKey) => void {
  return (way) => {
    const column = String(way[at]);
    if (!repeated.has(column)) repeated.set(column, `${place} has the key "${way.slice(at).join(".")}" twice`);
  };
}

async function* rowsOf(path: string, parse: (text: string, line: number) => unknown): AsyncGenerator<RowBatch> {
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
    rows.push(objectOf(path, `line ${number}`, parse(text, number)));
    lines.push(number);
    if (rows.length === BATCH_ROWS) yield batch();
  }
  if (rows.length > 0) yield batch();
}

/** Splits a stream at its newlines; a line may span many chunks. */
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

function parsed(path: string, line: number, text: string, options: ParseOptions): unknown {
  try {
    return parseJson(text, options);
  } catch (error) {
    if (!(error instanceof NotJson)) throw error;
    const shown = text.trim().length > 40 ? `${text.trim().slice(0, 40)}…` : text.trim();
    throw new InputError(
      `${path}: line ${line} is not JSON (${shown}): ${error.message}; expected one object per line`,
    );
  }
}

/** @throws InputError for anything but an object */
export function objectOf(path: string, place: string, value: unknown): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  const kind = value === null ? "null" : Array.isArray(value) ? "a list" : `a ${typeof value}`;
  throw new InputError(`${path}: ${place} is ${kind}; expected an object with the row's columns`);
}
