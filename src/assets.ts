/**
 * Files that the program carries: kernel sources, the bundled model and its problems, and in the executable the built CPU
 * kernels. One function gives their real paths, so that no other file knows where the program lies.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { nameOfWritten, writtenOut } from "./carried.ts";
import { assetsHash, compiled } from "./program.ts";

const root = compiled ? import.meta.dir : join(import.meta.dir, "..");

/**
 * Absolute path of a file or folder the program carries, `relative` to the project's root (such as `ffi/cpu/path.cpp`).
 * What is not there, in the executable or the checkout, has a path too, at which nothing lies.
 *
 * @throws RunError where the executable cannot write what it carries into the cache
 */
export function assetPath(relative: string): string {
  const source = join(root, relative);
  return compiled && existsSync(source) ? writtenOut(assetsHash, relative, source) : source;
}

/** What a file that the executable carries is called in the project (`data/model`); null for any other path. */
export function assetName(path: string): string | null {
  return compiled ? nameOfWritten(assetsHash, path) : null;
}
