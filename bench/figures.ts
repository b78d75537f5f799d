/** What a suite reports: named figures, each with its unit and, where a limit of the machine is known, the share of it. */

export interface Figure {
  /** The same in every run with the same sizes, so that runs can be compared. */
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly better: "more" | "less";
  /** Of a limit: the least time that the machine's measured peaks allow, divided by the time taken. */
  readonly share?: number;
  /** The limit: which peak decides, or how it is defined. */
  readonly of?: string;
}

export interface SuiteReport {
  readonly suite: string;
  /** What was verified; null: there is nothing to verify. */
  readonly checked: string | null;
  readonly figures: readonly Figure[];
}

export const more = (name: string, value: number, unit: string, limit: Limit = {}): Figure => ({
  ...{ name, value, unit, better: "more" },
  ...limit,
});

export const less = (name: string, value: number, unit: string, limit: Limit = {}): Figure => ({
  ...{ name, value, unit, better: "less" },
  ...limit,
});

export type Limit = Pick<Figure, "share" | "of">;

/** Three significant digits, and no more digits than those before the point. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  return Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en-US") : value.toPrecision(3);
}

export const percent = (share: number): string => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

/** A line of a suite's table. */
export function figureLine({ name, value, unit, share, of }: Figure): string {
  const limit = share === undefined ? "" : `  ${percent(share).padStart(7)} of ${of}`;
  return `  ${name.padEnd(52)} ${digits(value).padStart(10)} ${unit.padEnd(9)}${limit}`.trimEnd();
}
