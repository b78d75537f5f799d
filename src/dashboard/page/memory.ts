/** The memory plan as a picture: what is always held, and on top of it what each phase needs, which shares the same memory. */
import type { MemoryPart, MemoryPicture } from "../protocol.ts";
import { byId, h, replace } from "./dom.ts";
import { bytesText, percentText } from "./format.ts";
import { colourOf, currentTheme, hatchOf } from "./palette.ts";
import type { Store } from "./store.ts";

interface Block {
  readonly name: string;
  readonly bytes: number;
  /** Index of its look. */
  readonly look: number;
}

/** The parts of one row, largest first; those of one group and owner together. */
export function blocksOf(parts: readonly MemoryPart[]): Omit<Block, "look">[] {
  const sums = new Map<string, number>();
  for (const { owner, group, bytes } of parts) {
    const name = owner === "policy" || group.startsWith(owner) ? group : `${owner}: ${group}`;
    sums.set(name, (sums.get(name) ?? 0) + bytes);
  }
  return [...sums].map(([name, bytes]) => ({ name, bytes })).sort((a, b) => b.bytes - a.bytes);
}

export interface MemoryPanel {
  draw(): void;
}

export function openMemory(store: Store): MemoryPanel {
  const place = byId("memory-plans");
  const draw = (): void => {
    replace(
      place,
      store.runs.map(({ info }) =>
        h(
          "section",
          { class: "card" },
          store.runs.length > 1 && h("h3", {}, info.name),
          info.memory === null
            ? h("p", { class: "empty" }, "No memory plan is recorded in this run.")
            : picture(info.memory),
        ),
      ),
    );
  };
  let last = "";
  store.onChange(() => {
    const now = store.runs.map(({ state }) => state?.record).join();
    if (now !== last) draw();
    last = now;
  });
  return { draw };
}

function picture(memory: MemoryPicture): HTMLElement {
  const { parts, times, peakBytes } = memory;
  const always = blocksOf(parts.filter(({ lifetime }) => lifetime === "always"));
  const looks = new Map<string, number>();
  const lookOf = (name: string): number => {
    if (!looks.has(name)) looks.set(name, looks.size);
    return looks.get(name)!;
  };
  const held = always.map((block) => ({ ...block, look: lookOf(block.name) }));
  const beside: Block[] = [
    { name: "kernel scratch, at most", bytes: memory.scratchBytes, look: lookOf("scratch") },
    { name: "program", bytes: memory.programBytes, look: lookOf("program") },
    { name: "driver and libraries", bytes: memory.reserveBytes, look: lookOf("reserve") },
  ].filter(({ bytes }) => bytes > 0);
  const rows = (times.length === 0 ? [""] : times).map((phase) => {
    const own = blocksOf(parts.filter(({ lifetime }) => lifetime !== "always" && lifetime.includes(phase)));
    const blocks = [...held, ...own.map((block) => ({ ...block, look: lookOf(block.name) })), ...beside];
    const sum = blocks.reduce((total, { bytes }) => total + bytes, 0);
    return h(
      "div",
      { class: "memory-row" },
      h("div", { class: "memory-label" }, h("b", {}, phase || "always"), h("span", { class: "muted" }, bytesText(sum))),
      h(
        "div",
        {
          class: "memory-bar",
          role: "img",
          "aria-label": `${phase}: ${blocks.map((b) => `${b.name} ${bytesText(b.bytes)}`).join(", ")}`,
        },
        blocks.map((block) => bar(block, peakBytes)),
      ),
    );
  });
  const table = h(
    "table",
    {},
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["model", "buffers", "held", "size", "of the peak"].map((each) => h("th", { scope: "col" }, each)),
      ),
    ),
    h(
      "tbody",
      {},
      [...parts]
        .sort((a, b) => b.bytes - a.bytes)
        .map((part) =>
          h(
            "tr",
            {},
            h("td", {}, part.owner),
            h("td", {}, part.group),
            h("td", {}, part.held),
            h("td", { class: "number" }, bytesText(part.bytes)),
            h("td", { class: "number" }, percentText(part.bytes / peakBytes)),
          ),
        ),
    ),
  );
  return h(
    "div",
    {},
    h(
      "p",
      { class: "muted" },
      `Peak ${bytesText(peakBytes)}: what is always held, then the buffers of one phase at a time, which share their memory.`,
    ),
    h("div", { class: "memory-picture" }, rows),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Buffers of the memory plan" }, table),
  );
}

function bar({ name, bytes, look }: Block, peak: number): HTMLElement {
  const theme = currentTheme();
  const share = bytes / Math.max(1, peak);
  const block = h("div", { class: "block", title: `${name}: ${bytesText(bytes)}` });
  block.style.width = `${100 * share}%`;
  const ground = h("canvas", { width: 240, height: 44, "aria-hidden": "true" });
  const context = ground.getContext("2d");
  if (context !== null) {
    context.fillStyle = hatchOf(look, theme);
    context.fillRect(0, 0, 240, 44);
  }
  block.style.borderColor = colourOf(look, theme);
  block.append(ground);
  // A label that has no room is in the table.
  if (share > 0.07) block.append(h("span", {}, h("b", {}, name), h("br"), bytesText(bytes)));
  return block;
}
