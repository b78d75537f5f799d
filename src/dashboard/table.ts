/** Rows of numbers by column, as they are read and sent: steps in 64 bits, values in 32, NaN where a row has none. */
import type { ColumnsHead, FreshRows, OverviewHead } from "./protocol.ts";

export interface Table {
  readonly rows: number;
  readonly names: readonly string[];
  readonly lastStep: number;
  add(step: number, values: Readonly<Record<string, unknown>>): void;
  clear(): void;
  /** The bytes of an answer: see `ColumnsHead`. Names without a column have NaN. */
  encode(epoch: number, names: readonly string[], from: number): Uint8Array<ArrayBuffer>;
  /** The rows from `from` on; null: there are none, too many for an event, or some that JSON cannot say. */
  fresh(from: number): FreshRows | null;
  /** The bytes of an overview: see `OverviewHead`. */
  overview(epoch: number, names: readonly string[]): Uint8Array<ArrayBuffer>;
}

/** Most columns; a reward function that logs a new name at every step must not fill the memory. */
const COLUMNS = 400;
/** Most buckets of an overview: as many as a wide screen has pixels. */
const BUCKETS = 2048;
/** Most values of fresh rows: a minute of steps of a quarter of a second has about as many. */
const FRESH_VALUES = 16_384;
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
      const { bytes, start } = withHead(head, count * (8 + 4 * names.length));
      new Float64Array(bytes.buffer, start, count).set(steps.subarray(from, from + count));
      for (const [i, name] of names.entries()) {
        const place = new Float32Array(bytes.buffer, start + count * (8 + 4 * i), count);
        const column = columns.get(name);
        if (column === undefined) place.fill(Number.NaN);
        else place.set(column.subarray(from, from + count));
      }
      return bytes;
    },
    fresh(from) {
      const count = rows - from;
      if (count <= 0 || count * (columns.size + 1) > FRESH_VALUES) return null;
      const parts = [...columns.values()].map((column) => column.subarray(from, rows));
      if (parts.some((part) => part.some((value) => Math.abs(value) === Number.POSITIVE_INFINITY))) return null;
      const values = parts.map((part) => Array.from(part, brief));
      return { from, steps: Array.from(steps.subarray(from, rows)), values };
    },
    overview(epoch, names) {
      const end = (steps[rows - 1] ?? 0) + 1;
      const stride = 2 ** Math.max(0, Math.ceil(Math.log2(end / BUCKETS)));
      const buckets = Math.ceil(end / stride);
      const ends = names.map((name) => endsOf(columns.get(name), rows));
      const head: OverviewHead = { epoch, stride, buckets, names, ends };
      const { bytes, start } = withHead(head, 12 * buckets * names.length);
      for (const [i, name] of names.entries()) {
        const place = (k: number) => new Float32Array(bytes.buffer, start + 4 * buckets * (3 * i + k), buckets);
        summarize(steps, columns.get(name), rows, stride, [place(0), place(1), place(2)]);
      }
      return bytes;
    },
  };
}

/** A Float32 with the digits that tell it from its neighbours: nine. */
const brief = (value: number): number | null => (Number.isNaN(value) ? null : Number(value.toPrecision(9)));

/** Bytes that begin with the head's length and the head; numbers follow from a multiple of 8 on. */
function withHead(head: object, more: number): { readonly bytes: Uint8Array<ArrayBuffer>; readonly start: number } {
  const text = new TextEncoder().encode(JSON.stringify(head));
  const start = Math.ceil((4 + text.length) / 8) * 8;
  const bytes = new Uint8Array(start + more);
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(text, 4);
  return { bytes, start };
}

function endsOf(column: Float32Array | undefined, rows: number): [first: number | null, last: number | null] {
  const values = column?.subarray(0, rows);
  return [values?.find(Number.isFinite) ?? null, values?.findLast(Number.isFinite) ?? null];
}

/** Means and extremes of a column by buckets of steps. */
function summarize(
  steps: Float64Array,
  column: Float32Array | undefined,
  rows: number,
  stride: number,
  [mean, low, high]: readonly [Float32Array, Float32Array, Float32Array],
): void {
  for (const each of [mean, low, high]) each.fill(Number.NaN);
  for (let i = 0; column !== undefined && i < rows; ) {
    const b = Math.floor(steps[i]! / stride);
    let [sum, count, least, largest] = [0, 0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
    for (; i < rows && steps[i]! < (b + 1) * stride; i++) {
      const value = column[i]!;
      if (Number.isNaN(value)) continue;
      sum += value;
      count++;
      if (value < least) least = value;
      if (value > largest) largest = value;
    }
    if (count === 0) continue;
    [mean[b], low[b], high[b]] = [sum / count, least, largest];
  }
}
