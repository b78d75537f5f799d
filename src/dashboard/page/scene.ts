/** What a chart draws: its lines of the shown runs, as uPlot's series and their points. Knows no elements. */
import type uPlot from "uplot";
import type { ChartSpec, Line } from "./chart-list.ts";
import { decimate, type Grid, rowAt, type Series } from "./decimate.ts";
import { bandOf, meanOf } from "./derived.ts";
import { colourOf, dashOf, hatchOf, type Theme, withAlpha } from "./palette.ts";
import type { Column, Run, Store } from "./store.ts";
import type { View } from "./view.ts";

export interface ChartContext {
  readonly store: Store;
  readonly view: View;
  readonly shownRuns: () => readonly Run[];
  readonly theme: () => Theme;
  readonly smoothing: () => number;
  /** Says a value aloud to those who do not see it. */
  readonly announce: (text: string) => void;
}

/** A line of a run. */
export interface Drawn {
  readonly run: Run;
  readonly line: Line;
  readonly label: string;
  /** Index of its colour, and of its dashes. */
  readonly colour: number;
  readonly dash: number;
  readonly hasBand: boolean;
}

export interface Scene {
  readonly spec: ChartSpec;
  readonly drawn: readonly Drawn[];
  /** Weight of the past. */
  readonly smoothing: number;
}

export function sceneOf(spec: ChartSpec, context: ChartContext, logarithmic: boolean): Scene {
  const runs = context.shownRuns();
  const isOne = runs.length === 1;
  const drawn = runs.flatMap((run) => {
    const names = { steps: run.tables.steps.names, evaluations: run.tables.evaluations.names };
    const lines = spec.lines(names).filter(({ isMinor = false }) => isOne || spec.kind === "stack" || !isMinor);
    return lines.map((line, l): Drawn => {
      const needed = line.between ?? (line.spread === undefined ? [] : [line.spread]);
      const hasBand = needed.some((name) => names[line.table].includes(name));
      const label = isOne ? line.label : lines.length === 1 ? run.info.name : `${run.info.name} · ${line.label}`;
      return {
        ...{ run, line, label, dash: l, colour: isOne ? l : run.info.run },
        // Bands of several runs hide each other.
        hasBand: hasBand && isOne && !logarithmic,
      };
    });
  });
  return { spec, drawn, smoothing: context.smoothing() };
}

/** What cannot change without a new plot. */
export const shapeOf = ({ drawn, smoothing }: Scene): string =>
  [smoothing > 0, ...drawn.map(({ label, hasBand }) => `${label} ${hasBand}`)].join("\n");

/** uPlot's series, in the order in which `dataOf` gives their points. */
export function seriesOf(
  { spec, drawn, smoothing }: Scene,
  theme: Theme,
): { series: uPlot.Series[]; bands: uPlot.Band[] } {
  const series: uPlot.Series[] = [{}];
  const bands: uPlot.Band[] = [];
  const plain: uPlot.Series = { points: { show: false }, spanGaps: true };
  if (spec.kind === "stack") {
    // Each area lies between its own sum and that of the ones below.
    for (const [i, { colour }] of drawn.entries()) {
      const fill = () => hatchOf(colour, theme) as string;
      series.push({ ...plain, stroke: colourOf(colour, theme), width: 1, ...(i === 0 && { fill }) });
      if (i > 0) bands.push({ series: [i + 1, i], fill });
    }
    return { series, bands };
  }
  for (const { line, colour, dash, hasBand } of drawn) {
    const stroke = colourOf(colour, theme);
    const isSparse = line.table === "evaluations";
    if (hasBand) {
      const edge: uPlot.Series = { ...plain, stroke: "transparent", width: 0 };
      series.push({ ...edge }, { ...edge });
      bands.push({
        series: [series.length - 1, series.length - 2],
        fill: withAlpha(stroke, theme.isDark ? 0.16 : 0.12),
      });
    }
    if (smoothing > 0) series.push({ ...plain, stroke: withAlpha(stroke, 0.3), width: 1 });
    series.push({
      ...{ stroke, width: 1.75, dash: [...dashOf(dash)], spanGaps: true, cap: "round" },
      points: {
        show: isSparse ? (_plot, _series, first, last) => last - first < 400 : false,
        ...{ size: 6, stroke, fill: theme.surface },
      },
    });
  }
  return { series, bands };
}

export const columnOf = (store: Store, { run, line }: Drawn, name = line.name): Column | null =>
  store.column(run, line.table, name);

/** Evaluations are few, and each stands for itself. */
const weightOf = ({ line }: Drawn, { smoothing }: Scene): number => (line.table === "evaluations" ? 0 : smoothing);

/** The ends of a line's band. */
function endsOf(store: Store, each: Drawn): readonly [Column | null, Column | null] {
  const { spread, between } = each.line;
  if (between) return [columnOf(store, each, between[0]), columnOf(store, each, between[1])];
  const [center, deviation] = [columnOf(store, each), spread === undefined ? null : columnOf(store, each, spread)];
  return center && deviation ? bandOf(center, deviation) : [null, null];
}

export function dataOf(scene: Scene, store: Store, grid: Grid): uPlot.AlignedData {
  const none = () => new Array<number | null>(grid.x.length).fill(null);
  const points = (column: Column | null, weight: number) => {
    if (column === null) return none();
    const { series, pyramid } = column.smoothed(weight);
    return decimate(series, pyramid, grid);
  };
  const data: (number | null)[][] = [];
  if (scene.spec.kind === "stack") {
    let below = none();
    for (const each of scene.drawn) {
      const column = columnOf(store, each);
      const own = column === null ? none() : meansOn(column, grid);
      const under = below;
      below = own.map((value, i) => (value === null ? under[i]! : value + (under[i] ?? 0)));
      data.push(below);
    }
  } else
    for (const each of scene.drawn) {
      const column = columnOf(store, each);
      const weight = weightOf(each, scene);
      if (each.hasBand) data.push(...endsOf(store, each).map((end) => points(end, weight)));
      if (scene.smoothing > 0) data.push(points(weight > 0 ? column : null, 0));
      data.push(points(column, weight));
    }
  return [grid.x, ...data] as unknown as uPlot.AlignedData;
}

/** The value of a line at a point of the data. */
export function valueAt(
  { spec, drawn, smoothing }: Scene,
  data: uPlot.AlignedData,
  index: number,
  at: number,
): number | null {
  if (spec.kind === "stack") {
    const own = data[index + 1]?.[at] ?? null;
    return own === null || index === 0 ? own : own - (data[index]?.[at] ?? 0);
  }
  let place = 0;
  for (let i = 0; i <= index; i++) place += (drawn[i]!.hasBand ? 2 : 0) + (smoothing > 0 ? 1 : 0) + 1;
  return data[place]?.[at] ?? null;
}

/** The newest value of a line. */
export function lastOf(scene: Scene, store: Store, each: Drawn): number | null {
  const column = columnOf(store, each);
  if (column === null) return null;
  const { values, rows } = column.smoothed(weightOf(each, scene)).series;
  for (let i = rows - 1; i >= 0 && i > rows - 2000; i--) if (!Number.isNaN(values[i]!)) return values[i]!;
  return null;
}

/** Means over the buckets of a grid: what a stack shows, since extremes of parts do not add up. */
function meansOn(column: Column, { stride, x }: Grid): (number | null)[] {
  const points: (number | null)[] = new Array(x.length).fill(null);
  const each = stride === 1 ? 1 : 2;
  let from = rowAt(column, x[0]!);
  for (let i = 0; i < x.length && from < column.rows; i += each) {
    const to = rowFrom(column, from, x[i]! + stride);
    if (to === from) continue;
    const mean = meanOf(column, from, to);
    points[i] = mean;
    if (each === 2) points[i + 1] = mean;
    from = to;
  }
  return points;
}

/** The first row from `from` on whose step is at least `step`; rows nearly always follow each other step by step. */
function rowFrom({ steps, rows }: Series, from: number, step: number): number {
  const guess = Math.min(rows, from + Math.max(0, Math.round(step - steps[from]!)));
  const fits = (guess === rows || steps[guess]! >= step) && (guess === from || steps[guess - 1]! < step);
  return fits ? guess : rowAt({ steps, rows }, step);
}
