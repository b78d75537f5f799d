/** A run's page as the trainer has it: a sink that hands on phases and remarks. Numbers and completions it reads itself. */
import { fileURLToPath } from "node:url";
import { InputError, RunError } from "../errors.ts";
import { compiled } from "../program.ts";
import type { RunSink } from "../run/sinks.ts";
import type { FromPage, ToPage } from "./messages.ts";

export interface Dashboard {
  readonly sink: RunSink;
  /** Waits until the open pages have the last numbers, but not long. */
  close(): Promise<void>;
}

export interface DashboardSettings {
  /** A port; true: the usual one, or the next that is free. */
  readonly dashboard: boolean | number;
  readonly dashboardHost: string;
  readonly outputDir: string;
}

/** How often it is told what the run is at, in ms; it then looks for new steps too, a little sooner than by itself (server.ts). */
const PROGRESS_MS = 4400;
/** What starting may take, in ms: on a busy machine, seconds. */
const START_MS = 30_000;
/** What ending may take, in ms. */
const END_MS = 2_000;

const noDashboard: Dashboard = { sink: {}, close: async () => {} };

/** In the executable, the process runs the program's own entry, which imports child.ts. */
const command = (): string[] =>
  compiled
    ? [process.execPath]
    : [process.execPath, "--no-orphans", fileURLToPath(new URL("./child.ts", import.meta.url))];

/**
 * Starts the page's process, if the settings want one, and notes its address.
 *
 * @throws InputError if the port or host cannot be used, RunError if the process does not start
 */
export async function openDashboard(settings: DashboardSettings, note: (text: string) => void): Promise<Dashboard> {
  const { dashboard, dashboardHost: host, outputDir: folder } = settings;
  if (dashboard === false) return noDashboard;
  const started = Promise.withResolvers<FromPage>();
  const process_ = Bun.spawn(command(), {
    env: { ...process.env, BUN_GRPO_CHILD: "dashboard", BUN_FEATURE_FLAG_NO_ORPHANS: "1" },
    stdin: "ignore",
    stdout: 2,
    stderr: 2,
    serialization: "json",
    ipc: (message: FromPage) => started.resolve(message),
    onExit: () => started.resolve({ kind: "failed", message: "its process ended", isUsage: false }),
  });
  let gone = false;
  void process_.exited.then(() => {
    gone = true;
  });
  const send = (message: ToPage): void => {
    if (gone) return;
    try {
      process_.send(message);
    } catch {
      // A page that has failed costs the run nothing.
      gone = true;
    }
  };
  send({ kind: "start", folder, host, port: dashboard === true ? null : dashboard });
  const timer = setTimeout(
    () => started.resolve({ kind: "failed", message: `nothing was heard for ${START_MS / 1000} s`, isUsage: false }),
    START_MS,
  );
  const first = await started.promise;
  clearTimeout(timer);
  if (first.kind === "failed") {
    process_.kill("SIGKILL");
    if (first.isUsage) throw new InputError(`dashboard: ${first.message}`);
    throw new RunError(`dashboard: the page does not start: ${first.message}`);
  }
  process_.unref();
  note(`page: ${first.url}`);

  let told = Number.NEGATIVE_INFINITY;
  return {
    sink: {
      progress(progress) {
        const now = performance.now();
        if (now - told < PROGRESS_MS) return;
        told = now;
        send({ kind: "progress", progress });
      },
      step(_, remarks) {
        for (const remark of remarks) send({ kind: "note", text: remark });
      },
      note: (text) => send({ kind: "note", text }),
    },
    async close() {
      if (gone) return;
      send({ kind: "end" });
      await Promise.race([process_.exited, Bun.sleep(END_MS)]);
      if (!gone) process_.kill("SIGKILL");
    },
  };
}
