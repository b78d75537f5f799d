/**
 * Files bundled with the program: kernel sources, the bundled model and its problems and, in the executable, the built
 * CPU kernels. No other file needs to know where the program is installed.
 */
import { existsSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { nameOfWritten, writtenOut } from "./carried.ts";
import { assetsHash, compiled } from "./program.ts";

const root = compiled ? import.meta.dir : join(import.meta.dir, "..");

/**
 * Absolute path of a bundled file or folder, named from the project's root (such as `ffi/cpu/path.cpp`). The path is
 * returned even if nothing exists there.
 *
 * @throws RunError if the executable cannot write its files into the cache
 */
export function assetPath(name: string): string {
  const source = join(root, name);
  return compiled && existsSync(source) ? writtenOut(assetsHash, name, source) : source;
}

/** A bundled file's path in the project (`data/model`); null for any other path. */
export function assetName(path: string): string | null {
  return compiled ? nameOfWritten(assetsHash, path) : null;
}

/** A path as it is shortest to read: from here, where it lies below; of what the executable carries, its name. */
export function shownPath(path: string): string {
  const name = assetName(path);
  if (name !== null) return name;
  const below = relative(process.cwd(), resolve(path));
  return below !== "" && !below.startsWith("..") ? below : path;
}
