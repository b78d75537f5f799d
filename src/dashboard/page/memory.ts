/** The memory plan as a picture: what is always held, and on top of it what each phase needs, which shares the same memory. */
import type { MemoryPart, MemoryPicture } from "../protocol.ts";
import { byId, h, replace } from "./dom.ts";
import { bytesText, percentText } from "./format.ts";
import { colourOf, currentTheme, hatchOf } from "./palette.ts";
import type { Store } from "./store.ts";

interface Block {
  readonly name: string;
  readonly bytes: number;
  /** Index of its look; null: not of the plan. */
  readonly look: number | null;
}

/** The parts of one row in the order of the plan; those of one group and owner together. */
export function blocksOf(parts: readonly MemoryPart[]): Omit<Block, "look">[] {
  const sums = new Map<string, number>();
  for (const { owner, group, bytes } of parts) {
    const name = owner === "policy" || group.startsWith(owner) ? group : `${owner}: ${group}`;
    sums.set(name, (sums.get(name) ?? 0) + bytes);
  }
  return [...sums].map(([name, bytes]) => ({ name, bytes }));
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
    const now = store.runs.map(({ state }) => state.record).join();
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
    { name: "kernel scratch, at most", bytes: memory.scratchBytes, look: null },
    { name: "program", bytes: memory.programBytes, look: null },
    { name: "driver and libraries", bytes: memory.reserveBytes, look: null },
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
        ["model", "buffers", "held", "size", "of the peak"].map((each, i) =>
          h("th", { scope: "col", class: i > 2 && "number" }, each),
        ),
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

/** Hatched in its own pixels, however wide it becomes. */
const hatching = new ResizeObserver((entries) => {
  for (const { target } of entries) hatch(target as HTMLCanvasElement);
});

function hatch(ground: HTMLCanvasElement): void {
  const scale = Math.max(1, Math.round(devicePixelRatio));
  const [width, height] = [ground.clientWidth * scale, ground.clientHeight * scale];
  if (width === 0 || height === 0) return;
  ground.width = width;
  ground.height = height;
  const context = ground.getContext("2d");
  if (context === null) return;
  context.fillStyle = hatchOf(Number(ground.dataset.look), currentTheme());
  context.fillRect(0, 0, width, height);
}

function bar({ name, bytes, look }: Block, peak: number): HTMLElement {
  const share = bytes / Math.max(1, peak);
  const block = h("div", { class: look === null ? "block beside" : "block", title: `${name}: ${bytesText(bytes)}` });
  block.style.width = `${100 * share}%`;
  if (look !== null) {
    const ground = h("canvas", { "data-look": look, "aria-hidden": "true" });
    hatching.observe(ground);
    block.style.borderColor = colourOf(look, currentTheme());
    block.append(ground);
  }
  // A label that has no room is in the table.
  if (share > 0.06) block.append(h("span", {}, h("b", {}, name), h("br"), bytesText(bytes)));
  return block;
}
