/**
 * Many steps on few pixels: per bucket of steps the least and the largest value, so that no spike is lost. Buckets are powers
 * of two and begin at multiples of their width, so that a chart does not flicker while it is moved. A pyramid of them is kept
 * per column, so that the work for a view depends on its pixels, not on its steps.
 */

/** A column of a run: values by row, NaN where there is none, and the steps of the rows, ascending. */
export interface Series {
  readonly steps: Float64Array;
  readonly values: Float32Array;
  /** Rows that are filled. */
  readonly rows: number;
}

/** The least and the largest value of each bucket, and the rows where they are; -1: none. */
interface Level {
  /** Buckets that are complete. */
  count: number;
  low: Int32Array;
  high: Int32Array;
}

/** Rows of the lowest level's buckets. */
const BASE = 16;
/** Each level joins so many buckets of the one below. */
const JOIN = 4;

export interface Pyramid {
  /** The rows with the least and the largest value among rows `from` to `to` (exclusive); -1 if none has a value. */
  extremes(series: Series, from: number, to: number): readonly [low: number, high: number];
}

/** For one column; new rows may be appended between calls, none may change. */
export function createPyramid(): Pyramid {
  const levels: Level[] = [];

  const extend = (series: Series): void => {
    const { values, rows } = series;
    for (let l = 0, width = BASE; width <= rows; l++, width *= JOIN) {
      const whole = Math.floor(rows / width);
      levels[l] ??= { count: 0, low: new Int32Array(64), high: new Int32Array(64) };
      const level = levels[l]!;
      if (level.low.length < whole)
        for (const side of ["low", "high"] as const) {
          const longer = new Int32Array(Math.max(whole, level[side].length * 2));
          longer.set(level[side]);
          level[side] = longer;
        }
      for (; level.count < whole; level.count++) {
        const b = level.count;
        const [low, high] =
          l === 0 ? scan(values, b * BASE, (b + 1) * BASE) : join(values, levels[l - 1]!, b * JOIN, (b + 1) * JOIN);
        level.low[b] = low;
        level.high[b] = high;
      }
    }
  };

  return {
    extremes(series, from, to) {
      extend(series);
      const { values } = series;
      let low = -1;
      let high = -1;
      const take = (l: number, h: number): void => {
        if (l >= 0 && (low < 0 || values[l]! < values[low]!)) low = l;
        if (h >= 0 && (high < 0 || values[h]! > values[high]!)) high = h;
      };
      let at = from;
      while (at < to) {
        // The largest whole bucket that begins here and ends in time.
        let l = -1;
        let width = 1;
        for (let next = BASE; at % next === 0 && at + next <= to; next *= JOIN) {
          l++;
          width = next;
        }
        const level = levels[l];
        const b = at / width;
        if (l >= 0 && level !== undefined && b < level.count) take(level.low[b]!, level.high[b]!);
        else {
          // Up to the next place where a bucket may begin.
          const end = l >= 0 ? at + width : Math.min(to, at + BASE - (at % BASE));
          const [a, c] = scan(values, at, end);
          take(a, c);
          at = end;
          continue;
        }
        at += width;
      }
      return [low, high];
    },
  };
}

function scan(values: Float32Array, from: number, to: number): [number, number] {
  let low = -1;
  let high = -1;
  for (let i = from; i < to; i++) {
    const value = values[i]!;
    if (Number.isNaN(value)) continue;
    if (low < 0 || value < values[low]!) low = i;
    if (high < 0 || value > values[high]!) high = i;
  }
  return [low, high];
}

function join(values: Float32Array, below: Level, from: number, to: number): [number, number] {
  let low = -1;
  let high = -1;
  for (let b = from; b < to; b++) {
    const [l, h] = [below.low[b]!, below.high[b]!];
    if (l >= 0 && (low < 0 || values[l]! < values[low]!)) low = l;
    if (h >= 0 && (high < 0 || values[h]! > values[high]!)) high = h;
  }
  return [low, high];
}

/** The first row whose step is at least `step`. */
export function rowAt({ steps, rows }: Pick<Series, "steps" | "rows">, step: number): number {
  let [low, high] = [0, rows];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle]! < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

export interface Grid {
  /** Steps per bucket, a power of two. */
  readonly stride: number;
  /** Steps at which the points stand: one per bucket if the stride is 1, else two. */
  readonly x: Float64Array<ArrayBuffer>;
}

/** Buckets for a view from step `min` to `max`, at most about `buckets` of them, with one beyond each end. */
export function gridOf(min: number, max: number, buckets: number): Grid {
  const range = Math.max(1, max - min);
  const stride = 2 ** Math.max(0, Math.ceil(Math.log2(range / Math.max(1, buckets))));
  const first = Math.floor(min / stride) - 1;
  const last = Math.floor(max / stride) + 1;
  const count = last - first + 1;
  const x =
    stride === 1
      ? Float64Array.from({ length: count }, (_, i) => first + i)
      : Float64Array.from({ length: 2 * count }, (_, i) => (first + (i >> 1) + (i & 1) / 2) * stride);
  return { stride, x };
}

/** A column at a grid's points: both extremes of each bucket in the order in which they occur; null: no value. */
export function decimate(series: Series, pyramid: Pyramid, { stride, x }: Grid): (number | null)[] {
  const { values } = series;
  const points: (number | null)[] = new Array(x.length).fill(null);
  if (series.rows === 0) return points;
  const each = stride === 1 ? 1 : 2;
  let from = rowAt(series, x[0]!);
  for (let i = 0; i < x.length && from < series.rows; i += each) {
    const to = from + countBelow(series, from, x[i]! + stride);
    if (to === from) continue;
    const [low, high] = to - from === 1 ? scan(values, from, to) : pyramid.extremes(series, from, to);
    if (low >= 0) {
      points[i] = values[Math.min(low, high)]!;
      if (each === 2) points[i + 1] = values[Math.max(low, high)]!;
    }
    from = to;
  }
  return points;
}

/** Rows from `from` on with a step below `step`; they are nearly always without gaps. */
function countBelow(series: Series, from: number, step: number): number {
  const { steps, rows } = series;
  const guess = Math.min(rows, from + Math.max(0, step - steps[from]!));
  if ((guess === rows || steps[guess]! >= step) && (guess === from || steps[guess - 1]! < step)) return guess - from;
  return Math.max(0, rowAt(series, step) - from);
}
