/** The browser of completions: those of a generation are filtered, listed and looked at. */
import { askCompletion, askCompletions } from "./api.ts";
import { type Entry, rowsOf } from "./completion-rows.ts";
import { showDetail } from "./detail.ts";
import { byId, h, replace, takesKeys } from "./dom.ts";
import { countText, plural } from "./format.ts";
import { generationPicker } from "./generations.ts";
import {
  arranged,
  type Filter,
  filters,
  filterTexts,
  type Group,
  groupsOf,
  judges,
  type Listed,
  type Order,
  orders,
} from "./groups.ts";
import type { Run, Store } from "./store.ts";
import { virtualList } from "./virtual-list.ts";

export interface CompletionsPanel {
  /** The panel is looked at, or no longer. */
  setVisible(isVisible: boolean): void;
}

interface Generation {
  readonly run: Run;
  readonly step: number;
  /** Of the file. */
  readonly version: string;
  readonly groups: readonly Group[];
}

/** Reads the list of a generation's completions; null if it has none, or `isWanted` says no more. */
async function readGeneration(run: Run, step: number, isWanted: () => boolean): Promise<Generation | null> {
  let lines: Listed[] = [];
  let version = "";
  for (;;) {
    const answer = await askCompletions(run.info.run, step, lines.length);
    if (answer === null || !isWanted()) return null;
    if (version !== "" && version !== answer.version) {
      [lines, version] = [[], ""];
      continue;
    }
    version = answer.version;
    lines = lines.concat(answer.lines.map((line, i) => ({ ...line, index: answer.from + i })));
    byId("completions-summary").textContent = `reading … ${countText(lines.length)}`;
    if (!answer.complete) continue;
    byId("omitted").textContent =
      answer.omitted === 0 ? "" : `${plural(answer.omitted, "line")} left out: no completion, or too long`;
    return { run, step, version, groups: groupsOf(lines) };
  }
}

/** The buttons of the filters, with how many pass each. */
function showChips(place: HTMLElement, groups: readonly Group[], now: Filter, choose: (filter: Filter) => void): void {
  const by = judges(groups.flatMap(({ members }) => members));
  const focused = place.contains(document.activeElement);
  const chips = filters.map((filter) => {
    const count = groups.reduce(
      (sum, group) => sum + group.members.filter((line) => by[filter](line, group)).length,
      0,
    );
    const attributes = { type: "button", title: filterTexts[filter], "aria-pressed": String(filter === now) };
    return h(
      "button",
      { ...attributes, onclick: () => choose(filter) },
      filter,
      h("span", { class: "count" }, countText(count)),
    );
  });
  replace(place, chips);
  if (focused) chips[filters.indexOf(now)]!.focus();
}

export function openCompletions(store: Store): CompletionsPanel {
  let run: Run | undefined;
  let generation: Generation | null = null;
  let filter: Filter = "all";
  let order: Order = "file";
  let entries: readonly (Entry | null)[] = [];
  let isVisible = false;
  /** Counts what is asked for: an answer that comes late is dropped. */
  let asked = 0;
  const [detail, summary, chips] = [byId("detail"), byId("completions-summary"), byId("filters")];

  const choose = async (row: number): Promise<void> => {
    const entry = entries[row];
    if (!entry || generation === null) return;
    const { run: of, step, version, groups } = generation;
    const mine = ++asked;
    const group = groups.find((each) => each.group === entry.line.group)!;
    try {
      const found = await askCompletion(of.info.run, step, entry.line.index, version);
      if (mine !== asked) return;
      showDetail(detail, { ...{ step, group, line: entry.line, row: found }, chooseMember });
      detail.scrollTop = 0;
    } catch {
      if (mine === asked)
        replace(detail, h("p", { class: "empty" }, "The file has changed: choose the generation again."));
    }
  };
  const list = virtualList("Completions", (row) => void choose(row));
  byId("list").append(list.element);

  /** @param wanted the index of the completion to choose; by default the first */
  const showList = (wanted?: number): void => {
    const groups = generation?.groups ?? [];
    const kept = arranged(groups, judges(groups.flatMap(({ members }) => members))[filter], order);
    const made = rowsOf(kept, order === "file");
    entries = made.entries;
    list.setRows(made.rows);
    showChips(chips, groups, filter, (next) => {
      filter = next;
      showList();
    });
    const count = entries.filter((entry) => entry !== null).length;
    summary.textContent = `${plural(count, "completion")} of ${plural(kept.length, order === "file" ? "prompt" : "completion")}`;
    if (order !== "file") summary.textContent = plural(count, "completion");
    const row = entries.findIndex((entry) => entry !== null && (wanted === undefined || entry.line.index === wanted));
    if (row >= 0) list.choose(row);
    else
      replace(detail, h("p", { class: "empty" }, groups.length === 0 ? "No completions yet." : `None is ${filter}.`));
  };
  const chooseMember = ({ index }: Listed): void => {
    const row = entries.findIndex((entry) => entry?.line.index === index);
    if (row >= 0) list.choose(row);
    else {
      filter = "all"; // it is filtered out
      showList(index);
    }
  };

  const load = async (step: number | null): Promise<void> => {
    const of = run;
    if (step === null || of === undefined) {
      generation = null;
      showList();
      replace(detail, h("p", { class: "empty" }, "No completions are recorded yet; save_completions records them."));
      return;
    }
    list.element.setAttribute("aria-busy", "true");
    const read = await readGeneration(of, step, () => run === of && picker.step === step).catch(() => null);
    list.element.removeAttribute("aria-busy");
    if (read === null) return;
    generation = read;
    showList();
  };
  const picker = generationPicker(
    (step) => void load(step),
    () => detail.contains(document.activeElement),
  );
  const setRun = (next: Run | undefined): void => {
    run = next;
    picker.setRun(next);
    if (isVisible) void picker.refresh();
  };

  const orderSelect = byId<HTMLSelectElement>("order");
  replace(
    orderSelect,
    orders.map((each) => h("option", { value: each }, each === "file" ? "by prompt" : each)),
  );
  orderSelect.addEventListener("change", () => {
    order = orderSelect.value as Order;
    showList();
  });
  offerRuns(store.runs, setRun);
  heedKeys(() => isVisible, {
    j: () => list.move(1),
    k: () => list.move(-1),
    "[": () => picker.move(-1),
    "]": () => picker.move(1),
    f: () => {
      filter = filters[(filters.indexOf(filter) + 1) % filters.length]!;
      showList();
    },
  });
  store.onChange(() => {
    if (isVisible && !document.hidden) void picker.refresh();
  });
  return {
    setVisible(now) {
      isVisible = now;
      if (!now) return;
      list.redraw();
      void picker.refresh();
    },
  };
}

/** The run whose completions are looked at, where there are several. */
function offerRuns(runs: readonly Run[], setRun: (run: Run | undefined) => void): void {
  const select = byId<HTMLSelectElement>("completions-run");
  select.parentElement!.hidden = runs.length < 2;
  replace(
    select,
    runs.map(({ info }, i) => h("option", { value: i }, info.name)),
  );
  select.addEventListener("change", () => setRun(runs[Number(select.value)]));
  setRun(runs[0]);
}

function heedKeys(isOn: () => boolean, keys: Readonly<Record<string, () => void>>): void {
  document.addEventListener("keydown", (event) => {
    if (!isOn() || takesKeys(event.target) || event.altKey || event.ctrlKey || event.metaKey) return;
    const act = keys[event.key];
    if (act === undefined) return;
    event.preventDefault();
    act();
  });
}
