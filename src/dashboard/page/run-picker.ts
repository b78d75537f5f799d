/** Which of the runs are drawn: a box per run, where there are several. */
import { byId, h, replace, svg } from "./dom.ts";
import { colourOf, currentTheme } from "./palette.ts";
import type { Run } from "./store.ts";

export interface RunPicker {
  readonly shown: () => readonly Run[];
}

export function runPicker(runs: readonly Run[], onChange: () => void): RunPicker {
  const hidden = new Set<Run>();
  let shown: readonly Run[] = runs;
  const place = byId("run-picker");
  place.hidden = runs.length < 2;
  const boxes = runs.map((run) => {
    const box = h("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(run);
      else hidden.add(run);
      shown = runs.filter((each) => !hidden.has(each));
      onChange();
    });
    const mark = svg("svg", { viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" });
    mark.append(svg("rect", { width: 12, height: 12, rx: 3, fill: colourOf(run.info.run, currentTheme()) }));
    return h("label", { class: "run-box", title: run.info.folder }, box, mark, run.info.name);
  });
  replace(place, boxes);
  return { shown: () => shown };
}
