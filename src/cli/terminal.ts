/** What a command has of the terminal: the console on stdout, remarks on stderr, signals that ask it to stop. */
import type { Control } from "../api/control.ts";
import { createConsole, quietly } from "../metrics/console.ts";
import { onInterrupt } from "./interrupt.ts";

/** For commands whose stdout is their product. */
export const noteOnStderr = (text: string): void => void process.stderr.write(`${text}\n`);

/**
 * Runs a command's work with the console, and with signals as requests to stop.
 *
 * @param stopping what the work does when it is asked to stop
 * @param quiet shows warnings alone
 */
export async function onTerminal<R>(
  stopping: string,
  work: (control: Control) => Promise<R>,
  quiet = false,
): Promise<R> {
  const shown = createConsole({
    isTTY: process.stdout.isTTY === true && process.env.TERM !== "dumb",
    columns: () => process.stdout.columns,
    write: (text) => process.stdout.write(text),
  });
  const console = quiet ? quietly(shown) : shown;
  const interrupt = onInterrupt({ stopping });
  try {
    return await work({ console, stopRequested: interrupt.requested, onBegin: interrupt.begin });
  } finally {
    interrupt.release();
    console.close();
  }
}
