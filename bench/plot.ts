/**
 * `bun bench/plot.ts SWEEP.json PLOT.svg`: what sweep.ts measured as one picture: a column per setting, seconds of a step above
 * and memory below. Plain SVG, readable on a light and on a dark page; the same input gives the same bytes.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { errorText, InputError } from "../src/errors.ts";
import type { Axis, Point, Sweep } from "./sweep.ts";

/** Pixels. */
const panel = { width: 200, height: 150, left: 52, gap: 24, top: 64, between: 48 } as const;

const rows = [
  { title: "seconds of a step", of: ({ seconds }: Point) => seconds },
  { title: "MiB of memory", of: ({ peakMiB }: Point) => peakMiB },
] as const;

const style = `
  text { font: 11px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 13px }
  .faint { fill: #59636e }
  .grid { stroke: #d1d9e0; stroke-width: 1 }
  .line { fill: none; stroke: #0969da; stroke-width: 2 }
  .point { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .faint { fill: #9198a1 }
    .grid { stroke: #3d444d }
    .line { stroke: #4493f8 }
    .point { fill: #4493f8 }
  }
`;

const escaped = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** The smallest of 1, 2, 2.5, 5 times a power of ten that is no less than `value`. */
export function roundUp(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((limit) => limit >= value * (1 - 1e-9))!;
}

const coordinate = (value: number) => String(Math.round(value * 10) / 10);
const label = (value: number) => String(Number(value.toPrecision(3)));

function panelLines(axis: Axis, of: (point: Point) => number, x0: number, y0: number): string[] {
  const { width, height } = panel;
  const top = roundUp(Math.max(...axis.points.map(of)));
  const y = (value: number) => coordinate(y0 + height * (1 - value / top));
  const step = width / Math.max(1, axis.points.length);
  const x = (index: number) => coordinate(x0 + step * (index + 0.5));
  const grid = [0, 0.25, 0.5, 0.75, 1].flatMap((part) => [
    `<line class="grid" x1="${x0}" x2="${x0 + width}" y1="${y(part * top)}" y2="${y(part * top)}"/>`,
    `<text class="faint" x="${x0 - 6}" y="${coordinate(Number(y(part * top)) + 4)}" text-anchor="end">${label(part * top)}</text>`,
  ]);
  const at = axis.points.map((point, i) => `${x(i)},${y(of(point))}`);
  const marks = axis.points.flatMap((point, i) => [
    `<circle class="point" cx="${x(i)}" cy="${y(of(point))}" r="3.5"><title>${escaped(point.value)}: ${label(of(point))}</title></circle>`,
    `<text class="faint" x="${x(i)}" y="${y0 + height + 16}" text-anchor="middle">${escaped(shortName(point.value))}</text>`,
  ]);
  return [...grid, `<polyline class="line" points="${at.join(" ")}"/>`, ...marks];
}

/** A shape's name without what all have. */
const shortName = (value: string) => (value === "data/model" ? "bundled" : value.replace(/^(SmolLM2|Qwen[\d.]*)-/, ""));

/** The picture. @throws InputError if nothing was measured */
export function plotSvg({ device, date, base, axes }: Sweep): string {
  if (axes.length === 0 || axes.some(({ points }) => points.length === 0))
    throw new InputError("the sweep has an axis without points; measure it with bun bench/sweep.ts");
  const { width, height, left, gap, top, between } = panel;
  const total = { width: axes.length * (width + left + gap), height: top + rows.length * (height + between) };
  const body = axes.flatMap((axis, column) => {
    const x0 = column * (width + left + gap) + left;
    return rows.flatMap(({ title, of }, row) => {
      const y0 = top + row * (height + between);
      const heading = row === 0 ? `${title}, by ${axis.title}` : title;
      return [`<text x="${x0}" y="${y0 - 10}">${escaped(heading)}</text>`, ...panelLines(axis, of, x0, y0)];
    });
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${total.width} ${total.height}" width="${total.width}" height="${total.height}" role="img">`,
    `<title>Time and memory of a GRPO step</title>`,
    `<style>${style}</style>`,
    `<text class="title" x="8" y="18">A GRPO step, ${escaped(device)}, ${date}</text>`,
    `<text class="faint" x="8" y="36">${escaped(base)}; one setting varied at a time</text>`,
    ...body,
    "</svg>",
    "",
  ].join("\n");
}

if (import.meta.main)
  try {
    const [from, to] = process.argv.slice(2);
    if (from === undefined || to === undefined) throw new InputError("usage: bun bench/plot.ts SWEEP.json PLOT.svg");
    writeFileSync(to, plotSvg(JSON.parse(readFileSync(from, "utf8"))));
  } catch (error) {
    process.stderr.write(`bench/plot: ${errorText(error)}\n`);
    process.exit(error instanceof InputError ? 2 : 1);
  }
