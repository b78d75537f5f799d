/**
 * The processes that cases run in, and the external checks of each case: that it ends in time, that the process survives, and
 * how much memory it takes. A case that fails one of these runs once more in a fresh process, so that it is not blamed for
 * another's effects.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Subprocess } from "bun";
import type { CaseName, Verdict } from "./case.ts";
import { type FromWorker, statusBytes } from "./worker.ts";

interface Limits {
  readonly seconds: number;
  readonly bytes: number;
}

const limits: Limits = { seconds: 10, bytes: 2 ** 30 };

export interface Workers {
  /** Makes the valid inputs. */
  ready(): Promise<void>;
  run(name: CaseName): Promise<Verdict>;
  close(): void;
}

/** Cases per process: leftovers of the program must not count as the next case's memory. */
const CASES_EACH = 150;
const FRESH_ABOVE = 500 * 2 ** 20;

interface Worker {
  readonly process: Subprocess;
  served: number;
  heldBytes: number;
  listener: (message: FromWorker) => void;
  errors: string;
}

/** @param program the worker's file; a test passes its own */
export function createWorkers(folder: string, { seconds, bytes } = limits, program?: string): Workers {
  const sound = join(folder, "sound");
  const file = program ?? join(import.meta.dir, "worker.ts");
  const idle: Worker[] = [];
  const all = new Set<Worker>();
  let made = 0;

  async function start(): Promise<Worker> {
    const work = join(folder, `worker-${made++}`);
    mkdirSync(work, { recursive: true });
    let ready = () => {};
    const waiting = new Promise<void>((resolve) => {
      ready = resolve;
    });
    const child = Bun.spawn([process.execPath, file, sound, work], {
      env: { ...process.env, NO_COLOR: "1" },
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
      ipc: (message: FromWorker) => (message.kind === "ready" ? ready() : worker.listener(message)),
    });
    const worker: Worker = { process: child, served: 0, heldBytes: 0, listener: () => {}, errors: "" };
    all.add(worker);
    void readErrors(worker, child.stderr);
    await Promise.race([waiting, child.exited]);
    return worker;
  }

  async function readErrors(worker: Worker, stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of stream) worker.errors = (worker.errors + decoder.decode(chunk)).slice(-3000);
  }

  function end(worker: Worker): void {
    all.delete(worker);
    worker.process.kill("SIGKILL");
  }

  /** One case in one process. The process is unusable afterwards if it died or was ended. */
  function serve(worker: Worker, name: CaseName): Promise<Verdict & { readonly alive: boolean }> {
    return new Promise((resolve) => {
      let deadline: ReturnType<typeof setTimeout> | undefined;
      let peak = 0;
      let unknown = { damage: `${name.kind}: case ${name.index}`, steps: 1 };
      const settle = (problem: string | null, verdict?: Verdict) => {
        clearTimeout(deadline);
        clearInterval(watch);
        worker.listener = () => {};
        const alive = verdict !== undefined;
        const dead = { ...unknown, code: -1, said: worker.errors };
        resolve({ ...(verdict ?? dead), problem: problem ?? verdict?.problem ?? null, alive });
      };
      const tooMuch = () => `${Math.round(peak / 2 ** 20)} MiB of memory`;
      const watch = setInterval(() => {
        peak = Math.max(peak, statusBytes("VmRSS", worker.process.pid));
        if (peak <= 1.5 * bytes) return;
        settle(tooMuch());
        end(worker);
      }, 25);
      // Before a case begins, a newly started process runs the valid files.
      const arm = (allowed: number) => {
        clearTimeout(deadline);
        deadline = setTimeout(() => {
          settle(`not done within ${seconds} s`);
          end(worker);
        }, allowed * 1000);
      };
      worker.listener = (message) => {
        if (message.kind === "started") {
          unknown = message;
          arm(seconds);
        }
        if (message.kind !== "ended") return;
        peak = Math.max(peak, message.peakBytes);
        worker.heldBytes = message.heldBytes;
        settle(peak > bytes ? tooMuch() : null, message.verdict);
      };
      void worker.process.exited.then(() => {
        const { exitCode, signalCode } = worker.process;
        settle(`the process died (${signalCode ?? `exit status ${exitCode}`})`);
        all.delete(worker);
      });
      arm(60);
      worker.served++;
      worker.process.send(name);
    });
  }

  return {
    async ready() {
      mkdirSync(sound, { recursive: true });
      if (program !== undefined) return;
      const maker = Bun.spawn([process.execPath, join(import.meta.dir, "inputs.ts"), sound], {
        stdin: "ignore",
        stdout: "inherit",
        stderr: "inherit",
      });
      if ((await maker.exited) !== 0) throw new Error("the sound inputs could not be made");
    },
    async run(name) {
      const worker = idle.pop() ?? (await start());
      const outcome = await serve(worker, name);
      const spent = worker.served >= CASES_EACH || worker.heldBytes > FRESH_ABOVE;
      if (outcome.alive && !spent) idle.push(worker);
      else end(worker);
      if (outcome.alive && !outcome.problem?.endsWith("of memory")) return outcome;
      const fresh = await start();
      const { alive: _, ...again } = await serve(fresh, name);
      end(fresh);
      return again;
    },
    close() {
      for (const worker of [...all]) end(worker);
    },
  };
}
