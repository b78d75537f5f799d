/**
 * The main thread's connection to the supervisor worker: starts it on first use, numbers the requests and delivers each
 * answer to its caller. Any number of requests may be in flight.
 */
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { RunError } from "../../errors.ts";
import { compiled } from "../../program.ts";
import type { FromSupervisor, ToSupervisor, Work } from "./protocol.ts";

export interface Connection {
  ask(work: Work): Promise<FromSupervisor>;
  close(): Promise<void>;
}

/**
 * In the executable, worker and processes run the program's own entry, with BUN_GRPO_CHILD telling them what they are:
 * it then imports supervisor.ts, or offers the public API (public-api.ts) and imports child.ts.
 */
const startSupervisor = (): Worker =>
  compiled
    ? new Worker(Bun.main, { env: { ...process.env, BUN_GRPO_CHILD: "supervisor" } as Record<string, string> })
    : new Worker(new URL("./supervisor.ts", import.meta.url).href, { env: process.env as Record<string, string> });

const childCommand = (): readonly string[] =>
  compiled
    ? [process.execPath]
    : [process.execPath, "--no-orphans", fileURLToPath(new URL("./child.ts", import.meta.url))];

/** What one answer may take if nothing else is said. */
export const DEFAULT_TIMEOUT_MS = 10_000;

export interface ConnectionOptions {
  readonly timeoutMs?: number | undefined;
  readonly memoryLimitMiB?: number | undefined;
  readonly size?: number | undefined;
  /** Modules with reward functions: each gets a process of its own, since one may only wait for a server. */
  readonly functions?: number | undefined;
}

/** The worker starts with the first request; see RewardPoolOptions for the defaults. */
export function connect(options: ConnectionOptions): Connection {
  const waiting = new Map<number, { resolve: (answer: FromSupervisor) => void; reject: (error: Error) => void }>();
  let worker: Worker | null = null;
  let closed = false;
  let lastId = 0;

  const fail = (error: Error): void => {
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };

  const start = (): Worker => {
    const started = startSupervisor();
    started.addEventListener("message", (event: MessageEvent<FromSupervisor>) => {
      waiting.get(event.data.id)?.resolve(event.data);
      waiting.delete(event.data.id);
      // Only requests in flight keep the program alive.
      if (waiting.size === 0) started.unref();
    });
    started.addEventListener("error", (event) =>
      fail(new RunError(`the rewards' supervisor failed: ${event.message}`)),
    );
    const settings = {
      timeoutMs: options.timeoutMs ?? DEFAULT_TIMEOUT_MS,
      memoryLimitMiB: options.memoryLimitMiB ?? 512,
      size: options.size ?? Math.min(4, Math.max(availableParallelism(), options.functions ?? 1)),
      command: childCommand(),
    };
    started.postMessage({ kind: "start", settings } satisfies ToSupervisor);
    return started;
  };

  return {
    ask(work) {
      if (closed) return Promise.reject(new Error("the reward pool is closed"));
      worker ??= start();
      worker.ref();
      const id = ++lastId;
      const answer = new Promise<FromSupervisor>((resolve, reject) => waiting.set(id, { resolve, reject }));
      worker.postMessage({ kind: "work", id, work } satisfies ToSupervisor);
      return answer;
    },
    async close() {
      closed = true;
      fail(new Error("the reward pool was closed"));
      if (worker === null) return;
      const ended = new Promise((resolve) => worker?.addEventListener("close", resolve));
      worker.ref();
      worker.postMessage({ kind: "close" } satisfies ToSupervisor);
      await ended;
      worker = null;
    },
  };
}
