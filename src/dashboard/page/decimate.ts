/**
 * Many steps on few pixels: per bucket of steps the mean, and the least and the largest value, so that no spike is lost. Buckets
 * are powers of two and begin at multiples of their width, so that a chart does not flicker while it is moved; those that
 * have been looked at are kept, so that moving costs only what comes into view.
 */

/** A column of a run: values by row, NaN where there is none, and the steps of the rows, ascending. */
export interface Series {
  readonly steps: Float64Array;
  readonly values: Float32Array;
  /** Rows that are filled. */
  readonly rows: number;
}

/** By number of the bucket. */
interface Buckets {
  readonly known: Uint8Array;
  /** NaN: none. */
  readonly mean: Float32Array;
  /** NaN: fewer than two. */
  readonly low: Float32Array;
  readonly high: Float32Array;
}

/** The buckets of one column. New rows may be appended between two looks, none may change. */
export interface Decimator {
  buckets(series: Series, stride: number): Buckets;
}

export function createDecimator(): Decimator {
  let kept: Buckets | null = null;
  let width = 0;
  let rows = 0;
  return {
    buckets(series, stride) {
      const count = Math.floor((series.steps[series.rows - 1] ?? 0) / stride) + 1;
      // Another width is looked at only when the view is zoomed.
      if (kept === null || width !== stride || series.rows < rows) kept = withRoom(null, count);
      else if (series.rows > rows) {
        if (count > kept.known.length) kept = withRoom(kept, count);
        // The bucket that the new rows began in was not whole.
        kept.known.fill(0, Math.floor((series.steps[Math.max(0, rows - 1)] ?? 0) / stride));
      }
      [width, rows] = [stride, series.rows];
      return kept;
    },
  };
}

function withRoom(before: Buckets | null, count: number): Buckets {
  const room = Math.ceil(count * 1.25) + 16;
  const made = {
    known: new Uint8Array(room),
    mean: new Float32Array(room),
    low: new Float32Array(room),
    high: new Float32Array(room),
  };
  if (before !== null) for (const key of ["known", "mean", "low", "high"] as const) made[key].set(before[key]);
  return made;
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
  /** The first step of each bucket. */
  readonly first: Float64Array;
  /** Where its point stands: in its middle. */
  readonly x: Float64Array<ArrayBuffer>;
}

let lastGrid: { readonly key: string; readonly grid: Grid } | null = null;

/** Buckets for a view from step `min` to `max`, at most about `buckets` of them, with one beyond each end. */
export function gridOf(min: number, max: number, buckets: number): Grid {
  const range = Math.max(1, max - min);
  const stride = 2 ** Math.max(0, Math.ceil(Math.log2(range / Math.max(1, buckets))));
  const start = Math.floor(min / stride) - 1;
  const count = Math.floor(max / stride) + 2 - start;
  // Charts of one width have the same.
  const key = `${stride} ${start} ${count}`;
  if (lastGrid?.key === key) return lastGrid.grid;
  const first = Float64Array.from({ length: count }, (_, i) => (start + i) * stride);
  const grid = { stride, first, x: first.map((step) => step + (stride - 1) / 2) };
  lastGrid = { key, grid };
  return grid;
}

/** What a chart draws of a column, a value per bucket; null: none. */
export interface Points {
  readonly mean: (number | null)[];
  /** Extremes, where the bucket has several values. */
  readonly low: (number | null)[];
  readonly high: (number | null)[];
}

export function decimate(series: Series, decimator: Decimator, { stride, first }: Grid): Points {
  const nothing = () => new Array<number | null>(first.length).fill(null);
  const points = { mean: nothing(), low: nothing(), high: nothing() };
  if (series.rows === 0) return points;
  const end = series.steps[series.rows - 1]!;
  const buckets = decimator.buckets(series, stride);
  let row = -1;
  for (let i = 0; i < first.length && first[i]! <= end; i++) {
    const b = first[i]! / stride;
    if (b < 0) continue;
    if (buckets.known[b] === 0) {
      if (row < 0) row = rowAt(series, first[i]!);
      row = look(series, row, first[i]! + stride, buckets, b);
    } else row = -1;
    if (Number.isNaN(buckets.mean[b]!)) continue;
    points.mean[i] = buckets.mean[b]!;
    if (Number.isNaN(buckets.low[b]!)) continue;
    points.low[i] = buckets.low[b]!;
    points.high[i] = buckets.high[b]!;
  }
  return points;
}

/** Fills a bucket from the rows that begin at `row` and have steps below `end`. @returns the row after them */
function look({ steps, values, rows }: Series, row: number, end: number, into: Buckets, b: number): number {
  let [sum, count, low, high] = [0, 0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  let i = row;
  for (; i < rows && steps[i]! < end; i++) {
    const value = values[i]!;
    if (Number.isNaN(value)) continue;
    sum += value;
    count++;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  into.known[b] = 1;
  into.mean[b] = sum / count;
  into.low[b] = count > 1 ? low : Number.NaN;
  into.high[b] = count > 1 ? high : Number.NaN;
  return i;
}

/** A column by buckets of steps, as the server sends it ahead of all its values. Bucket 0 begins at step 0; NaN: no value. */
export interface Overview {
  readonly stride: number;
  /** The first and the newest value. */
  readonly ends: readonly [first: number | null, last: number | null];
  readonly mean: Float32Array;
  readonly low: Float32Array;
  readonly high: Float32Array;
}

/** The same from an overview: of its buckets where they are narrower than the grid's, and of the one around it if not. */
export function decimateOverview(overview: Overview, { stride, first }: Grid): Points {
  const nothing = () => new Array<number | null>(first.length).fill(null);
  const points = { mean: nothing(), low: nothing(), high: nothing() };
  for (const [i, from] of first.entries()) {
    const begin = Math.max(0, Math.floor(from / overview.stride));
    const end = Math.min(overview.mean.length, Math.max(begin + 1, (from + stride) / overview.stride));
    let [sum, count, low, high] = [0, 0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
    for (let b = from < 0 ? end : begin; b < end; b++) {
      if (Number.isNaN(overview.mean[b]!)) continue;
      sum += overview.mean[b]!;
      count++;
      low = Math.min(low, overview.low[b]!);
      high = Math.max(high, overview.high[b]!);
    }
    if (count === 0) continue;
    points.mean[i] = sum / count;
    if (low === high) continue;
    points.low[i] = low;
    points.high[i] = high;
  }
  return points;
}
