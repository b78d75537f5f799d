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
  /** By default on a terminal, unless the variable NO_COLOR is set. */
  readonly colour?: boolean;
  /** A monotonic clock in milliseconds. */
  readonly now?: () => number;
}

export interface Progress {
  /** The step that runs, from 1. */
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
  const colour = options.colour ?? (isTTY && process.env.NO_COLOR === undefined);
  const dim = (text: string) => (colour ? `\x1b[2m${text}\x1b[22m` : text);

  let liveShown = false;
  let lastDraw = -Infinity;
  let table: readonly MetricName[] | undefined;
  let linesSinceHead = 0;
  let latest: MetricsRecord | undefined;
  let firstStep: { step: number; at: number } | undefined;

  const clearLive = () => {
    if (liveShown) write("\r\x1b[2K");
    liveShown = false;
  };
  const line = (text: string) => {
    clearLive();
    write(`${text}\n`);
    lastDraw = -Infinity;
  };

  return {
    progress(progress) {
      firstStep ??= { step: progress.step, at: now() };
      if (!isTTY || now() - lastDraw < redrawMs) return;
      lastDraw = now();
      const text = truncateLine(liveText(progress, latest, timeLeft(progress, firstStep, now())), columns() - 1);
      write(`\r\x1b[2K${text}`);
      liveShown = true;
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

function liveText(progress: Progress, latest: MetricsRecord | undefined, seconds: number | undefined): string {
  const { step, steps, phase, done, total } = progress;
  const share = done === undefined ? "" : ` ${done}${total === undefined ? "" : `/${total}`}`;
  const values = live.flatMap((name) => {
    const metric = metricNamed(name);
    const value = latest?.[name];
    return metric?.console === undefined || typeof value !== "number"
      ? []
      : [`${metric.console.head} ${formatted(metric, value)}`];
  });
  const left = seconds === undefined ? [] : [`${durationText(seconds)} left`];
  return [`step ${step}/${steps}`, `${phase}${share}`, ...left, ...values].join(" · ");
}

/** Seconds until the last step, from the mean time of the steps that are whole; unknown during the first. */
function timeLeft(progress: Progress, first: { step: number; at: number }, at: number): number | undefined {
  const whole = progress.step - first.step;
  if (whole <= 0) return undefined;
  const perStep = (at - first.at) / 1000 / whole;
  return Math.max(0, perStep * (progress.steps - progress.step + 1));
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
