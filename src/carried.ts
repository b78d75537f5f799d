/**
 * Files extracted from the executable into the cache, once: mmap, the dynamic loader and compilers cannot read the
 * executable's virtual folder. They are in `carried-HASH`, a hash of all of them, so two builds never share a folder.
 *
 * A folder is in use while some process refreshes its modification time or, if it belongs to another user, that of a
 * claim file beside it: `carried-HASH.used-…`. A folder not refreshed for days is removed by the next first start.
 * Times are used rather than process ids because a cache may be shared by containers or machines that cannot see each
 * other's processes. A process whose folder is removed anyway (it was suspended for days) loses nothing: mappings stay
 * valid, and files that it asks for again are written again.
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
/** A folder that has not been refreshed for this long is unused. */
export const STALE_MS = 72 * HOUR;

/**
 * The path of `relative` in the cache. It is copied from `source` (a file or folder of the executable) if it is missing
 * or has the wrong size.
 *
 * @throws RunError if the cache cannot be written
 */
export function writtenOut(hash: string, relative: string, source: string): string {
  return place(source, join(folderOf(hash), relative));
}

/** The `relative` of a path that `writtenOut` returned; null for any other. */
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

/** This build's folder. The first call marks it as in use and removes unused folders of other builds. */
function folderOf(hash: string): string {
  if (inUse !== null) return inUse;
  const cache = madeInCache();
  inUse = join(cache, `carried-${hash}`);
  keepInUse(inUse, REFRESH_MS);
  removeStale(cache, inUse, Date.now());
  return inUse;
}

/** Refreshes a folder's time periodically while the process lives, without keeping the process alive. */
export function keepInUse(folder: string, everyMs: number): void {
  // One per user and machine rather than per process, so that files of ended processes do not pile up.
  const claim = `${folder}.used-${process.getuid?.() ?? 0}-${Bun.hash(hostname()).toString(16)}`;
  const refresh = () => {
    if (touched(folder)) return;
    try {
      writeFileSync(claim, "", { flag: "a" });
      utimesSync(claim, new Date(), new Date());
    } catch {
      // This user can only read the cache. If someone removes the folder, what this process maps stays mapped.
    }
  };
  refresh();
  setInterval(refresh, everyMs).unref();
}

/** Only the owner can set a folder's time. A missing folder counts as touched: it will be created, and so is new. */
function touched(folder: string): boolean {
  try {
    utimesSync(folder, new Date(), new Date());
    return true;
  } catch {
    return !existsSync(folder);
  }
}

/** When a folder was last used, in milliseconds: the latest of its own time and those of the claims on it. */
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
 * Removes stale folders of other builds from `cache`, and stale claims. Each folder is renamed and checked again first,
 * so that one taken into use in between is put back. Anything that cannot be listed or removed is left.
 */
export function removeStale(cache: string, own: string, now: number): void {
  const stale = (time: number) => now - time > STALE_MS;
  for (const name of listed(cache)) {
    const folder = join(cache, name);
    const [, hashed = "", rest = ""] = /^(carried-[0-9a-f]{16})(\.(?:removed|used)-.*)?$/.exec(name) ?? [];
    if (hashed === "" || folder === own) continue;
    try {
      // Claims do not apply to a claim, nor to a folder already renamed by a process that ended before removing it.
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
      // Another process removed it first, or this one lacks the permission.
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
