/** uPlot's options, and what its mouse and keys do: they move the range of steps that all charts share. */
import uPlot from "uplot";
import type { ChartSpec } from "./chart-list.ts";
import { bytesText, durationText, numberText, percentText, tickText } from "./format.ts";
import type { Theme } from "./palette.ts";
import type { View } from "./view.ts";

export const PLOT_PX = 190;

/** A value in words, by unit. */
export const unitTexts: Readonly<Record<ChartSpec["unit"], (value: number) => string>> = {
  number: numberText,
  share: percentText,
  bytes: bytesText,
  seconds: durationText,
};

const axisTexts: Readonly<Record<ChartSpec["unit"], (value: number) => string>> = {
  number: tickText,
  share: (value) => `${Number((100 * value).toPrecision(4))}%`,
  bytes: bytesText,
  seconds: (value) => `${tickText(value)} s`,
};

const sync = uPlot.sync("steps");

export interface PlotParts {
  readonly spec: ChartSpec;
  readonly theme: Theme;
  readonly view: View;
  readonly logarithmic: boolean;
  readonly width: number;
  readonly series: uPlot.Series[];
  readonly bands: uPlot.Band[];
  /** The cursor stands at this point of the data; null: at none. */
  readonly onPoint: (at: number | null) => void;
}

export function plotOptions({
  spec,
  theme,
  view,
  logarithmic,
  width,
  series,
  bands,
  onPoint,
}: PlotParts): uPlot.Options {
  const axis: uPlot.Axis = {
    stroke: theme.muted,
    grid: { stroke: theme.grid, width: 1 },
    ticks: { show: false },
    font: "11px Inter, system-ui, 'Liberation Sans', sans-serif",
  };
  const text = axisTexts[spec.unit];
  const isBytes = spec.unit === "bytes";
  return {
    ...{ width, height: PLOT_PX, series, bands, padding: [8, 10, 0, 0] },
    legend: { show: false },
    cursor: {
      sync: { key: sync.key, setSeries: false, scales: ["x", null] },
      drag: { x: true, y: false, setScale: false, dist: 4 },
      points: { size: 7, width: 1.5, fill: theme.surface },
    },
    scales: {
      x: { time: false, range: () => [view.range[0], view.range[1]] },
      y: { distr: logarithmic ? 3 : 1, range: logarithmic ? logRange : (_, low, high) => rangeOf(spec, low, high) },
    },
    axes: [
      {
        ...axis,
        ...{ size: 22, gap: 3, space: 60 },
        values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tickText(tick) : "")),
      },
      {
        ...axis,
        ...{ size: isBytes ? 66 : 50, gap: 6, space: 28 },
        values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : text(tick))),
        ...(isBytes && { splits: (_u: uPlot, _a: number, low: number, high: number) => byteSplits(low, high) }),
      },
    ],
    hooks: {
      setCursor: [(plot) => onPoint(plot.cursor.idx ?? null)],
      setSelect: [
        (plot) => {
          const { left, width: selected } = plot.select;
          if (selected < 4) return;
          const [min, max] = [plot.posToVal(left, "x"), plot.posToVal(left + selected, "x")];
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          view.show(min, max);
        },
      ],
    },
  };
}

/** The range of an axis around the values that are shown. */
export function rangeOf(
  { unit, fromZero = false }: Pick<ChartSpec, "unit" | "fromZero">,
  low: number | null,
  high: number | null,
): [number, number] {
  if (low === null || high === null || !Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
  const bottom = fromZero ? Math.min(0, low) : low;
  const top = fromZero ? Math.max(0, high) : high;
  const room = (top - bottom || Math.abs(top) || 1) * 0.07;
  const limited = unit === "share" && low >= 0 && high <= 1;
  const end = limited ? Math.min(1, top + room) : top + room;
  if (fromZero && bottom === 0) return [0, end];
  return [limited ? Math.max(0, bottom - room) : bottom - room, end];
}

function logRange(_: uPlot, low: number | null, high: number | null): [number, number] {
  const top = high !== null && high > 0 ? high : 1;
  const bottom = low !== null && low > 0 ? low : top / 1e4;
  const [from, to] = [Math.floor(Math.log10(bottom)), Math.ceil(Math.log10(top))];
  return [10 ** from, 10 ** Math.max(to, from + 1)];
}

/** Ticks at whole multiples of powers of two. */
function byteSplits(low: number, high: number): number[] {
  const step = 2 ** Math.ceil(Math.log2(Math.max(1, (high - low) / 4)));
  const ticks: number[] = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) ticks.push(at);
  return ticks;
}

/** Wheel: with Ctrl or a pinch nearer, sideways along. Shift and drag, or a finger: along. Double click: everything. */
export function heedPointer(plot: uPlot, view: View): void {
  const { over } = plot;
  const onWheel = (event: WheelEvent): void => {
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (event.ctrlKey || event.metaKey) view.zoom(Math.exp(-event.deltaY / 200), plot.posToVal(event.offsetX, "x"));
    else if (sideways || event.shiftKey) view.pan((sideways ? event.deltaX : event.deltaY) / over.clientWidth);
    else return;
    event.preventDefault();
  };
  over.addEventListener("wheel", onWheel, { passive: false });
  over.addEventListener("dblclick", () => view.follow());
  over.addEventListener("pointerdown", (event) => {
    const isFinger = event.pointerType === "touch" && !view.isWhole;
    if (!isFinger && !event.shiftKey) return;
    let last = event.clientX;
    const ended = new AbortController();
    over.setPointerCapture(event.pointerId);
    const move = (now: PointerEvent): void => {
      view.pan((last - now.clientX) / over.clientWidth);
      last = now.clientX;
    };
    over.addEventListener("pointermove", move, ended);
    for (const end of ["pointerup", "pointercancel"] as const) over.addEventListener(end, () => ended.abort(), ended);
  });
  // Before uPlot takes the mouse for a selection.
  const keepFromPlot = (event: MouseEvent): void => {
    if (event.shiftKey) event.stopImmediatePropagation();
  };
  over.addEventListener("mousedown", keepFromPlot, { capture: true });
}

/**
 * Keys on a chart: they read values, move and zoom.
 *
 * @returns whether the key was one of these, and whether the cursor stands elsewhere now
 */
export function heedKey(plot: uPlot, view: View, { key, shiftKey }: KeyboardEvent): "none" | "view" | "cursor" {
  const moves: Readonly<Record<string, () => void>> = {
    "+": () => view.zoom(2),
    "=": () => view.zoom(2),
    "-": () => view.zoom(0.5),
    "0": () => view.follow(),
  };
  const steps: Readonly<Record<string, number>> = {
    ArrowLeft: -1,
    ArrowRight: 1,
    Home: Number.NEGATIVE_INFINITY,
    End: Number.POSITIVE_INFINITY,
  };
  if (moves[key]) {
    moves[key]();
    return "view";
  }
  if (key === "Escape") {
    plot.setCursor({ left: -10, top: -10 });
    return "cursor";
  }
  const step = steps[key];
  if (step === undefined) return "none";
  if (shiftKey && Number.isFinite(step)) {
    view.pan(step / 4);
    return "view";
  }
  moveCursor(plot, step);
  return "cursor";
}

/** Moves the cursor by points that have values. */
function moveCursor(plot: uPlot, by: number): void {
  const x = plot.data[0];
  const { min, max } = plot.scales.x!;
  const rows = plot.data.slice(1) as (number | null)[][];
  const isShown = (i: number) => x[i]! >= min! && x[i]! <= max! && rows.some((values) => values[i] != null);
  const shown = Array.from(x, (_, i) => i).filter(isShown);
  if (shown.length === 0) return;
  const now = plot.cursor.idx;
  const place = now == null ? -1 : shown.findIndex((i) => i >= now);
  const start = place < 0 ? (by < 0 ? shown.length : -1) : place;
  const at = shown[Math.min(shown.length - 1, Math.max(0, start + by))]!;
  const y = rows.findLast((values) => values[at] != null)![at]!;
  plot.setCursor({ left: plot.valToPos(x[at]!, "x"), top: plot.valToPos(y, "y") });
}
