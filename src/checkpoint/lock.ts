/**
 * One writer per folder: `.grpo.lock` in it, locked by the kernel (flock) while its process lives, and naming it. A killed
 * process leaves the file but no lock, so it blocks nobody. On a file system without locks, the file's contents are
 * compared with the running processes.
 */

import {
  closeSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { hostname } from "node:os";
import { dirname, join, resolve } from "node:path";
import { lockFile } from "../../ffi/bindings/libc.ts";
import { InputError } from "../errors.ts";
import { runWriteFailure } from "../files/refusals.ts";
import { isRunning, startOf } from "../files/temporary.ts";

export const lockName = ".grpo.lock";

interface Holder {
  readonly command: string;
  readonly pid: number;
  readonly host: string;
  /** In clock ticks since boot, since another process may get the same id later. */
  readonly started: string;
  /** ISO 8601. */
  readonly since: string;
}

export interface FolderLock {
  /** Releases the folder, and removes it if it was created for the lock and is still empty. */
  release(): void;
}

/** The holder writes its name at once; a process that is refused waits this long to read it. */
const namedWithinMs = 500;
/** Without locks, two processes may both find the folder free and write their names; each checks the file after this time. */
const settleMs = 50;

/**
 * @param command what the process does, for the one that is refused
 * @param take takes the kernel's lock
 * @throws InputError naming the process that already writes there; RunError if the folder cannot be written
 */
export function lockFolder(folder: string, command: string, take = lockFile): FolderLock {
  const made = makeFolder(folder);
  const path = join(folder, lockName);
  for (;;) {
    const fd = opened(path, folder);
    const taken = take(fd);
    // The previous holder may have removed the file between our opening and locking it: then our lock protects nothing.
    if (taken === "locked" && !isSame(fd, path)) {
      closeSync(fd);
      continue;
    }
    let holder = readHolder(path);
    for (let waited = 0; taken === "held" && holder === null && waited < namedWithinMs; waited += settleMs) {
      Bun.sleepSync(settleMs);
      holder = readHolder(path);
    }
    if (taken === "held" || (taken === "unsupported" && holder !== null && mayRun(holder))) {
      closeSync(fd);
      removeEmpty(made);
      throw occupied(folder, path, holder, taken === "held");
    }
    const own: Holder = {
      command,
      pid: process.pid,
      host: hostname(),
      started: startOf(process.pid),
      since: new Date().toISOString(),
    };
    ftruncateSync(fd, 0);
    writeSync(fd, `${JSON.stringify(own)}\n`, 0);
    if (taken === "unsupported") {
      Bun.sleepSync(settleMs);
      const last = readHolder(path);
      if (last?.pid !== own.pid || last.host !== own.host) {
        closeSync(fd);
        throw occupied(folder, path, last, false);
      }
    }
    const release = (): void => {
      process.off("exit", release);
      if (isSame(fd, path)) rmSync(path, { force: true });
      closeSync(fd);
      removeEmpty(made);
    };
    process.on("exit", release);
    return { release };
  }
}

/** The folders created, outermost first. */
function makeFolder(folder: string): string[] {
  const made: string[] = [];
  for (let at = resolve(folder); !existsSync(at); at = dirname(at)) made.unshift(at);
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw runWriteFailure(error, folder);
  }
  return made;
}

function removeEmpty(made: readonly string[]): void {
  try {
    for (const folder of made.toReversed()) if (readdirSync(folder).length === 0) rmdirSync(folder);
  } catch {
    // Somebody else's by then.
  }
}

function opened(path: string, folder: string): number {
  try {
    return openSync(path, "a+");
  } catch (error) {
    throw runWriteFailure(error, folder);
  }
}

function isSame(fd: number, path: string): boolean {
  const [own, there] = [fstatSync(fd), statSync(path, { throwIfNoEntry: false })];
  return there !== undefined && own.ino === there.ino && own.dev === there.dev;
}

function readHolder(path: string): Holder | null {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Holder;
  } catch {
    return null;
  }
}

/** Nothing is known about a process on another host. */
const mayRun = ({ host, pid, started }: Holder): boolean => host !== hostname() || isRunning(pid, started);

function occupied(folder: string, path: string, holder: Holder | null, certain: boolean): InputError {
  const { command = "grpo", pid = "unknown", host = "", since = "" } = holder ?? {};
  const who = `${command} (process ${pid}${host === "" ? "" : ` on ${host}`}${since === "" ? "" : `, since ${since}`})`;
  if (certain) return new InputError(`${folder}: ${who} is writing there; wait for it, end it, or name another folder`);
  return new InputError(
    `${folder}: ${who} is writing there, as ${lockName} says; if it no longer runs, remove ${path}; else name another folder`,
  );
}
