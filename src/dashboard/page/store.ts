/**
 * The runs as the page has them: columns are fetched when a chart first wants them, and after that only their new rows. A run
 * that was cut back or begun anew is fetched from its start.
 */
import type { RunInfo, RunState, StateMessage, Status, TableName } from "../protocol.ts";
import { askColumns, askNames, askRuns } from "./api.ts";
import { createPyramid, type Pyramid, type Series } from "./decimate.ts";
import { createSmoother, type Smoother } from "./smooth.ts";

/** A column with what is derived from it. */
export interface Column extends Series {
  readonly pyramid: Pyramid;
  /** The same, smoothed; itself if nothing is. */
  smoothed(weight: number): { readonly series: Series; readonly pyramid: Pyramid };
}

interface TableData {
  names: string[];
  steps: Float64Array;
  /** Rows fetched of every wanted column. */
  rows: number;
  columns: Map<string, OwnColumn>;
}

export interface Run {
  info: RunInfo;
  state: RunState | null;
  readonly tables: Record<TableName, TableData>;
}

class OwnColumn implements Column {
  values = new Float32Array(0);
  rows = 0;
  pyramid = createPyramid();
  private readonly table: TableData;
  private smoothing: { weight: number; smoother: Smoother; pyramid: Pyramid } | null = null;

  constructor(table: TableData) {
    this.table = table;
  }

  get steps(): Float64Array {
    return this.table.steps;
  }

  append(values: Float32Array): void {
    const rows = this.rows + values.length;
    if (this.values.length < rows) {
      const longer = new Float32Array(Math.max(rows, 2 * this.values.length));
      longer.set(this.values.subarray(0, this.rows));
      this.values = longer;
    }
    this.values.set(values, this.rows);
    this.rows = rows;
  }

  smoothed(weight: number): { readonly series: Series; readonly pyramid: Pyramid } {
    if (weight === 0) return { series: this, pyramid: this.pyramid };
    if (this.smoothing?.weight !== weight)
      this.smoothing = { weight, smoother: createSmoother(weight), pyramid: createPyramid() };
    const values = this.smoothing.smoother.update(this.values, this.rows);
    return { series: { steps: this.steps, values, rows: this.rows }, pyramid: this.smoothing.pyramid };
  }
}

const emptyTable = (): TableData => ({ names: [], steps: new Float64Array(0), rows: 0, columns: new Map() });

export interface Store {
  readonly runs: readonly Run[];
  readonly status: Status;
  /** The column, which fills while it is fetched; null: no run has one of this name yet. */
  column(run: Run, table: TableName, name: string): Column | null;
  /** Calls `listener` after anything has changed. */
  onChange(listener: () => void): void;
  /** The server's report. */
  take(message: StateMessage): Promise<void>;
}

/** Fetches what runs there are. */
export async function openStore(): Promise<Store> {
  const runs: Run[] = (await askRuns()).map((info) => ({
    ...{ info, state: null },
    tables: { steps: emptyTable(), evaluations: emptyTable() },
  }));
  const listeners: (() => void)[] = [];
  let status: Status = "unknown";
  const tell = (): void => {
    for (const listener of listeners) listener();
  };

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
    for (;;) {
      const behind = [...data.columns].filter(([, column]) => column.rows < total);
      const from = Math.min(...behind.map(([, column]) => column.rows));
      const next = behind.filter(([, column]) => column.rows === from).map(([each]) => each);
      if (next.length === 0) return isNew;
      const answer = await askColumns(run.info.run, name, from, next);
      if (answer.epoch !== state.epoch || answer.rows === 0) return isNew;
      if (data.rows < from + answer.rows) {
        if (data.steps.length < from + answer.rows) {
          const longer = new Float64Array(Math.max(from + answer.rows, 2 * data.steps.length));
          longer.set(data.steps.subarray(0, data.rows));
          data.steps = longer;
        }
        data.steps.set(answer.steps, from);
        data.rows = from + answer.rows;
      }
      for (const each of next) {
        const found = answer.names.indexOf(each);
        data.columns
          .get(each)
          ?.append(found < 0 ? new Float32Array(answer.rows).fill(Number.NaN) : answer.values[found]!);
      }
      isNew = true;
    }
  };

  let working: Promise<void> | null = null;
  let again = false;
  const fetchAll = async (): Promise<void> => {
    for (const run of runs)
      for (const name of ["steps", "evaluations"] as const) {
        const changed = run.state !== null && (await fetchTable(run, name, run.state));
        if (changed) tell();
      }
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
      const column = new OwnColumn(data);
      data.columns.set(name, column);
      // In the next turn, so that the columns of several charts are one request.
      queueMicrotask(() => void refresh());
      return column;
    },
    onChange(listener) {
      listeners.push(listener);
    },
    async take(message) {
      status = message.status;
      const isOther = message.runs.length !== runs.length;
      const records = message.runs.some((state, i) => state.record !== (runs[i]?.state?.record ?? -1));
      for (const [i, state] of message.runs.entries()) {
        const run = runs[i];
        if (run === undefined) continue;
        if (run.state !== null && run.state.epoch !== state.epoch)
          for (const name of ["steps", "evaluations"] as const) {
            // The charts hold on to nothing: they ask for their columns again.
            run.tables[name] = emptyTable();
          }
        run.state = state;
      }
      if (isOther) return location.reload();
      if (records) for (const info of await askRuns()) if (runs[info.run]) runs[info.run]!.info = info;
      tell();
      await refresh();
    },
  };
}
