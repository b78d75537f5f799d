/** One chart: a card with a title, a legend that holds the values, and uPlot's canvas. */
import uPlot from "uplot";
import type { ChartSpec } from "./chart-list.ts";
import { type Grid, gridOf } from "./decimate.ts";
import { h, onceWithin, replace, setAttribute, setText, svg } from "./dom.ts";
import { countText } from "./format.ts";
import { colourOf, dashOf, hatchOf, type Theme } from "./palette.ts";
import { heedKey, heedPointer, plotOptions, unitTexts } from "./plot-options.ts";
import {
  type ChartContext,
  type Drawn,
  dataOf,
  isComplete,
  lastOf,
  type Scene,
  sceneOf,
  seriesOf,
  shapeOf,
  valueAt,
  widthOf,
} from "./scene.ts";

export interface Chart {
  readonly element: HTMLElement;
  readonly spec: ChartSpec;
  /** Draws what there is now; of a chart out of sight, no more than its first picture, and that only if it is near. */
  draw(): void;
  /** Shows another range of steps. */
  move(): void;
  /** Makes it anew: another theme, other runs. */
  rebuild(): void;
  /** Whether it may be scrolled to soon. */
  setNear(isNear: boolean): void;
  setOnScreen(isOnScreen: boolean): void;
  destroy(): void;
}

/** Pixels per point: more points show nothing new. */
const BUCKET_PX = 2.5;

/** The elements of a card. */
function cardOf(spec: ChartSpec) {
  const plot = h("div", {
    ...{ class: "plot", tabindex: "0", role: "application", "aria-roledescription": "chart" },
    ...{ "aria-label": spec.title, "aria-describedby": "chart-keys" },
  });
  const [legend, headline, empty] = [
    h("ul", { class: "legend" }),
    h("span", { class: "headline" }),
    h("p", { class: "empty" }),
  ];
  const log = h("button", {
    ...{ class: "quiet", type: "button", "aria-pressed": "false" },
    ...{ title: "Logarithmic axis", "aria-label": `log axis: ${spec.title}` },
  });
  log.textContent = "log";
  const title = h("h3", { id: `title-${spec.id}`, title: spec.about }, spec.title);
  const head = h(
    "div",
    { class: "card-head" },
    title,
    headline,
    spec.kind === "lines" && spec.unit === "number" && log,
  );
  const attributes = { class: "card", "aria-labelledby": `title-${spec.id}`, id: `chart-${spec.id}` };
  const element = h("section", attributes, head, legend, plot, empty);
  return { element, plot, legend, headline, empty, log };
}

export function createChart(spec: ChartSpec, context: ChartContext): Chart {
  const { store, view, theme } = context;
  const format = (value: number | null) => (value === null ? "–" : unitTexts[spec.unit](value));
  const card = cardOf(spec);
  let plot: uPlot | null = null;
  let scene: Scene = { spec, drawn: [], smoothing: 0, hasExtremes: false };
  let shape = "";
  let isNear = false;
  let isOnScreen = false;
  let isStale = true;
  let logarithmic = false;
  let width = 0;
  let values: HTMLElement[] = [];
  let lines: readonly number[] = [];
  let grid: Grid | null = null;
  // Asking the element at each draw would have the page laid out as often.
  let isResized = false;
  const sizes = new ResizeObserver(() => {
    isResized = true;
    draw();
  });
  sizes.observe(card.plot);

  const gridNow = (): Grid => {
    grid = gridOf(...view.range, Math.max(20, width / BUCKET_PX));
    return grid;
  };
  const showValues = (at: number | null): void => {
    for (const [i, each] of scene.drawn.entries())
      if (values[i])
        setText(
          values[i],
          format(at === null || plot === null ? lastOf(scene, store, each) : valueAt(scene, plot.data, i, at)),
        );
    setText(card.headline, stepText(grid, at));
  };
  const build = (): void => {
    plot?.destroy();
    plot = null;
    values = scene.drawn.map(() => h("span", { class: "value" }));
    const items = scene.drawn.map((each, i) =>
      h("li", {}, swatch(each, spec, theme()), h("span", { class: "name" }, each.label), values[i]!),
    );
    replace(card.legend, items);
    if (width === 0 || scene.drawn.length === 0) return;
    const data = dataOf(scene, store, gridNow());
    const made = seriesOf(scene, theme(), data[0].length);
    lines = made.lines;
    const parts = { spec, theme: theme(), view, logarithmic, width, ...made, onPoint: showValues };
    plot = new uPlot(plotOptions(parts), data, card.plot);
    plot.root.querySelector("canvas")?.setAttribute("aria-hidden", "true");
    heedPointer(plot, view);
  };
  const update = (on: uPlot): void => {
    const data = dataOf(scene, store, gridNow());
    for (const i of lines) on.series[i]!.width = widthOf(data[0].length);
    on.batch(() => {
      on.setData(data, false);
      on.setScale("x", { min: view.range[0], max: view.range[1] });
    });
  };
  const describe = (): void => {
    const [from, to] = view.range.map(Math.round);
    const last = scene.drawn.map((each) => `${each.label} ${format(lastOf(scene, store, each))}`).join(", ");
    setAttribute(card.plot, "aria-label", `${spec.title}, steps ${from} to ${to}; last: ${last}`);
  };
  const describeSoon = onceWithin(300, describe);
  const draw = (): void => {
    isStale = true;
    if (!(isOnScreen || (isNear && plot === null))) return;
    isStale = false;
    const found = sceneOf(spec, context, logarithmic);
    const isEmpty = found.drawn.length === 0;
    card.empty.hidden = !isEmpty;
    card.plot.hidden = isEmpty;
    // Nothing is drawn twice while the page begins.
    if (!isComplete(found, store) && plot === null) return;
    if (isEmpty) setText(card.empty, spec.ifEmpty ?? "Not recorded in this run.");
    const wide = plot === null || isResized ? card.plot.clientWidth : width;
    isResized = false;
    const isOther = wide !== width;
    width = wide;
    scene = { ...found, hasExtremes: gridNow().stride > 1 };
    const now = `${logarithmic} ${shapeOf(scene)}`;
    if (now !== shape || plot === null || isOther) {
      shape = now;
      build();
    } else update(plot);
    if ((plot?.cursor.idx ?? null) === null) showValues(null);
    describe();
  };
  const announce = (on: uPlot): void => {
    const at = on.cursor.idx ?? null;
    if (at === null) return;
    const all = scene.drawn.map((each, i) => `${each.label} ${format(valueAt(scene, on.data, i, at))}`);
    context.announce(`${stepText(grid, at)}: ${all.join(", ")}`);
  };

  card.log.addEventListener("click", () => {
    logarithmic = !logarithmic;
    card.log.setAttribute("aria-pressed", String(logarithmic));
    draw();
  });
  card.plot.addEventListener("keydown", (event) => {
    if (plot === null || event.altKey || event.ctrlKey || event.metaKey) return;
    const done = heedKey(plot, view, event);
    if (done !== "none") event.preventDefault();
    if (done === "cursor") announce(plot);
  });
  return {
    ...{ element: card.element, spec, draw },
    move() {
      isStale ||= !isOnScreen;
      if (!isOnScreen || plot === null) return;
      if (gridNow().stride > 1 !== scene.hasExtremes) return draw();
      update(plot);
      describeSoon();
    },
    rebuild() {
      shape = "";
      draw();
    },
    setNear(now) {
      isNear = now;
      if (now && isStale) draw();
    },
    setOnScreen(now) {
      isOnScreen = now;
      if (now && isStale) draw();
    },
    destroy() {
      sizes.disconnect();
      plot?.destroy();
      card.element.remove();
    },
  };
}

/** The steps of a point. */
function stepText(grid: Grid | null, at: number | null): string {
  const from = grid?.first[at ?? -1];
  if (grid === null || from === undefined) return "";
  const { stride } = grid;
  return stride === 1 ? `step ${countText(from)}` : `steps ${countText(from)} – ${countText(from + stride - 1)}`;
}

/** The look of a line or area, for the legend. */
function swatch({ colour, dash, line }: Drawn, spec: ChartSpec, theme: Theme): Element {
  const stroke = colourOf(colour, theme);
  if (spec.kind === "stack") {
    const area = h("canvas", { class: "swatch", width: 24, height: 12, "aria-hidden": "true" });
    const context = area.getContext("2d");
    if (context !== null) {
      context.fillStyle = hatchOf(colour, theme);
      context.fillRect(0, 0, 24, 12);
      context.strokeStyle = stroke;
      context.strokeRect(0.5, 0.5, 23, 11);
    }
    return area;
  }
  const isSparse = line.table === "evaluations";
  const pattern = dashOf(dash).join(" ") || null;
  return svg(
    "svg",
    { class: "swatch", viewBox: "0 0 24 12", width: 24, height: 12, "aria-hidden": "true" },
    svg("line", { x1: 0, y1: 6, x2: 24, y2: 6, stroke, "stroke-width": 2, "stroke-dasharray": pattern }),
    isSparse && svg("circle", { cx: 12, cy: 6, r: 3, fill: theme.surface, stroke, "stroke-width": 1.5 }),
  );
}
