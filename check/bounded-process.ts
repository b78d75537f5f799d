/**
 * A process with a time limit. It leads its own process group, so that everything it started ends with it: a kernel that never
 * returns blocks the thread that waits for it, and only a signal that cannot be caught ends that.
 */
import { closeSync, openSync } from "node:fs";

export interface Ended {
  readonly seconds: number;
  /** Exit status; null if a signal ended it. */
  readonly code: number | null;
  readonly signal: string | null;
  /** It exceeded its limit. */
  readonly timedOut: boolean;
}

export interface BoundedOptions {
  readonly command: readonly string[];
  readonly cwd: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly seconds: number;
  /** File for both of its outputs. */
  readonly log: string;
}

/** Seconds to wait for a process after killing it. */
const LAST_SECONDS = 5;

export async function runBounded({ command, cwd, env, seconds, log }: BoundedOptions): Promise<Ended> {
  const file = openSync(log, "w");
  const start = performance.now();
  let timedOut = false;
  try {
    const child = Bun.spawn([...command], {
      cwd,
      env: { ...env },
      stdin: "ignore",
      stdout: file,
      stderr: file,
      detached: true,
    });
    const ends = endsWith(child.pid);
    const timer = setTimeout(() => {
      timedOut = true;
      killGroup(child.pid);
    }, seconds * 1000);
    // No signal ends a process that is stuck in the driver: leave it behind and go on with the next stage.
    const ended = await Promise.race([child.exited, Bun.sleep((seconds + LAST_SECONDS) * 1000).then(() => null)]);
    clearTimeout(timer);
    if (ended === null) child.unref();
    killGroup(child.pid); // whatever it left behind
    ends.forget();
    const { exitCode: code, signalCode } = child;
    const signal = signalCode === null ? null : String(signalCode);
    return { seconds: (performance.now() - start) / 1000, code, signal, timedOut };
  } finally {
    closeSync(file);
  }
}

/** Ends a process that leads a group, and the whole group. */
export function killGroup(leader: number): void {
  try {
    process.kill(-leader, "SIGKILL");
  } catch {
    // no process of the group is left
  }
}

const leaders = new Set<number>();
const signals = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
let listening = false;

/** Ends the group, with all other open ones, when this process is asked to end. */
export function endsWith(leader: number): { forget(): void } {
  leaders.add(leader);
  if (!listening)
    for (const [signal, status] of Object.entries(signals))
      process.on(signal, () => {
        for (const each of leaders) killGroup(each);
        process.exit(status);
      });
  listening = true;
  return { forget: () => void leaders.delete(leader) };
}
