/**
 * The runs as the page has them: columns are fetched when a chart first wants them; after that their new rows come with the
 * events, or are fetched where an event has missed some. A run that was cut back or begun anew is fetched from its start.
 */
import {
  type FreshRows,
  type RunInfo,
  type RunState,
  type StateMessage,
  type Status,
  type TableName,
  tables,
} from "../protocol.ts";
import { askColumns, askNames, askOverviews, askRuns } from "./api.ts";
import { type Column, GrowingColumn } from "./columns.ts";

interface TableData {
  names: readonly string[];
  steps: Float64Array;
  /** Rows fetched of every wanted column. */
  rows: number;
  columns: Map<string, GrowingColumn>;
}

export interface Run {
  info: RunInfo;
  state: RunState;
  readonly tables: Record<TableName, TableData>;
}

const emptyTable = (names: readonly string[] = []): TableData => ({
  ...{ names, steps: new Float64Array(0), rows: 0, columns: new Map() },
});

/** Of tables longer than this, an overview comes before the columns themselves. */
const OVERVIEW_ROWS = 6000;
/** Columns fetched at once from their start. */
const AT_ONCE = 6;

/** Keeps the steps of new rows. */
function takeSteps(data: TableData, from: number, steps: ArrayLike<number>): void {
  const end = from + steps.length;
  if (data.rows >= end) return;
  if (data.steps.length < end) {
    const longer = new Float64Array(Math.max(end, 2 * data.steps.length));
    longer.set(data.steps.subarray(0, data.rows));
    data.steps = longer;
  }
  data.steps.set(steps, from);
  data.rows = end;
}

/** Keeps the rows that came with an event, if all before them are here. */
function takeFresh(data: TableData, fresh: FreshRows, state: RunState, name: TableName): void {
  if (data.names.length < state.columns[name] || data.rows < fresh.from) return;
  takeSteps(data, fresh.from, fresh.steps);
  for (const [i, each] of data.names.entries()) {
    const column = data.columns.get(each);
    if (!column || column.overview !== null) continue;
    // A column that is newer than the event has no values in its rows.
    const values = fresh.values[i] ?? fresh.steps.map(() => null);
    column.append(
      Float32Array.from(values, (value) => value ?? Number.NaN),
      fresh.from,
    );
  }
}

export interface Store {
  readonly runs: readonly Run[];
  readonly status: Status;
  /** The column, which fills while it is fetched; null: no run has one of this name yet. */
  column(run: Run, table: TableName, name: string): Column | null;
  /** Calls `listener` after anything has changed. */
  onChange(listener: () => void): void;
  /** Tells what there is already. */
  refresh(): void;
  /** The server's report. */
  take(message: StateMessage): Promise<void>;
}

/** Fetches what runs there are. */
export async function openStore(): Promise<Store> {
  const runs: Run[] = (await askRuns()).map((info) => ({
    ...{ info, state: info.state },
    tables: { steps: emptyTable(info.names.steps), evaluations: emptyTable(info.names.evaluations) },
  }));
  const listeners: (() => void)[] = [];
  let status: Status = "unknown";
  let told = 0;
  const tell = (): void => {
    told++;
    for (const listener of listeners) listener();
  };

  let working: Promise<void> | null = null;
  /** There is more to fetch. */
  let again = false;

  /** New rows of what is wanted, and all rows of what is newly wanted. */
  const fetchTable = async (run: Run, name: TableName, state: RunState): Promise<boolean> => {
    const data = run.tables[name];
    const total = state.rows[name];
    let isNew = false;
    if (data.names.length < state.columns[name]) {
      const { epoch, names } = await askNames(run.info.run, name);
      if (epoch !== state.epoch) return false;
      data.names = names;
      isNew = true;
    }
    const wanted = [...data.columns].filter(([, column]) => column.rows < total);
    const unseen = wanted.filter(([, column]) => column.rows === 0 && column.overview === null).map(([each]) => each);
    if (total > OVERVIEW_ROWS && unseen.length > 0) {
      const { epoch, overviews } = await askOverviews(run.info.run, name, unseen);
      if (epoch !== state.epoch) return isNew;
      for (const [each, overview] of overviews) data.columns.get(each)!.overview = overview;
      again = true;
      return true;
    }
    // Whole columns a few at a time, so that what is asked for meanwhile need not wait long.
    const from = Math.min(...wanted.map(([, column]) => column.rows));
    const next = wanted.filter(([, column]) => column.rows === from).slice(0, from === 0 ? AT_ONCE : undefined);
    if (next.length === 0) return isNew;
    const names = next.map(([each]) => each);
    const answer = await askColumns(run.info.run, name, from, names);
    if (answer.epoch !== state.epoch || answer.rows === 0) return isNew;
    takeSteps(data, answer.from, answer.steps);
    for (const [each, column] of next) {
      const found = answer.names.indexOf(each);
      column.append(found < 0 ? new Float32Array(answer.rows).fill(Number.NaN) : answer.values[found]!, from);
      if (column.rows >= total) column.overview = null;
    }
    again ||= wanted.some(([, column]) => column.rows < total);
    return true;
  };

  const fetchAll = async (): Promise<void> => {
    const all = runs.flatMap((run) => tables.map((name) => fetchTable(run, name, run.state)));
    const changed = await Promise.all(all);
    if (changed.some(Boolean)) tell();
  };
  /** One fetch at a time; what comes meanwhile is fetched after it. */
  const refresh = (): Promise<void> => {
    again = true;
    working ??= (async () => {
      while (again) {
        again = false;
        await fetchAll().catch(() => {
          // Not connected: the stream of events says so, and brings a state when it is again.
        });
      }
      working = null;
    })();
    return working;
  };

  return {
    runs,
    get status() {
      return status;
    },
    column(run, table, name) {
      const data = run.tables[table];
      const known = data.columns.get(name);
      if (known !== undefined) return known;
      if (!data.names.includes(name)) return null;
      const column = new GrowingColumn(data);
      data.columns.set(name, column);
      // In the next turn, so that the columns of several charts are one request.
      setTimeout(() => void refresh());
      return column;
    },
    onChange(listener) {
      listeners.push(listener);
    },
    refresh: tell,
    async take(message) {
      status = message.status;
      const isOther = message.runs.length !== runs.length;
      const records = message.runs.some((state, i) => state.record !== runs[i]?.state.record);
      for (const [i, state] of message.runs.entries()) {
        const run = runs[i];
        if (run === undefined) continue;
        if (run.state.epoch !== state.epoch)
          for (const name of ["steps", "evaluations"] as const) {
            // The charts hold on to nothing: they ask for their columns again.
            run.tables[name] = emptyTable();
          }
        run.state = state;
        // What is being fetched may be some of them.
        if (working === null)
          for (const name of tables) {
            const fresh = message.fresh?.[i]?.[name];
            if (fresh) takeFresh(run.tables[name], fresh, state, name);
          }
      }
      if (isOther) return location.reload();
      if (records) for (const info of await askRuns()) if (runs[info.run]) runs[info.run]!.info = info;
      // New rows are told of when they are here, so that nothing is drawn twice.
      const before = told;
      await refresh();
      if (told === before) tell();
    },
  };
}
