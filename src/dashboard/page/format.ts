/** Numbers as people read them. */

const MINUS = "\u2212";
const signed = (text: string): string => text.replaceAll("-", MINUS);

/** Three to four digits that count: `0.0123`, `1.50`, `12,345`, `3.2e−7`. */
export function numberText(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : `${MINUS}∞`;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-4 || size >= 1e9) return signed(value.toExponential(2));
  if (size >= 1000 || Number.isInteger(value)) return signed(Math.round(value).toLocaleString("en-US"));
  return signed(value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4));
}

/** For an axis: as short as the ticks allow. */
export function tickText(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e9) return signed(`${trim(value / 1e9)}G`);
  if (size >= 1e6) return signed(`${trim(value / 1e6)}M`);
  if (size >= 1e4) return signed(`${trim(value / 1e3)}k`);
  if (size !== 0 && size < 1e-3) return signed(value.toExponential(0));
  return signed(trim(value));
}

const trim = (value: number): string => String(Number(value.toPrecision(6)));

/** 1536 → `1.5 KiB`. */
export function bytesText(bytes: number): string {
  if (!Number.isFinite(bytes)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let size = bytes;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit++;
  }
  return `${size >= 100 || unit === 0 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`;
}

/** 75 → `1 min 15 s`. */
export function durationText(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.round(seconds);
  if (whole < 60) return seconds < 10 && seconds !== whole ? `${seconds.toFixed(2)} s` : `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

export const percentText = (share: number): string => (Number.isNaN(share) ? "–" : `${(100 * share).toFixed(1)} %`);

export const countText = (count: number): string => count.toLocaleString("en-US");

export const plural = (count: number, one: string, many = `${one}s`): string =>
  `${countText(count)} ${count === 1 ? one : many}`;
