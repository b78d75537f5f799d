/**
 * A list of any length of which only the rows in sight exist. Rows have one of two heights: heads, and items that can be
 * chosen. The keyboard stays on the list; what is chosen is told by aria-activedescendant.
 */
import { h, oncePerFrame } from "./dom.ts";

export interface Row {
  /** A head cannot be chosen. */
  readonly isHead: boolean;
  readonly render: () => Node;
}

export interface VirtualList {
  readonly element: HTMLElement;
  setRows(rows: readonly Row[]): void;
  /** Chooses a row; -1: none. */
  choose(index: number): void;
  /** Chooses the item so many items farther. */
  move(by: number): void;
  /** Draws the rows in sight anew. */
  redraw(): void;
}

export const HEAD_PX = 40;
export const ITEM_PX = 54;
/** Rows drawn beyond the edges. */
const MORE = 6;

export function virtualList(label: string, onChoose: (index: number) => void): VirtualList {
  const spacer = h("div", { class: "spacer", role: "presentation" });
  const element = h("div", { class: "virtual", role: "listbox", tabindex: "0", "aria-label": label }, spacer);
  let rows: readonly Row[] = [];
  let tops = new Float64Array(1);
  let items: number[] = [];
  let placeOf = new Int32Array(0);
  let chosen = -1;
  const drawn = new Map<number, HTMLElement>();

  /** The row at a height. */
  const rowAt = (y: number): number => {
    let [low, high] = [0, rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (tops[middle + 1]! <= y) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const draw = (): void => {
    const from = Math.max(0, rowAt(element.scrollTop) - MORE);
    const to = Math.min(rows.length, rowAt(element.scrollTop + element.clientHeight) + MORE);
    for (const [i, row] of drawn)
      if (i < from || i >= to) {
        row.remove();
        drawn.delete(i);
      }
    for (let i = from; i < to; i++) {
      if (drawn.has(i)) continue;
      const { isHead, render } = rows[i]!;
      const row = isHead
        ? h("div", { class: "row head", "aria-hidden": "true" }, render())
        : h(
            "div",
            {
              ...{ class: "row item", role: "option", id: `row-${i}` },
              ...{ "aria-setsize": items.length, "aria-posinset": placeOf[i]! + 1, "aria-selected": i === chosen },
              onclick: () => choose(i),
            },
            render(),
          );
      row.style.transform = `translateY(${tops[i]}px)`;
      drawn.set(i, row);
      spacer.append(row);
    }
  };
  const drawSoon = oncePerFrame(draw);
  const scrollTo = (index: number): void => {
    const [top, bottom] = [tops[index]!, tops[index + 1]!];
    // The head of the group stays in sight.
    if (top - HEAD_PX < element.scrollTop) element.scrollTop = Math.max(0, top - HEAD_PX);
    else if (bottom > element.scrollTop + element.clientHeight) element.scrollTop = bottom - element.clientHeight;
  };
  const mark = (): void => {
    for (const [i, row] of drawn) if (row.role === "option") row.setAttribute("aria-selected", String(i === chosen));
    if (chosen >= 0) element.setAttribute("aria-activedescendant", `row-${chosen}`);
    else element.removeAttribute("aria-activedescendant");
  };
  const choose = (index: number): void => {
    if (index === chosen || rows[index] === undefined || rows[index].isHead) return;
    chosen = index;
    scrollTo(index);
    draw();
    mark();
    onChoose(index);
  };

  const move = (by: number): void => {
    const now = chosen < 0 ? (by > 0 ? -1 : items.length) : placeOf[chosen]!;
    const next = items[Math.min(items.length - 1, Math.max(0, now + by))];
    if (next !== undefined) choose(next);
  };

  element.addEventListener("scroll", drawSoon, { passive: true });
  new ResizeObserver(drawSoon).observe(element);
  element.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(element.clientHeight / ITEM_PX) - 1);
    const steps: Record<string, number> = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: page,
      PageUp: -page,
      Home: -rows.length,
      End: rows.length,
    };
    const step = steps[event.key];
    if (step === undefined || items.length === 0) return;
    event.preventDefault();
    move(step);
  });

  return {
    ...{ element, move },
    setRows(next) {
      rows = next;
      tops = new Float64Array(rows.length + 1);
      placeOf = new Int32Array(rows.length);
      items = [];
      for (const [i, { isHead }] of rows.entries()) {
        tops[i + 1] = tops[i]! + (isHead ? HEAD_PX : ITEM_PX);
        placeOf[i] = items.length;
        if (!isHead) items.push(i);
      }
      for (const row of drawn.values()) row.remove();
      drawn.clear();
      spacer.style.height = `${tops[rows.length]}px`;
      chosen = -1;
      mark();
      draw();
    },
    choose(index) {
      if (index >= 0) choose(index);
      else {
        chosen = -1;
        mark();
      }
    },
    redraw() {
      for (const row of drawn.values()) row.remove();
      drawn.clear();
      draw();
    },
  };
}
