/**
 * The system's C++ compiler, and how a library is built with it: found once, run on every core, in a temporary folder beside
 * the result, which is then renamed into place. Sources and flags come from the builders (cpu/build.ts, and those of the
 * tests).
 */

import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { cacheFailure, madeInCache } from "../src/cache.ts";
import { RunError } from "../src/errors.ts";

export interface Compiler {
  readonly command: string;
  /** The first line of what `--version` prints. */
  readonly version: string;
}

/**
 * `$CXX`, else the first of c++, g++ and clang++ that runs.
 *
 * @param what needs it, in the plural: "the CPU kernels"
 * @throws RunError if none runs
 */
export function findCompiler(what: string): Compiler {
  const tried = [process.env.CXX, "c++", "g++", "clang++"].filter((name): name is string => !!name);
  for (const command of tried) {
    const compiler = compilerCalled(command);
    if (compiler !== null) return compiler;
  }
  throw new RunError(
    `${what} need a C++20 compiler and none of ${tried.join(", ")} runs; install one (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install) or set CXX`,
  );
}

/** The compiler with that name or path; null if it does not run. */
export function compilerCalled(command: string): Compiler | null {
  if (!Bun.which(command)) return null;
  const result = Bun.spawnSync([command, "--version"]);
  return result.success ? { command, version: result.stdout.toString().split("\n")[0] ?? "" } : null;
}

/** The running compilers: they must end with this process, which a signal may interrupt. */
const running = new Set<Subprocess>();
const endRunning = (): void => {
  for (const child of running) child.kill(); // its driver removes its partial output
};

/** Runs a compiler. @returns its exit status and output */
export async function compilerRun(command: readonly string[]): Promise<{ code: number; stderr: string }> {
  const child = Bun.spawn([...command], { stdout: "ignore", stderr: "pipe" });
  if (running.size === 0) process.on("exit", endRunning);
  running.add(child);
  const [stderr, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
  running.delete(child);
  if (running.size === 0) process.off("exit", endRunning);
  return { code, stderr };
}

/** One call of the compiler. @throws RunError with the first line that explains the failure */
export async function compile(what: string, command: readonly string[]): Promise<void> {
  const { code, stderr } = await compilerRun(command);
  if (code === 0) return;
  const reason = stderr.split("\n").find((line) => /error|fatal|undefined/.test(line)) ?? stderr.trim();
  throw new RunError(`${what} did not compile: ${command.join(" ")}: ${reason} (GCC 11 or Clang 14 is needed)`);
}

/**
 * Runs `jobs` with at most one per core at a time. After a failure no further job starts, and running ones are waited for,
 * since the caller may then remove the folder that they write to.
 *
 * @throws what the first failure threw
 */
export async function runAll(
  jobs: readonly (() => Promise<void>)[],
  cores = navigator.hardwareConcurrency,
): Promise<void> {
  const queue = [...jobs];
  const failures: unknown[] = [];
  const workers = Array.from({ length: Math.min(jobs.length, cores) }, async () => {
    for (let job = queue.shift(); job && failures.length === 0; job = queue.shift()) {
      try {
        await job();
      } catch (error) {
        failures.push(error);
      }
    }
  });
  await Promise.all(workers);
  if (failures.length > 0) throw failures[0];
}

/**
 * Calls `work` with a new folder in the cache, and removes it afterwards; results must be renamed out of it.
 *
 * @param names the parent folder in the cache, on the same file system as the result
 * @throws RunError if the cache cannot be written, and whatever `work` throws
 */
export async function inBuildFolder<T>(names: readonly string[], work: (folder: string) => Promise<T>): Promise<T> {
  const parent = madeInCache(...names);
  let folder: string;
  try {
    folder = mkdtempSync(join(parent, "build-"));
  } catch (error) {
    throw cacheFailure(error);
  }
  const remove = (): void => rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  process.on("exit", remove); // a signal
  try {
    return await work(folder);
  } finally {
    process.off("exit", remove);
    remove();
  }
}
