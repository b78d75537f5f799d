/**
 * The cache folder: what is made at run time and made again where it is missing (built kernels, files that the executable
 * carries, converted datasets). One place says where it is, and what to do where it cannot be written.
 */
import { mkdirSync } from "node:fs";
import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import { errorText, RunError } from "./errors.ts";

/**
 * `$BUN_GRPO_CACHE`, else `$XDG_CACHE_HOME/bun-grpo`, else `~/.cache/bun-grpo`.
 *
 * @throws RunError where nothing says which
 */
export function cacheFolder(): string {
  const { BUN_GRPO_CACHE, XDG_CACHE_HOME } = process.env;
  if (BUN_GRPO_CACHE) return BUN_GRPO_CACHE;
  if (XDG_CACHE_HOME) return join(XDG_CACHE_HOME, "bun-grpo");
  const home = homedir();
  if (!isAbsolute(home))
    throw new RunError("this user has no home folder for the cache; set BUN_GRPO_CACHE to a folder");
  return join(home, ".cache", "bun-grpo");
}

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

/** What is thrown for something that could not be written into the cache. */
export function cacheFailure(error: unknown): RunError {
  const full = error instanceof Error && "code" in error && (error.code === "ENOSPC" || error.code === "EDQUOT");
  const cure = full
    ? "free some, or set BUN_GRPO_CACHE to a folder that has room"
    : "set BUN_GRPO_CACHE to a folder that can";
  return new RunError(`${cacheFolder()}: cannot be written (${errorText(error)}); ${cure}`);
}
