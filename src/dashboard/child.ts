/**
 * The process of a page while its run trains. A process of its own rather than a thread, so that neither its memory nor a
 * failure of it is the trainer's, and so that the kernel lets the trainer go first. It reads what the run writes, as `grpo
 * show` does, and hears of phases and remarks from the trainer.
 */
import { setPriority } from "node:os";
import { errorText, InputError } from "../errors.ts";
import { pageFiles } from "./bundle.ts";
import type { FromPage, ToPage } from "./messages.ts";
import { viewRun } from "./run-view.ts";
import { type PageServer, startServer } from "./server.ts";

const send = (message: FromPage): void => void process.send?.(message);

delete process.env.BUN_GRPO_CHILD;
delete process.env.BUN_FEATURE_FLAG_NO_ORPHANS;

// Ctrl-C and the end of a job signal every process; the trainer decides when the page ends.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGXCPU"] as const)
  process.on(signal, () => {});
process.on("disconnect", () => process.exit(0));

try {
  setPriority(10);
} catch {
  // Not permitted: it then competes like any other program.
}

/** How long open pages have for the last events, in ms. */
const LAST_MS = 150;

let server: PageServer | null = null;

async function start({ folder, host, port }: Extract<ToPage, { kind: "start" }>): Promise<void> {
  server = startServer({ runs: [viewRun(folder, 0)], files: await pageFiles(), host, port, status: "running" });
  send({ kind: "ready", url: server.url });
}

process.on("message", async (message: ToPage) => {
  try {
    if (message.kind === "start") await start(message);
    else if (message.kind === "progress") server?.progress(message.progress);
    else if (message.kind === "note") server?.note(message.text);
    else {
      await server?.end();
      await Bun.sleep(LAST_MS);
      process.exit(0);
    }
  } catch (error) {
    send({ kind: "failed", message: errorText(error), isUsage: error instanceof InputError });
  }
});
