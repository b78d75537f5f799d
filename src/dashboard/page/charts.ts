/** The charts of the runs that are shown: the grid of cards, the tools above it, and what all charts share. */
import { type Chart, createChart } from "./chart.ts";
import { type ChartSpec, charts, otherCharts } from "./chart-list.ts";
import { byId, h, oncePerFrame, replace, setAttribute, setText } from "./dom.ts";
import { countText, numberText } from "./format.ts";
import { currentTheme, type Theme } from "./palette.ts";
import { runPicker } from "./run-picker.ts";
import type { ChartContext } from "./scene.ts";
import type { Run, Store } from "./store.ts";
import { createView, type View } from "./view.ts";

export interface ChartsPanel {
  readonly view: View;
  readonly shownRuns: () => readonly Run[];
  /** The colours of the page have changed. */
  retheme(): void;
}

/** Charts that are drawn at once; a screen has about as many. */
const FIRST = 12;

/** Slider positions: the weight of the past. */
const weights = [0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995];

export function openCharts(store: Store, announce: (text: string) => void): ChartsPanel {
  const view = createView();
  let theme: Theme = currentTheme();
  let weight = weights[Number(localStorage.getItem("smoothing"))] ?? 0;
  const picker = runPicker(store.runs, () => changeRuns());
  const context: ChartContext = {
    ...{ store, view, announce, shownRuns: picker.shown, theme: () => theme, smoothing: () => weight },
  };

  const all = new Map<string, Chart>();
  const watch = (rootMargin: string, tell: (chart: Chart, isInside: boolean) => void): IntersectionObserver =>
    new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          const chart = [...all.values()].find(({ element }) => element === target);
          if (chart) tell(chart, isIntersecting);
        }
      },
      { rootMargin },
    );
  /** Those near have a picture before they are scrolled to; only those on the screen follow the run. */
  const observers = [
    watch("200px", (chart, isNear) => chart.setNear(isNear)),
    watch("0px", (chart, isOnScreen) => chart.setOnScreen(isOnScreen)),
  ];

  const [grid, others, otherGrid] = [byId("chart-grid"), byId<HTMLDetailsElement>("other-charts"), byId("other-grid")];
  const names = () => {
    const of = (table: "steps" | "evaluations") => [
      ...new Set(picker.shown().flatMap((run) => run.tables[table].names)),
    ];
    return { steps: of("steps"), evaluations: of("evaluations") };
  };
  const place = (specs: readonly ChartSpec[], into: HTMLElement): void => {
    const wanted = specs.map((spec) => {
      const known = all.get(spec.id);
      if (known) return known;
      const chart = createChart(spec, context);
      // Without waiting to be told that they are seen.
      if (all.size < FIRST) chart.setNear(true);
      all.set(spec.id, chart);
      for (const observer of observers) observer.observe(chart.element);
      return chart;
    });
    const ids = new Set(specs.map(({ id }) => id));
    for (const child of [...into.children])
      if (!ids.has(child.id.replace(/^chart-/, ""))) {
        const gone = all.get(child.id.replace(/^chart-/, ""));
        if (gone) for (const observer of observers) observer.unobserve(gone.element);
        gone?.destroy();
        if (gone) all.delete(gone.spec.id);
      }
    for (const [i, { element }] of wanted.entries())
      if (into.children[i] !== element) into.insertBefore(element, into.children[i] ?? null);
  };

  const waiting = byId("waiting");
  let laidOut = "";
  const layOut = (): void => {
    const now = names();
    const key = JSON.stringify([now, others.open]);
    if (key === laidOut) return;
    laidOut = key;
    const isEmpty = now.steps.length + now.evaluations.length === 0;
    waiting.hidden = !isEmpty;
    place(isEmpty ? [] : charts.filter((spec) => spec.ifEmpty !== undefined || spec.lines(now).length > 0), grid);
    const rest = otherCharts(now);
    others.hidden = rest.length === 0;
    setText(byId("other-count"), countText(rest.length));
    place(others.open ? rest : [], otherGrid);
  };

  const drawAll = (): void => {
    for (const chart of all.values()) chart.draw();
  };
  const showRange = toolbar(view);
  const update = oncePerFrame(() => {
    const runs = picker.shown();
    const states = runs.map(({ state }) => state);
    const last = Math.max(1, ...states.map((state) => state.step));
    const first = Math.min(...runs.map((run) => firstStep(run)));
    layOut();
    view.extend(Number.isFinite(first) ? first : 0, last);
    showRange();
    drawAll();
  });
  const changeRuns = (): void => {
    for (const chart of all.values()) chart.rebuild();
    update();
  };

  others.addEventListener("toggle", update);
  view.onChange(() => {
    showRange();
    for (const chart of all.values()) chart.move();
  });
  store.onChange(update);
  smoothingSlider(weight, (next) => {
    weight = next;
    drawAll();
  });
  document.fonts?.ready.then(update);
  return {
    ...{ view, shownRuns: picker.shown },
    retheme() {
      theme = currentTheme();
      for (const chart of all.values()) chart.rebuild();
    },
  };
}

/** Evaluations before the first step have step 0. */
function firstStep({ tables, state }: Run): number {
  if (state.rows.steps + state.rows.evaluations === 0) return Number.POSITIVE_INFINITY;
  const firsts = [tables.steps, tables.evaluations].filter(({ rows }) => rows > 0).map(({ steps }) => steps[0]!);
  return Math.min(...firsts, 1);
}

function smoothingSlider(weight: number, change: (weight: number) => void): void {
  const slider = byId<HTMLInputElement>("smoothing");
  const output = byId("smoothing-value");
  const show = (value: number): void => {
    output.textContent = value === 0 ? "off" : String(value);
    slider.setAttribute("aria-valuetext", value === 0 ? "off" : `weight of the past ${value}`);
  };
  slider.max = String(weights.length - 1);
  slider.value = String(Math.max(0, weights.indexOf(weight)));
  show(weight);
  slider.addEventListener("input", () => {
    const value = weights[Number(slider.value)] ?? 0;
    localStorage.setItem("smoothing", slider.value);
    show(value);
    change(value);
  });
}

/** The buttons for the range of steps. @returns shows the current range */
function toolbar(view: View): () => void {
  const label = byId("range");
  const button = (text: string, title: string, act: () => void) =>
    h("button", { type: "button", title, "aria-label": title, onclick: act }, text);
  const lasts = [100, 1000, 10_000].map((count) => ({
    count,
    button: button(`last ${countText(count)}`, `Show the last ${countText(count)} steps, and go with them`, () =>
      view.follow(count),
    ),
  }));
  const whole = button("all", "Show all steps, and go with them", () => view.follow());
  replace(
    byId("range-tools"),
    button("◂", "Earlier", () => view.pan(-0.5)),
    button("−", "Show more steps", () => view.zoom(0.5)),
    button("+", "Show fewer steps", () => view.zoom(2)),
    button("▸", "Later", () => view.pan(0.5)),
    whole,
    lasts.map((each) => each.button),
  );
  return () => {
    const [from, to] = view.range;
    setText(label, `steps ${numberText(Math.ceil(from))} – ${numberText(Math.floor(to))}`);
    setAttribute(whole, "aria-pressed", String(view.isWhole));
    for (const { count, button: each } of lasts) each.hidden = view.whole[1] - view.whole[0] <= count;
  };
}
