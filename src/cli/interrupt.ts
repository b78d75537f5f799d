/**
 * Signals that ask a command to end: Ctrl-C, a closing terminal, what Slurm and its like send before they kill. The first
 * asks the work to stop at the next good place, the second ends the process at once. Before the work has begun there is
 * nothing to save, and the first does. Says why on stderr, as stdout may be gone.
 */
import { speaks } from "../ranks/environment.ts";
import { wasIgnored, watchLauncher } from "./parent.ts";

const SIGHUP = 1;
const signals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGXCPU", "SIGALRM"] as const;
/** Ctrl-C reaches every process of a terminal, and launchers pass it on: what comes within so many ms is the same one. */
const sameWithinMs = 200;

interface InterruptOptions {
  /** What the command does when it is asked to stop, e.g. "stopping after this step and saving a checkpoint". */
  readonly stopping: string;
  readonly say?: (text: string) => void;
}

/** On a terminal the live line of the console, and what Ctrl-C shows, stand where the text goes. */
const onStderr = (text: string): void =>
  void process.stderr.write(`${process.stderr.isTTY ? "\r\x1b[2K" : ""}${text}\n`);

export interface Interrupt {
  readonly requested: () => boolean;
  /** The work begins: from here on the first signal is a request. Until then it ends the process. */
  begin(): void;
  /** Puts the default handling back. */
  release(): void;
}

const notBegun = "stopped before the work began, nothing was changed";

// nohup: the run is to outlive its terminal.
const heard = signals.filter((signal) => signal !== "SIGHUP" || !wasIgnored(SIGHUP));

const early = (signal: NodeJS.Signals): void => {
  if (speaks()) onStderr(`${signal}: ${notBegun}`);
  process.exit(130);
};

/** While a command's files are still being loaded: a signal ends the process, with the exit status that it has later too. */
export function endOnSignal(): void {
  for (const signal of heard) process.on(signal, early);
}

/** While other processes do the work: every signal is theirs. @returns puts the default handling back */
export function passOnSignals(send: (signal: NodeJS.Signals) => void): () => void {
  for (const signal of heard) process.on(signal, send).off(signal, early);
  return () => {
    for (const signal of heard) process.off(signal, send);
  };
}

export function onInterrupt({ stopping, say = speaks() ? onStderr : () => {} }: InterruptOptions): Interrupt {
  let requestedAt: number | null = null;
  let working = false;
  const ask = (why: string): void => {
    if (requestedAt !== null) {
      if (performance.now() - requestedAt < sameWithinMs) return;
      say(`${why}: ended at once`);
      process.exit(130);
    }
    requestedAt = performance.now();
    if (!working) {
      say(`${why}: ${notBegun}`);
      process.exit(130);
    }
    say(`${why}: ${stopping}; a second signal ends at once`);
  };
  const handler = (signal: NodeJS.Signals): void => ask(signal);
  for (const signal of heard) process.on(signal, handler).off(signal, early);
  const unwatch = watchLauncher((what) => {
    if (requestedAt === null) ask(what);
  });
  return {
    requested: () => requestedAt !== null,
    begin() {
      working = true;
    },
    release() {
      unwatch();
      for (const signal of heard) process.off(signal, handler);
    },
  };
}
