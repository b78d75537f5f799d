/**
 * Files out of the executable, written into the cache once, as neither mmap nor a dynamic loader nor a compiler can read
 * the executable's own folder. They lie in `carried-HASH`, the hash that of all of them, so that two builds never share one.
 *
 * A folder is in use while a process refreshes its time, or, where it is another user's, that of a file of its own beside
 * it: `carried-HASH.used-…`. One that nobody has refreshed for days is removed by the next first start. Times and not
 * process ids, as a cache may be shared by containers or machines that do not see each other's processes. A process that
 * had its folder removed all the same (stopped for days) loses nothing: what it maps stays mapped, and what it asks for
 * again is written again.
 */
import {
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join, sep } from "node:path";
import { madeInCache, uniqueSuffix, writeInCache } from "./cache.ts";

const HOUR = 3_600_000;
/** How often a process refreshes the folder it uses, in milliseconds. */
const REFRESH_MS = 6 * HOUR;
/** A folder nobody has refreshed for this long is in no use. */
export const STALE_MS = 72 * HOUR;

/**
 * The path of `relative` in the cache, written there from `source` (a file or a folder of the executable) where it is
 * missing or, by its size, torn.
 *
 * @throws RunError where the cache cannot be written
 */
export function writtenOut(hash: string, relative: string, source: string): string {
  return place(source, join(folderOf(hash), relative));
}

/** `relative` of a path that `writtenOut` gave; null for any other. */
export function nameOfWritten(hash: string, path: string): string | null {
  const mark = `${sep}carried-${hash}${sep}`;
  const at = path.lastIndexOf(mark);
  return at < 0 ? null : path.slice(at + mark.length);
}

function place(source: string, target: string): string {
  const { size, isDirectory } = described(source);
  if (isDirectory) for (const name of readdirSync(source)) place(join(source, name), join(target, name));
  else if (!existsSync(target) || statSync(target).size !== size) writeInCache(target, readFileSync(source));
  return target;
}

function described(path: string): { readonly size: number; readonly isDirectory: boolean } {
  const found = statSync(path);
  return { size: found.size, isDirectory: found.isDirectory() };
}

let inUse: string | null = null;

/** The folder of this build; at the first call it is marked as in use, and others that are not are removed. */
function folderOf(hash: string): string {
  if (inUse !== null) return inUse;
  const cache = madeInCache();
  inUse = join(cache, `carried-${hash}`);
  keepInUse(inUse, REFRESH_MS);
  removeStale(cache, inUse, Date.now());
  return inUse;
}

/** Refreshes a folder's time now and again, for as long as the process lives; it does not keep the process alive. */
export function keepInUse(folder: string, everyMs: number): void {
  // One per user and machine rather than process, so that those of ended processes do not pile up.
  const claim = `${folder}.used-${process.getuid?.() ?? 0}-${Bun.hash(hostname()).toString(16)}`;
  const refresh = () => {
    if (touched(folder)) return;
    try {
      writeFileSync(claim, "", { flag: "a" });
      utimesSync(claim, new Date(), new Date());
    } catch {
      // A cache that this user can only read. Whoever removes the folder from there loses this process nothing it maps.
    }
  };
  refresh();
  setInterval(refresh, everyMs).unref();
}

/** Only the owner can set a folder's time. One that is not there yet will be made, and then it is new. */
function touched(folder: string): boolean {
  try {
    utimesSync(folder, new Date(), new Date());
    return true;
  } catch {
    return !existsSync(folder);
  }
}

/** When a folder was last in use, in milliseconds: by its own time and those of the claims on it. */
function lastUse(folder: string, claims: readonly string[]): number {
  return Math.max(...[folder, ...claims].map((path) => statSync(path).mtimeMs));
}

/** The claims on the folder of that name. */
function claimsOn(cache: string, name: string): string[] {
  return readdirSync(cache)
    .filter((each) => each.startsWith(`${name}.used-`))
    .map((each) => join(cache, each));
}

/**
 * Removes the folders in `cache` that other builds carried and that nobody has used of late, and claims as old. Each
 * folder is renamed first and looked at again, so that one that was taken into use in between goes back. What cannot be
 * removed is left, and so is everything in a cache that cannot be listed.
 */
export function removeStale(cache: string, own: string, now: number): void {
  const stale = (time: number) => now - time > STALE_MS;
  for (const name of listed(cache)) {
    const folder = join(cache, name);
    const [, hashed = "", rest = ""] = /^(carried-[0-9a-f]{16})(\.(?:removed|used)-.*)?$/.exec(name) ?? [];
    if (hashed === "" || folder === own) continue;
    try {
      // A claim stands for itself, and so does a folder that a process which ended half way left under its mark.
      const claims = () => (rest === "" ? claimsOn(cache, hashed) : []);
      if (!stale(lastUse(folder, claims()))) continue;
      const marked = rest === "" ? `${folder}.removed-${uniqueSuffix()}` : folder;
      if (marked !== folder) renameSync(folder, marked);
      if (!stale(lastUse(marked, claims()))) {
        renameSync(marked, folder);
        continue;
      }
      rmSync(marked, { recursive: true, force: true });
    } catch {
      // Another process was quicker, or may do what this one may not.
    }
  }
}

function listed(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
