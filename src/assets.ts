/**
 * Files that the program carries: kernel sources, the bundled model and its problems. One function gives their real
 * paths, so that no other file knows where the program lies.
 */
import { join } from "node:path";

const root = join(import.meta.dir, "..");

/** Absolute path of a file the program carries, `relative` to the project's root (such as `ffi/cpu/path.cpp`). */
export function assetPath(relative: string): string {
  return join(root, relative);
}
