/**
 * How lines, areas and marks are told apart: by colour, and without it by dashes, hatches and the shape of points. The colours
 * differ in lightness too, so that they stay apart for people who see few of them.
 */

export interface Theme {
  readonly isDark: boolean;
  readonly text: string;
  readonly muted: string;
  readonly grid: string;
  readonly surface: string;
  readonly accent: string;
}

const light = ["#2563c9", "#b9590b", "#15803d", "#7e3fc4", "#be2d45", "#0b7285", "#7a5c12", "#525e6d"] as const;
const dark = ["#74a9ff", "#f0a35b", "#58c88a", "#c29bff", "#ff8792", "#4cc5da", "#d9bc6b", "#aab5c2"] as const;
const dashes: readonly (readonly number[])[] = [
  [],
  [7, 4],
  [2, 3],
  [10, 3, 2, 3],
  [14, 4],
  [5, 2, 2, 2, 2, 2],
  [1, 4],
  [6, 6],
];

export const colourOf = (index: number, { isDark }: Theme): string => {
  const colours = isDark ? dark : light;
  return colours[index % colours.length]!;
};

export const dashOf = (index: number): readonly number[] => dashes[index % dashes.length]!;

/** `#2563c9` and 0.15 → `rgba(37, 99, 201, 0.15)`. */
export function withAlpha(hex: string, alpha: number): string {
  const part = (at: number) => Number.parseInt(hex.slice(at, at + 2), 16);
  return `rgba(${part(1)}, ${part(3)}, ${part(5)}, ${alpha})`;
}

/** The page's colours as they are now. */
export function currentTheme(): Theme {
  const style = getComputedStyle(document.documentElement);
  const of = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    isDark: of("scheme") === "dark",
    ...{ text: of("text"), muted: of("muted"), grid: of("grid"), surface: of("surface"), accent: of("accent") },
  };
}

/** Strokes of a hatch on a tile of 8 × 8: the areas of a stack differ without colour too. */
const hatches: readonly ((context: CanvasRenderingContext2D) => void)[] = [
  () => {},
  (c) => lines(c, [0, 8, 8, 0], [-2, 2, 2, -2], [6, 10, 10, 6]),
  (c) => lines(c, [0, 4, 8, 4]),
  (c) => lines(c, [0, 0, 8, 8], [-2, 6, 2, 10], [6, -2, 10, 2]),
  (c) => lines(c, [4, 0, 4, 8]),
  (c) => lines(c, [0, 8, 8, 0], [0, 0, 8, 8]),
  (c) => lines(c, [0, 2, 3, 2], [4, 6, 7, 6]),
  (c) => lines(c, [0, 4, 8, 4], [4, 0, 4, 8]),
];

function lines(context: CanvasRenderingContext2D, ...all: readonly (readonly number[])[]): void {
  context.beginPath();
  for (const [x1, y1, x2, y2] of all) {
    context.moveTo(x1!, y1!);
    context.lineTo(x2!, y2!);
  }
  context.stroke();
}

const tiles = new Map<string, CanvasPattern>();

/** The fill of a stack's area. */
export function hatchOf(index: number, theme: Theme): CanvasPattern | string {
  const colour = colourOf(index, theme);
  const known = tiles.get(`${index} ${colour}`);
  if (known !== undefined) return known;
  const scale = Math.max(1, Math.round(devicePixelRatio));
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8 * scale;
  const context = tile.getContext("2d");
  if (context === null) return withAlpha(colour, 0.4);
  context.scale(scale, scale);
  context.fillStyle = withAlpha(colour, theme.isDark ? 0.32 : 0.26);
  context.fillRect(0, 0, 8, 8);
  context.strokeStyle = withAlpha(colour, theme.isDark ? 0.85 : 0.75);
  context.lineWidth = 1;
  hatches[index % hatches.length]!(context);
  const pattern = context.createPattern(tile, "repeat");
  if (pattern === null) return withAlpha(colour, 0.4);
  tiles.set(`${index} ${colour}`, pattern);
  return pattern;
}
