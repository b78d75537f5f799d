/** Distributes cases over processes (cuda-worker.ts): one per core, or a few for the one GPU. */
import { join } from "node:path";
import type { Subprocess } from "bun";
import type { CaseAnswer } from "./cuda-worker.ts";

interface Job {
  readonly name: string;
  readonly resolve: (answer: CaseAnswer) => void;
}

export interface CudaWorkers {
  /** The result of a case; the first request starts all processes. */
  answer(name: string): Promise<CaseAnswer>;
  close(): void;
}

/**
 * @param seconds limit of a case; a kernel that never ends would otherwise block all cases behind it
 * @param env added to the processes' environment, such as the emulated GPU's compute capability
 */
export function cudaWorkers(
  names: readonly string[],
  count: number,
  seconds: number,
  env: Readonly<Record<string, string>> = {},
): CudaWorkers {
  const queue: Job[] = [];
  const answers = new Map<string, Promise<CaseAnswer>>();
  const open = new Set<Subprocess>();
  const done = (job: Job, failure: string, lost: boolean) => job.resolve({ failure, called: [], lost, launched: [] });

  function startWorker(): void {
    let current: Job | undefined;
    let hung = false;
    let deadline: Timer | undefined;
    const next = () => {
      clearTimeout(deadline);
      current = queue.shift();
      if (!current) return child.kill();
      child.send(current.name);
      deadline = setTimeout(() => {
        hung = true;
        child.kill("SIGKILL");
      }, seconds * 1000);
    };
    /** The process can run nothing more: the next case gets a new one. */
    const replace = () => {
      clearTimeout(deadline);
      current = undefined;
      child.kill();
      if (queue.length > 0) startWorker();
    };
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "cuda-worker.ts")], {
      env: { ...process.env, ...env },
      stdin: "ignore",
      stdout: "inherit",
      stderr: "inherit",
      ipc(answer: CaseAnswer) {
        current?.resolve(answer);
        if (answer.lost) replace();
        else next();
      },
      onExit(_, code, signal) {
        open.delete(child);
        clearTimeout(deadline);
        if (!current) return;
        done(current, hung ? `did not end within ${seconds} s` : `the process ended with ${code ?? signal}`, !hung);
        if (queue.length > 0) startWorker();
      },
    });
    open.add(child);
    next();
  }

  return {
    answer(name) {
      if (answers.size === 0) {
        for (const each of names) answers.set(each, new Promise((resolve) => queue.push({ name: each, resolve })));
        for (let i = 0; i < Math.min(count, names.length); i++) startWorker();
      }
      return answers.get(name)!;
    },
    close() {
      queue.length = 0;
      for (const child of open) child.kill();
    },
  };
}
