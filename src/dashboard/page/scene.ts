/** What a chart draws: its lines of the shown runs, as uPlot's series and their points. Knows no elements. */
import type uPlot from "uplot";
import type { ChartSpec, Line } from "./chart-list.ts";
import type { Column } from "./columns.ts";
import type { Grid, Points } from "./decimate.ts";
import { colourOf, dashOf, hatchOf, type Theme, withAlpha } from "./palette.ts";
import type { Run, Store } from "./store.ts";
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
  /** Whether points stand for several steps, so that they have a least and a largest value. */
  readonly hasExtremes: boolean;
}

/** All of a scene but what its grid says. */
export function sceneOf(spec: ChartSpec, context: ChartContext, logarithmic: boolean): Omit<Scene, "hasExtremes"> {
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
        ...{ run, line, label, ...lookOf(run, l, isOne) },
        // Bands of several runs hide each other.
        hasBand: hasBand && isOne && !logarithmic,
      };
    });
  });
  return { spec, drawn, smoothing: context.smoothing() };
}

/** Colour and dashes: of one run by line; of several, colour by run, and dashes by both. */
const lookOf = (run: Run, line: number, isOne: boolean) =>
  isOne ? { colour: line, dash: line } : { colour: run.info.run, dash: run.info.run + 3 * line };

/** What cannot change without a new plot. */
export const shapeOf = ({ drawn, smoothing, hasExtremes }: Scene): string =>
  [smoothing > 0, hasExtremes, ...drawn.map(({ label, hasBand }) => `${label} ${hasBand}`)].join("\n");

export interface SeriesParts {
  readonly series: uPlot.Series[];
  readonly bands: uPlot.Band[];
  /** Which of the series are the lines themselves: `widthOf` says how wide they are. */
  readonly lines: readonly number[];
}

/** Points of a line from which on it is thin. */
const MANY_POINTS = 100;

/**
 * The width of a line in pixels. One of many points is ragged: thin, it shows more, and is drawn in a third of the time, since
 * a wider line is the area of a path, with a round corner at each point.
 */
export const widthOf = (points: number): number => (points > MANY_POINTS ? 1 : 1.75);

/**
 * uPlot's series, in the order in which `dataOf` gives their points. A line has those of its band, if it has one; those of the
 * least and largest values where many steps share a point; its faint self if it is smoothed; and itself.
 *
 * @param points how many a line has
 */
export function seriesOf({ spec, drawn, smoothing, hasExtremes }: Scene, theme: Theme, points: number): SeriesParts {
  const series: uPlot.Series[] = [{}];
  const lines: number[] = [];
  const bands: uPlot.Band[] = [];
  const plain: uPlot.Series = { points: { show: false }, spanGaps: true };
  if (spec.kind === "stack") {
    // Each area lies between its own sum and that of the ones below.
    for (const [i, { colour }] of drawn.entries()) {
      const fill = () => hatchOf(colour, theme) as string;
      series.push({ ...plain, stroke: colourOf(colour, theme), width: 1, ...(i === 0 && { fill }) });
      if (i > 0) bands.push({ series: [i + 1, i], fill });
    }
    return { series, bands, lines };
  }
  const area = (stroke: string, alpha: number): void => {
    const edge: uPlot.Series = { ...plain, stroke: "transparent", width: 0 };
    series.push({ ...edge }, { ...edge });
    bands.push({ series: [series.length - 1, series.length - 2], fill: withAlpha(stroke, alpha) });
  };
  for (const { line, colour, dash, hasBand } of drawn) {
    const stroke = colourOf(colour, theme);
    const isSparse = line.table === "evaluations";
    if (hasBand) area(stroke, theme.isDark ? 0.16 : 0.12);
    if (hasExtremes) area(stroke, theme.isDark ? 0.32 : 0.26);
    if (smoothing > 0) series.push({ ...plain, stroke: withAlpha(stroke, 0.3), width: 1 });
    lines.push(series.length);
    series.push({
      ...{ stroke, width: widthOf(points), dash: [...dashOf(dash)], spanGaps: true, cap: "round" },
      points: {
        show: isSparse ? (_plot, _series, first, last) => last - first < 400 : false,
        ...{ size: 6, stroke, fill: theme.surface },
      },
    });
  }
  return { series, bands, lines };
}

export const columnOf = (store: Store, { run, line }: Drawn, name = line.name): Column | null =>
  store.column(run, line.table, name);

/** Evaluations are few, and each stands for itself. */
const weightOf = ({ line }: Drawn, { smoothing }: Scene): number => (line.table === "evaluations" ? 0 : smoothing);

/** The ends of a line's band: two columns, or its own plus and minus another. Smoothing and means are linear in both. */
function endsOf(store: Store, each: Drawn, grid: Grid, weight: number, mean: Points["mean"]): Points["mean"][] {
  const { spread, between } = each.line;
  const of = (name: string) => columnOf(store, each, name)?.points(grid, weight).mean ?? nothing(grid);
  if (between) return between.map(of);
  const deviation = of(spread!);
  return [-1, 1].map((sign) =>
    mean.map((value, i) => (value === null || deviation[i] == null ? null : value + sign * deviation[i])),
  );
}

const nothing = ({ x }: Grid) => new Array<number | null>(x.length).fill(null);

export function dataOf(scene: Scene, store: Store, grid: Grid): uPlot.AlignedData {
  const points = (each: Drawn, weight: number): Points =>
    columnOf(store, each)?.points(grid, weight) ?? { mean: nothing(grid), low: nothing(grid), high: nothing(grid) };
  const data: (number | null)[][] = [];
  if (scene.spec.kind === "stack") {
    let below = nothing(grid);
    for (const each of scene.drawn) {
      const own = points(each, 0).mean;
      const under = below;
      // A phase that did not run took no time.
      below = own.map((value, i) => (value === null && under[i] == null ? null : (value ?? 0) + (under[i] ?? 0)));
      data.push(below);
    }
  } else
    for (const each of scene.drawn) {
      const weight = weightOf(each, scene);
      const raw = points(each, 0);
      const shown = weight > 0 ? points(each, weight).mean : raw.mean;
      if (each.hasBand) data.push(...endsOf(store, each, grid, weight, shown));
      if (scene.hasExtremes) data.push(raw.low, raw.high);
      if (scene.smoothing > 0) data.push(weight > 0 && grid.stride === 1 ? raw.mean : nothing(grid));
      data.push(shown);
    }
  return [grid.x, ...data] as unknown as uPlot.AlignedData;
}

/** The value of a line at a point of the data. */
export function valueAt(
  { spec, drawn, smoothing, hasExtremes }: Scene,
  data: uPlot.AlignedData,
  index: number,
  at: number,
): number | null {
  if (spec.kind === "stack") {
    const own = data[index + 1]?.[at] ?? null;
    return own === null || index === 0 ? own : own - (data[index]?.[at] ?? 0);
  }
  let place = 0;
  for (let i = 0; i <= index; i++)
    place += (drawn[i]!.hasBand ? 2 : 0) + (hasExtremes ? 2 : 0) + (smoothing > 0 ? 1 : 0) + 1;
  return data[place]?.[at] ?? null;
}

/** Asks for all columns. @returns whether they are here, or overviews of them */
export function isComplete({ drawn }: Pick<Scene, "drawn">, store: Store): boolean {
  const columns = drawn.flatMap((each) => {
    const { line, hasBand } = each;
    const names = [line.name, ...(hasBand ? (line.between ?? [line.spread ?? line.name]) : [])];
    return names.map((name) => columnOf(store, each, name));
  });
  return columns.every((column) => column === null || column.rows > 0 || column.overview !== null);
}

/** The newest value of a line. */
export const lastOf = (scene: Scene, store: Store, each: Drawn): number | null =>
  columnOf(store, each)?.last(weightOf(each, scene)) ?? null;
