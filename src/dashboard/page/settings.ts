/** The settings of the runs side by side, and what the trainer had to say. */
import { byId, h, replace } from "./dom.ts";
import type { Store } from "./store.ts";

const shown = (value: unknown): string =>
  value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value);

export function openSettings(store: Store): { draw(): void } {
  const place = byId("settings-table");
  const search = byId<HTMLInputElement>("settings-search");
  const onlyDifferent = byId<HTMLInputElement>("settings-different");
  onlyDifferent.parentElement!.hidden = store.runs.length < 2;
  const draw = (): void => {
    const { runs } = store;
    const words = search.value.toLowerCase().replaceAll("-", "_");
    const keys = [...new Set(runs.flatMap(({ info }) => Object.keys(info.settings)))];
    const rows = keys.flatMap((key) => {
      const values = runs.map(({ info }) => shown(info.settings[key]));
      const isDifferent = new Set(values).size > 1;
      if (words !== "" && !key.includes(words) && !values.some((value) => value.toLowerCase().includes(words)))
        return [];
      if (onlyDifferent.checked && !isDifferent) return [];
      return [
        h(
          "tr",
          { class: isDifferent && "different" },
          h("th", { scope: "row" }, key, isDifferent && h("span", { class: "badge" }, "differs")),
          values.map((value) => h("td", { class: value === "null" && "muted" }, value)),
        ),
      ];
    });
    replace(
      place,
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "setting"),
          runs.map(({ info }) => h("th", { scope: "col" }, info.name)),
        ),
      ),
      h("tbody", {}, rows),
    );
    byId("settings-empty").hidden = rows.length > 0;
  };
  let last = "";
  store.onChange(() => {
    const now = store.runs.map(({ state }) => state.record).join();
    if (now !== last) draw();
    last = now;
  });
  search.addEventListener("input", draw);
  onlyDifferent.addEventListener("change", draw);
  return { draw };
}

export interface Note {
  readonly at: number;
  readonly text: string;
}

/** What the trainer said while it ran: warnings, where it saved something. */
export function openNotes(): { add(note: Note): void; clear(): void } {
  const list = byId("notes");
  const tab = byId("tab-notes");
  let count = 0;
  return {
    add({ at, text }) {
      count++;
      tab.hidden = false;
      const isWarning = /^(note: )?step \d+: /.test(text);
      const time = new Date(at).toLocaleTimeString();
      list.prepend(
        h(
          "li",
          { class: isWarning && "warning" },
          h("time", {}, time),
          isWarning && h("span", { class: "badge warn" }, "warning"),
          h("span", {}, text),
        ),
      );
      while (list.children.length > 400) list.lastElementChild?.remove();
      byId("note-count").textContent = String(count);
    },
    clear() {
      count = 0;
      list.replaceChildren();
    },
  };
}
