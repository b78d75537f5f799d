/**
 * What a run shows: a table line per logged step, samples of completions, evaluations, and on a terminal one live line
 * with phase, progress and time left. Away from a terminal there is no live line and no colour. Writes nothing but
 * through the `write` it is given.
 */
import type { MetricsRecord } from "./metrics-file.ts";
import { type MetricName, metricNamed, metricNames } from "./names.ts";
import { excerpt, truncateLine } from "./terminal-text.ts";

export interface ConsoleOptions {
  readonly isTTY: boolean;
  /** Width in cells; 80 where it is not known. */
  readonly columns?: number | (() => number | undefined);
  readonly write: (text: string) => unknown;
  /** By default on a terminal, unless the variable NO_COLOR is set and not empty (https://no-color.org). */
  readonly colour?: boolean;
  /** A monotonic clock in milliseconds. */
  readonly now?: () => number;
}

export interface Progress {
  /** The step that runs, from 1; 0 of 0 steps: an evaluation. */
  readonly step: number;
  readonly steps: number;
  readonly phase: string;
  /** How much of the phase is done, e.g. completions. */
  readonly done?: number;
  readonly total?: number;
}

export interface CompletionSample {
  readonly prompt: string;
  readonly completion: string;
  readonly reward: number | null;
  readonly rewards?: Readonly<Record<string, number | null>>;
  readonly tokens?: number;
  readonly finished?: boolean;
}

export interface RunConsole {
  /** Redraws the live line, at most ten times a second; without a terminal nothing. */
  progress(progress: Progress): void;
  /** One line of the table; the columns are those of the first record. */
  step(record: MetricsRecord): void;
  completions(step: number, samples: readonly CompletionSample[]): void;
  /** `note` stands behind the numbers, e.g. how many problems they are of. */
  evaluation(record: MetricsRecord, note?: string): void;
  /** Any other line: a remark, where something was saved. */
  note(text: string): void;
  /** Takes the live line away; call it before the process ends. */
  close(): void;
}

const redrawMs = 100;
const headEvery = 25;
const live = ["reward", "loss", "kl", "completions/mean_length", "tokens_per_second"];

export function createConsole(options: ConsoleOptions): RunConsole {
  const { isTTY, write, now = () => performance.now() } = options;
  const columns = () => {
    const width = typeof options.columns === "function" ? options.columns() : options.columns;
    return Math.max(20, width ?? 80);
  };
  const colour = options.colour ?? (isTTY && !process.env.NO_COLOR);
  const dim = (text: string) => (colour ? `\x1b[2m${text}\x1b[22m` : text);

  /** Cells of the live line; 0: it is not shown. */
  let liveWidth = 0;
  let lastDraw = -Infinity;
  let phase: PhaseStart | undefined;
  let table: readonly MetricName[] | undefined;
  let linesSinceHead = 0;
  let latest: MetricsRecord | undefined;
  let firstStep: StepStart | undefined;
  let thisStep: StepStart | undefined;

  /** Goes to the line's beginning and erases it; a terminal made narrower has wrapped it into several rows. */
  const erase = () => {
    const rows = Math.max(0, Math.ceil(liveWidth / columns()) - 1);
    liveWidth = 0;
    return rows === 0 ? "\r\x1b[2K" : `\r\x1b[${rows}A\x1b[J`;
  };
  const clearLive = () => {
    if (liveWidth > 0) write(erase());
  };
  const line = (text: string) => {
    clearLive();
    write(`${text}\n`);
    lastDraw = -Infinity;
  };

  return {
    progress(progress) {
      const at = now();
      if (progress.steps > 0 && thisStep?.step !== progress.step) thisStep = { step: progress.step, at };
      firstStep ??= thisStep;
      if (phase === undefined || !isSamePhase(phase, progress)) phase = { ...progress, done: progress.done ?? 0, at };
      if (!isTTY || at - lastDraw < redrawMs) return;
      lastDraw = at;
      const rate = rateOf(phase, progress, at);
      const left = progress.steps > 0 ? timeLeft(progress, firstStep!, thisStep!, at) : phaseLeft(progress, rate);
      const text = truncateLine(liveText(progress, latest, rate, left), columns() - 1);
      write(`${erase()}${text}`);
      liveWidth = Bun.stringWidth(text);
    },
    step(record) {
      latest = record;
      table ??= metricNames.filter((metric) => metric.console !== undefined && record[metric.name] !== undefined);
      if (linesSinceHead % headEvery === 0) {
        line(dim(["step".padStart(6), ...table.map((metric) => cell(metric.console!.head, metric))].join(" ")));
      }
      linesSinceHead++;
      const cells = table.map((metric) => cell(formatted(metric, record[metric.name]), metric));
      line([String(record.step).padStart(6), ...cells].join(" "));
    },
    completions(step, samples) {
      const width = columns() - 1;
      for (const sample of samples) {
        line(dim(`── completion of step ${step} ${"─".repeat(Math.max(0, width - 23 - String(step).length))}`));
        for (const [label, text, maxLines] of [
          ["prompt", sample.prompt, 4],
          ["completion", sample.completion, 8],
        ] as const) {
          excerpt(text, Math.max(10, width - 12), maxLines).forEach((part, i) => {
            line(`${dim((i === 0 ? label : "").padEnd(11))} ${part}`);
          });
        }
        line(`${dim("reward".padEnd(11))} ${truncateLine(rewardText(sample), Math.max(10, width - 12))}`);
      }
    },
    evaluation(record, note) {
      // Standard deviations are in metrics.jsonl; the line is long enough.
      const numbers = Object.entries(record).filter(([name]) => name.startsWith("eval_") && !name.endsWith("std"));
      const parts = numbers.map(([name, value]) => `${name.slice("eval_".length)} ${numberText(value)}`);
      line(`evaluation at step ${record.step}: ${parts.join(", ")}${note === undefined ? "" : ` (${note})`}`);
    },
    note: (text) => line(text),
    close: clearLive,
  };
}

/** Where the phase under way began. */
interface PhaseStart extends Progress {
  readonly done: number;
  /** Milliseconds. */
  readonly at: number;
}

const isSamePhase = (start: PhaseStart, { phase, step, done = 0 }: Progress): boolean =>
  start.phase === phase && start.step === step && start.done <= done;

/** Per second, over the phase; unknown in its first second. */
function rateOf(start: PhaseStart, { done = 0 }: Progress, at: number): number | undefined {
  const seconds = (at - start.at) / 1000;
  return seconds < 1 || done === start.done ? undefined : (done - start.done) / seconds;
}

/** Seconds until a phase with a known end is over. */
const phaseLeft = ({ done = 0, total }: Progress, rate: number | undefined): number | undefined =>
  rate === undefined || total === undefined ? undefined : Math.max(0, total - done) / rate;

/** What `--quiet` leaves of a console: its warnings. */
export const quietly = (console: RunConsole): RunConsole => ({
  ...{ progress() {}, step() {}, completions() {}, evaluation() {} },
  note: (text) => /^(note|warning|evaluation): /.test(text) && console.note(text),
  close: console.close,
});

function liveText(
  { step, steps, phase, done, total }: Progress,
  latest: MetricsRecord | undefined,
  rate: number | undefined,
  seconds: number | undefined,
): string {
  const pace = rate === undefined ? "" : ` at ${rate.toFixed(rate < 100 ? 1 : 0)}/s`;
  const share = done === undefined ? "" : ` ${done}${total === undefined || total === done ? "" : `/${total}`}${pace}`;
  const values = live.flatMap((name) => {
    const metric = metricNamed(name);
    const value = latest?.[name];
    return metric?.console === undefined || typeof value !== "number"
      ? []
      : [`${metric.console.head} ${formatted(metric, value)}`];
  });
  const left = seconds === undefined ? [] : [`${durationText(seconds)} left`];
  return [...(steps > 0 ? [`step ${step}/${steps}`] : []), `${phase}${share}`, ...left, ...values].join(" · ");
}

interface StepStart {
  readonly step: number;
  /** Milliseconds. */
  readonly at: number;
}

/** Seconds until the last step, from the mean time of the steps that are whole; unknown during the first. */
function timeLeft({ steps }: Progress, first: StepStart, current: StepStart, at: number): number | undefined {
  const whole = current.step - first.step;
  if (whole <= 0) return undefined;
  const perStep = (current.at - first.at) / whole;
  const ofThis = Math.max(0, perStep - (at - current.at));
  return (ofThis + perStep * (steps - current.step)) / 1000;
}

/** 75 → `1m15s`, 3700 → `1h02m`. */
export function durationText(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole}s`;
  const pad = (value: number) => String(value).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)}m${pad(whole % 60)}s`;
  return `${Math.floor(whole / 3600)}h${pad(Math.floor((whole % 3600) / 60))}m`;
}

function cell(text: string, metric: MetricName): string {
  return text.padStart(Math.max(7, metric.console?.head.length ?? 0));
}

function formatted(metric: MetricName, value: unknown): string {
  if (typeof value !== "number") return "-";
  return Number.isFinite(value) && metric.console !== undefined ? metric.console.format(value) : String(value);
}

function numberText(value: unknown): string {
  if (typeof value !== "number") return String(value ?? "-");
  return Number.isInteger(value) ? String(value) : value.toFixed(4);
}

function rewardText(sample: CompletionSample): string {
  const parts = Object.entries(sample.rewards ?? {}).map(([name, value]) => `${name} ${numberText(value)}`);
  const each = parts.length > 1 ? ` (${parts.join(", ")})` : "";
  const length = sample.tokens === undefined ? "" : `, ${sample.tokens} tokens`;
  const cut = sample.finished === false ? ", cut at the limit" : "";
  return `${sample.reward === null ? "none" : numberText(sample.reward)}${each}${length}${cut}`;
}
