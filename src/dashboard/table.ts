/** Rows of numbers by column, as they are read and sent: steps in 64 bits, values in 32, NaN where a row has none. */
import type { ColumnsHead } from "./protocol.ts";

export interface Table {
  readonly rows: number;
  readonly names: readonly string[];
  readonly lastStep: number;
  add(step: number, values: Readonly<Record<string, unknown>>): void;
  clear(): void;
  /** The bytes of an answer: see `ColumnsHead`. Names without a column have NaN. */
  encode(epoch: number, names: readonly string[], from: number): Uint8Array<ArrayBuffer>;
}

/** Most columns; a reward function that logs a new name at every step must not fill the memory. */
const COLUMNS = 400;
/** Most rows of one answer. */
export const ANSWER_ROWS = 1 << 18;

export function createTable(): Table {
  let steps = new Float64Array(1024);
  let rows = 0;
  const columns = new Map<string, Float32Array<ArrayBuffer>>();
  const grow = (): void => {
    const size = steps.length * 2;
    const longer = new Float64Array(size);
    longer.set(steps);
    steps = longer;
    for (const [name, column] of columns) {
      const more = new Float32Array(size).fill(Number.NaN, rows);
      more.set(column);
      columns.set(name, more);
    }
  };
  return {
    get rows() {
      return rows;
    },
    get names() {
      return [...columns.keys()];
    },
    get lastStep() {
      return rows === 0 ? 0 : steps[rows - 1]!;
    },
    add(step, values) {
      if (rows === steps.length) grow();
      steps[rows] = step;
      for (const name in values) {
        const value = values[name];
        if (typeof value !== "number" || name === "step") continue;
        let column = columns.get(name);
        if (column === undefined) {
          if (columns.size === COLUMNS) continue;
          column = new Float32Array(steps.length).fill(Number.NaN);
          columns.set(name, column);
        }
        column[rows] = value;
      }
      rows++;
    },
    clear() {
      rows = 0;
      columns.clear();
      steps = new Float64Array(1024);
    },
    encode(epoch, names, from) {
      const count = Math.max(0, Math.min(rows - from, ANSWER_ROWS));
      const head: ColumnsHead = { epoch, from, rows: count, names };
      const text = new TextEncoder().encode(JSON.stringify(head));
      // The head's length, then the head, so that the numbers begin at a multiple of 8.
      const start = Math.ceil((4 + text.length) / 8) * 8;
      const bytes = new Uint8Array(start + count * (8 + 4 * names.length));
      new DataView(bytes.buffer).setUint32(0, text.length, true);
      bytes.set(text, 4);
      new Float64Array(bytes.buffer, start, count).set(steps.subarray(from, from + count));
      for (const [i, name] of names.entries()) {
        const place = new Float32Array(bytes.buffer, start + count * (8 + 4 * i), count);
        const column = columns.get(name);
        if (column === undefined) place.fill(Number.NaN);
        else place.set(column.subarray(from, from + count));
      }
      return bytes;
    },
  };
}
