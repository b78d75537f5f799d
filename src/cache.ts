/**
 * The cache folder, for everything built at run time and rebuilt if missing: compiled kernels, files extracted from the
 * executable, converted datasets. Decides where it is, and reports when it cannot be written.
 */
import { accessSync, constants, existsSync, lstatSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { dirname, isAbsolute, join } from "node:path";
import { errorText, RunError } from "./errors.ts";

/**
 * `$BUN_GRPO_CACHE`, else `$XDG_CACHE_HOME/bun-grpo`, else `~/.cache/bun-grpo`; for a user without a writable home
 * folder, a private one among the temporary files.
 *
 * @throws RunError if that one is not private
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
 * The user's home folder, or null. In containers it is often missing: HOME is unset and the user is not in /etc/passwd,
 * or HOME is `/`, which container engines set for such a user.
 */
export function homeFolder(): string | null {
  try {
    const home = homedir();
    return isAbsolute(home) && (home !== "/" || process.getuid?.() === 0) ? home : null;
  } catch {
    return null;
  }
}

/** Checks the folder, or the nearest existing parent in which it would be created. */
function canBeWritten(folder: string): boolean {
  if (!existsSync(folder) && dirname(folder) !== folder) return canBeWritten(dirname(folder));
  try {
    accessSync(folder, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Libraries are loaded from it, so it must belong to this user and be writable by nobody else. */
function temporaryFolder(): string {
  const user = process.getuid?.() ?? 0;
  const folder = join(tmpdir(), `bun-grpo-${user}`);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const found = lstatSync(folder);
    if (found.isDirectory() && found.uid === user && (found.mode & 0o022) === 0) return folder;
  } catch (error) {
    throw new RunError(`${folder}: cannot be created (${errorText(error)}); ${noHome}`);
  }
  throw new RunError(`${folder}: others can write into it; ${noHome}`);
}

const noHome = "this user has no writable home folder, so set BUN_GRPO_CACHE to a folder for the cache";

/** The folder of that name in the cache, created if missing. @throws RunError if it cannot be created */
export function madeInCache(...names: readonly string[]): string {
  const folder = join(cacheFolder(), ...names);
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw cacheFailure(error);
  }
  return folder;
}

/** A suffix that no other process uses: containers that share a cache may share process ids. */
export const uniqueSuffix = (): string => `${process.pid}-${crypto.randomUUID().slice(0, 8)}`;

/**
 * Writes a temporary file, then renames it: if two processes write at once, the second replaces the first's file with
 * an equal one.
 *
 * @param mode of the file, less the user's mask
 * @throws RunError if it cannot be written
 */
export function writeInCache(path: string, content: string | Uint8Array, mode = 0o666): void {
  const beside = `${path}.${uniqueSuffix()}`;
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(beside, content, { mode });
    renameSync(beside, path);
  } catch (error) {
    if (existsSync(beside)) rmSync(beside); // not with `force`: Bun still fails if a parent is a file
    throw cacheFailure(error);
  }
}

/** The error for a failed write to the cache. */
export function cacheFailure(error: unknown): RunError {
  const full = error instanceof Error && "code" in error && (error.code === "ENOSPC" || error.code === "EDQUOT");
  const remedy = full
    ? "free some space, or set BUN_GRPO_CACHE to a folder with room"
    : "set BUN_GRPO_CACHE to a writable folder";
  return new RunError(`${cacheFolder()}: cannot be written (${errorText(error)}); ${remedy}`);
}
