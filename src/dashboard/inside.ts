/**
 * Files of a run's folder, and no others: only names that this program writes, no symbolic link at any place below the
 * folder, regular files only. What was opened is looked at after opening it, so exchanging it meanwhile gains nothing.
 */
import { closeSync, constants, existsSync, fstatSync, lstatSync, openSync, readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";

export interface OpenFile {
  readonly fd: number;
  readonly size: number;
  readonly modified: number;
  /** Differs for a file that replaced this one, or was written to. */
  readonly version: string;
  /** The file's own identity, whatever is in it. */
  readonly inode: number;
  close(): void;
}

const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** Whether the system says what a descriptor refers to. */
const tells = existsSync("/proc/self/fd");

/**
 * Opens `folder/name/…`; null if it is missing, no regular file, or reached through a link.
 *
 * @param folder as `realpath` gives it
 */
export function openInside(folder: string, ...names: readonly string[]): OpenFile | null {
  const path = join(folder, ...names);
  let fd: number;
  try {
    fd = openSync(path, flags);
  } catch {
    return null;
  }
  const found = fstatSync(fd);
  if (!found.isFile() || !isAt(fd, path, folder, names)) {
    closeSync(fd);
    return null;
  }
  const { size, mtimeMs, ino } = found;
  let open = true;
  return {
    ...{ fd, size, modified: mtimeMs, inode: ino, version: `${ino}-${size}-${mtimeMs}` },
    close() {
      if (open) closeSync(fd);
      open = false;
    },
  };
}

/** Whether the opened file is the one of that path, and not one that a link in it leads to. */
function isAt(fd: number, path: string, folder: string, names: readonly string[]): boolean {
  try {
    if (tells) return readlinkSync(`/proc/self/fd/${fd}`) === path;
    return names.every((_, i) => !lstatSync(join(folder, ...names.slice(0, i + 1))).isSymbolicLink());
  } catch {
    return false;
  }
}

/** The names in `folder/name`, and when they changed last; null if it is missing, no folder, or a link. */
export function listInside(
  folder: string,
  name: string,
  known: number | null,
): { readonly modified: number; readonly names: readonly string[] | null } | null {
  const path = join(folder, name);
  try {
    const found = lstatSync(path);
    if (!found.isDirectory()) return null;
    return { modified: found.mtimeMs, names: found.mtimeMs === known ? null : readdirSync(path) };
  } catch {
    return null;
  }
}
