/**
 * How far a download or an upload has come: a bar on a terminal (stderr), as the hub's other tools draw one; elsewhere a
 * line at the beginning, at times, and at the end. HF_HUB_DISABLE_PROGRESS_BARS takes the bar away.
 */
import { isOn } from "./environment.ts";

export interface TransferWatch {
  /** Lines: what is transferred, what is waited for. */
  readonly note: (text: string) => void;
  /** Where a bar is drawn. Default: stderr, if it is a terminal. */
  readonly bar?: ((text: string) => void) | null;
}

export interface Transfer {
  /** Bytes that arrived; negative ones have to be transferred again. */
  add(bytes: number): void;
  /** Takes the bar away. */
  end(): void;
  /** Seconds since the beginning. */
  readonly seconds: number;
}

const redrawMs = 100;
const lineMs = 10_000;

/** @param present bytes of `total` that were there before */
export function beginTransfer(
  watch: TransferWatch,
  name: string,
  total: number,
  present = 0,
  now: () => number = () => performance.now(),
): Transfer {
  const bar = watch.bar === undefined ? terminalBar() : watch.bar;
  const began = now();
  let [done, shown] = [present, bar === null ? began : -Infinity];
  const speed = () => (done - present) / Math.max(0.001, (now() - began) / 1000);
  return {
    add(bytes) {
      done += bytes;
      if (now() - shown < (bar === null ? lineMs : redrawMs)) return;
      shown = now();
      if (bar !== null) bar(`\r\x1b[2K${drawn(name, done, total, speed())}`);
      else watch.note(`${name}: ${share(done, total)} % of ${bytesText(total)}`);
    },
    end() {
      bar?.("\r\x1b[2K");
    },
    get seconds() {
      return (now() - began) / 1000;
    },
  };
}

function terminalBar(): ((text: string) => void) | null {
  if (process.stderr.isTTY !== true || isOn(process.env.HF_HUB_DISABLE_PROGRESS_BARS)) return null;
  return (text) => void process.stderr.write(text);
}

const share = (done: number, total: number): number => Math.floor((100 * done) / Math.max(1, total));

function drawn(name: string, done: number, total: number, speed: number): string {
  const columns = (process.stderr.columns ?? 80) - 1;
  const left = speed > 0 ? `, ${secondsText((total - done) / speed)} left` : "";
  const end = ` ${bytesText(done)} of ${bytesText(total)}, ${bytesText(speed)}/s${left}`;
  const room = columns - end.length - 2;
  const label = name.length > room - 14 ? `${name.slice(0, Math.max(0, room - 15))}…` : name;
  const width = Math.min(30, room - label.length - 1);
  const full = Math.min(width, Math.round((width * done) / Math.max(1, total)));
  return width < 4
    ? `${label}${end}`.slice(0, columns)
    : `${label} [${"#".repeat(full)}${"-".repeat(width - full)}]${end}`;
}

export function bytesText(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function secondsText(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}
