/** What the page asks of its server. Every answer may be of another time than the question: epochs and versions tell. */
import type { ColumnsHead, CompletionsMessage, OverviewHead, RunInfo, TableName } from "../protocol.ts";
import type { Overview } from "./decimate.ts";

async function ask(path: string, parameters: Readonly<Record<string, string | number | readonly string[]>> = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters))
    for (const each of typeof value === "object" ? value : [value]) query.append(name, String(each));
  const text = query.toString();
  const response = await fetch(text === "" ? path : `${path}?${text}`, { credentials: "same-origin" });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response;
}

export const askRuns = async (): Promise<RunInfo[]> => (await ask("/api/runs")).json();

export const askNames = async (
  run: number,
  table: TableName,
): Promise<{ readonly epoch: number; readonly names: string[] }> => (await ask("/api/names", { run, table })).json();

export const askGenerations = async (
  run: number,
  from: number,
): Promise<{ readonly epoch: number; readonly from: number; readonly steps: number[] }> =>
  (await ask("/api/generations", { run, from })).json();

export const askCompletions = async (run: number, step: number, from: number): Promise<CompletionsMessage | null> =>
  (await ask("/api/completions", { run, step, from })).json();

/** A line of a completions file, as it stands there. */
export const askCompletion = async (
  run: number,
  step: number,
  line: number,
  version: string,
): Promise<Record<string, unknown>> => (await ask("/api/completion", { run, step, line, version })).json();

export interface Columns extends ColumnsHead {
  readonly steps: Float64Array;
  /** In the order of `names`. */
  readonly values: readonly Float32Array[];
}

export async function askColumns(
  run: number,
  table: TableName,
  from: number,
  names: readonly string[],
): Promise<Columns> {
  const { head, bytes, start } = await askBytes<ColumnsHead>("/api/columns", { run, table, from, name: names });
  const { rows } = head;
  return {
    ...head,
    steps: new Float64Array(bytes, start, rows),
    values: head.names.map((_, i) => new Float32Array(bytes, start + rows * (8 + 4 * i), rows)),
  };
}

/** An answer that begins with a head in JSON. */
async function askBytes<Head>(path: string, parameters: Parameters<typeof ask>[1]) {
  const bytes = await (await ask(path, parameters)).arrayBuffer();
  const length = new DataView(bytes).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length))) as Head;
  return { head, bytes, start: Math.ceil((4 + length) / 8) * 8 };
}

/** Overviews of columns, by name. */
export async function askOverviews(
  run: number,
  table: TableName,
  names: readonly string[],
): Promise<{ readonly epoch: number; readonly overviews: ReadonlyMap<string, Overview> }> {
  const { head, bytes, start } = await askBytes<OverviewHead>("/api/overview", { run, table, name: names });
  const { epoch, stride, buckets } = head;
  const part = (i: number, k: number) => new Float32Array(bytes, start + 4 * buckets * (3 * i + k), buckets);
  const overviews = head.names.map((name, i): [string, Overview] => [
    name,
    { stride, ends: head.ends[i] ?? [null, null], mean: part(i, 0), low: part(i, 1), high: part(i, 2) },
  ]);
  return { epoch, overviews: new Map(overviews) };
}
