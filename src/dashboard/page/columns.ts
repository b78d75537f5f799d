/** Columns of numbers that grow as they are fetched. */
import {
  createDecimator,
  type Decimator,
  decimate,
  decimateOverview,
  type Grid,
  type Overview,
  type Points,
  type Series,
} from "./decimate.ts";
import { createSmoother, type Smoother } from "./smooth.ts";

export interface Column extends Series {
  /** Drawn until the values are here; null: there is none. */
  readonly overview: Overview | null;
  /** What a chart draws of it, smoothed by this weight of the past; 0: as it is. */
  points(grid: Grid, weight: number): Points;
  /** The newest value, likewise; null: none. */
  last(weight: number): number | null;
  /** The first value; null: none. */
  first(): number | null;
}

export class GrowingColumn implements Column {
  values: Float32Array<ArrayBuffer> = new Float32Array(0);
  rows = 0;
  overview: Overview | null = null;
  private readonly owner: { readonly steps: Float64Array };
  private readonly decimator = createDecimator();
  private smoothing: { weight: number; smoother: Smoother; decimator: Decimator } | null = null;

  /** @param owner has the steps of the rows, which several columns share */
  constructor(owner: { readonly steps: Float64Array }) {
    this.owner = owner;
  }

  get steps(): Float64Array {
    return this.owner.steps;
  }

  /** Takes the rows from `from` on, of which the first may be here already; none if some before them are missing. */
  append(all: Float32Array, from: number): void {
    if (from > this.rows || from + all.length <= this.rows) return;
    const values = all.subarray(this.rows - from);
    const rows = this.rows + values.length;
    if (this.values.length < rows) {
      const longer = new Float32Array(Math.max(rows, 2 * this.values.length));
      longer.set(this.values.subarray(0, this.rows));
      this.values = longer;
    }
    this.values.set(values, this.rows);
    this.rows = rows;
  }

  points(grid: Grid, weight: number): Points {
    if (this.overview !== null) return decimateOverview(this.overview, grid);
    const { series, decimator } = this.drawn(weight);
    return decimate(series, decimator, grid);
  }

  last(weight: number): number | null {
    if (this.overview !== null) return this.overview.ends[1];
    const { values, rows } = this.drawn(weight).series;
    for (let i = rows - 1; i >= 0 && i > rows - 2000; i--) if (!Number.isNaN(values[i]!)) return values[i]!;
    return null;
  }

  first(): number | null {
    if (this.overview !== null) return this.overview.ends[0];
    return this.values.subarray(0, this.rows).find(Number.isFinite) ?? null;
  }

  private drawn(weight: number): { readonly series: Series; readonly decimator: Decimator } {
    if (weight === 0) return { series: this, decimator: this.decimator };
    if (this.smoothing?.weight !== weight)
      this.smoothing = { weight, smoother: createSmoother(weight), decimator: createDecimator() };
    const values = this.smoothing.smoother.update(this.values, this.rows);
    return { series: { steps: this.steps, values, rows: this.rows }, decimator: this.smoothing.decimator };
  }
}
