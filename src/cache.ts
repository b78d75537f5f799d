/**
 * The cache folder: what is made at run time and made again where it is missing (built kernels, files that the executable
 * carries, converted datasets). One place says where it is, and what to do where it cannot be written.
 */
import { accessSync, constants, existsSync, lstatSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { dirname, isAbsolute, join } from "node:path";
import { errorText, RunError } from "./errors.ts";

/**
 * `$BUN_GRPO_CACHE`, else `$XDG_CACHE_HOME/bun-grpo`, else `~/.cache/bun-grpo`; for a user without a home folder, or with
 * one that they cannot write into, one of their own among the temporary files.
 *
 * @throws RunError where that one is not their own
 */
export function cacheFolder(): string {
  const { BUN_GRPO_CACHE, XDG_CACHE_HOME } = process.env;
  if (BUN_GRPO_CACHE) return BUN_GRPO_CACHE;
  if (XDG_CACHE_HOME) return join(XDG_CACHE_HOME, "bun-grpo");
  const home = homeFolder();
  const folder = home === null ? null : join(home, ".cache", "bun-grpo");
  return folder !== null && canBeWritten(folder) ? folder : temporaryFolder();
}

/**
 * The user's own; null for one without, as a container's often is: HOME is unset and the system's list has no entry, or it
 * is `/`, which container engines set for a user that the list does not have.
 */
export function homeFolder(): string | null {
  try {
    const home = homedir();
    return isAbsolute(home) && (home !== "/" || process.getuid?.() === 0) ? home : null;
  } catch {
    return null;
  }
}

/** By the folder, or where it would be made. */
function canBeWritten(folder: string): boolean {
  if (!existsSync(folder) && dirname(folder) !== folder) return canBeWritten(dirname(folder));
  try {
    accessSync(folder, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Libraries are loaded from it: it must be nobody else's, and nobody else may write into it. */
function temporaryFolder(): string {
  const user = process.getuid?.() ?? 0;
  const folder = join(tmpdir(), `bun-grpo-${user}`);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const found = lstatSync(folder);
    if (found.isDirectory() && found.uid === user && (found.mode & 0o022) === 0) return folder;
  } catch (error) {
    throw new RunError(`${folder}: cannot be made (${errorText(error)}); ${noHome}`);
  }
  throw new RunError(`${folder}: others can write into it; ${noHome}`);
}

const noHome = "this user has no home folder that can be written, so set BUN_GRPO_CACHE to a folder for what is kept";

/** The folder of that name in the cache, made where it is missing. @throws RunError where it cannot be */
export function madeInCache(...names: readonly string[]): string {
  const folder = join(cacheFolder(), ...names);
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw cacheFailure(error);
  }
  return folder;
}

/** A suffix that no other process has: containers that share a cache may share process ids. */
export const uniqueSuffix = (): string => `${process.pid}-${crypto.randomUUID().slice(0, 8)}`;

/**
 * Written beside, then renamed: of two processes that write at once, the second puts an equal file in the first's place.
 *
 * @throws RunError where it cannot be
 */
export function writeInCache(path: string, content: string | Uint8Array): void {
  const beside = `${path}.${uniqueSuffix()}`;
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(beside, content);
    renameSync(beside, path);
  } catch (error) {
    if (existsSync(beside)) rmSync(beside); // not by "force": Bun takes a parent that is a file for another failure
    throw cacheFailure(error);
  }
}

/** What is thrown for something that could not be written into the cache. */
export function cacheFailure(error: unknown): RunError {
  const full = error instanceof Error && "code" in error && (error.code === "ENOSPC" || error.code === "EDQUOT");
  const remedy = full
    ? "free some, or set BUN_GRPO_CACHE to a folder that has room"
    : "set BUN_GRPO_CACHE to a folder that can";
  return new RunError(`${cacheFolder()}: cannot be written (${errorText(error)}); ${remedy}`);
}
