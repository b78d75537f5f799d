/** The completions of a generation as the table that trackers show, with TRL's columns. */

/** One completion. */
export interface CompletionRow {
  readonly prompt: string;
  readonly completion: string;
  /** By reward function; null: not scored. */
  readonly rewards: Readonly<Record<string, number | null>>;
  /** Columns that reward functions added. */
  readonly extra?: Readonly<Record<string, unknown>> | undefined;
  /** Mean over tokens where each has its own. */
  readonly advantage: number;
}

export interface CompletionTable {
  readonly columns: readonly string[];
  /** (rows)(columns) */
  readonly data: readonly (readonly unknown[])[];
}

/** `step`, `prompt`, `completion`, a column per reward function and per column that they added, `advantage`. */
export function completionTable(step: number, rows: readonly CompletionRow[]): CompletionTable {
  const names = (of: (row: CompletionRow) => object | undefined) => [
    ...new Set(rows.flatMap((row) => Object.keys(of(row) ?? {}))),
  ];
  const rewards = names((row) => row.rewards);
  const extra = names((row) => row.extra);
  return {
    columns: ["step", "prompt", "completion", ...rewards, ...extra, "advantage"],
    data: rows.map((row) => [
      ...[step, row.prompt, row.completion],
      ...rewards.map((name) => row.rewards[name] ?? null),
      ...extra.map((name) => row.extra?.[name] ?? null),
      row.advantage,
    ]),
  };
}

/** At most `count` of them, spread evenly. */
export function spread<T>(rows: readonly T[], count: number): T[] {
  return rows.length <= count
    ? [...rows]
    : Array.from({ length: count }, (_, i) => rows[Math.floor((i * rows.length) / count)]!);
}
