/** Columns that are made of others: the ends of a band, sums for means over buckets. Kept, and extended by new rows only. */
import { createPyramid } from "./decimate.ts";
import { createSmoother, type Smoother } from "./smooth.ts";
import type { Column } from "./store.ts";

class Derived implements Column {
  values = new Float32Array(0);
  rows = 0;
  pyramid = createPyramid();
  private readonly from: readonly Column[];
  private readonly of: (...values: number[]) => number;
  private smoothing: { weight: number; smoother: Smoother; pyramid: Column["pyramid"] } | null = null;

  constructor(from: readonly Column[], of: (...values: number[]) => number) {
    this.from = from;
    this.of = of;
  }

  get steps(): Float64Array {
    return this.from[0]!.steps;
  }

  update(): this {
    const rows = Math.min(...this.from.map((column) => column.rows));
    if (this.values.length < rows) {
      const longer = new Float32Array(Math.max(rows, 2 * this.values.length));
      longer.set(this.values.subarray(0, this.rows));
      this.values = longer;
    }
    for (let i = this.rows; i < rows; i++) this.values[i] = this.of(...this.from.map(({ values }) => values[i]!));
    this.rows = rows;
    return this;
  }

  smoothed(weight: number): ReturnType<Column["smoothed"]> {
    if (weight === 0) return { series: this, pyramid: this.pyramid };
    if (this.smoothing?.weight !== weight)
      this.smoothing = { weight, smoother: createSmoother(weight), pyramid: createPyramid() };
    const values = this.smoothing.smoother.update(this.values, this.rows);
    return { series: { steps: this.steps, values, rows: this.rows }, pyramid: this.smoothing.pyramid };
  }
}

const bands = new WeakMap<Column, Map<Column, readonly [Derived, Derived]>>();

/** The ends of one standard deviation around a mean. */
export function bandOf(mean: Column, deviation: Column): readonly [low: Column, high: Column] {
  const own = bands.get(mean) ?? new Map<Column, readonly [Derived, Derived]>();
  bands.set(mean, own);
  let pair = own.get(deviation);
  if (pair === undefined) {
    pair = [new Derived([mean, deviation], (m, d) => m - d), new Derived([mean, deviation], (m, d) => m + d)];
    own.set(deviation, pair);
  }
  return [pair[0].update(), pair[1].update()];
}

interface Sums {
  total: Float64Array;
  rows: number;
}

const sums = new WeakMap<Column, Sums>();

/** The mean over rows `from` to `to`; what a row lacks counts as 0, as a phase that did not run took no time. */
export function meanOf(column: Column, from: number, to: number): number {
  const own = sums.get(column) ?? { total: new Float64Array(1024), rows: 0 };
  sums.set(column, own);
  const { rows, values } = column;
  if (own.total.length <= rows) {
    const longer = new Float64Array(Math.max(rows + 1, 2 * own.total.length));
    longer.set(own.total.subarray(0, own.rows + 1));
    own.total = longer;
  }
  for (; own.rows < rows; own.rows++) {
    const value = values[own.rows]!;
    own.total[own.rows + 1] = own.total[own.rows]! + (Number.isFinite(value) ? value : 0);
  }
  const end = Math.min(to, rows);
  return end <= from ? Number.NaN : (own.total[end]! - own.total[from]!) / (end - from);
}
