/**
 * Files and folders that appear whole or not at all: written beside under a temporary name, forced to the disk, renamed
 * into place. Temporary names say who writes (`temporary.ts`), so that what a dead process left is known and removed.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { InputError } from "../errors.ts";
import { anyFile, writeFailure } from "./refusals.ts";
import { changedAt, isLeft, suffixPattern, temporarySuffix } from "./temporary.ts";

/**
 * Replaces a small file in one step.
 *
 * @throws RunError where it cannot be written; what was there before is untouched
 */
export function writeFileAtomic(path: string, content: string | Uint8Array, cures = anyFile): void {
  const { target, temporary } = fileNames(path);
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  try {
    const fd = openSync(temporary, "w");
    try {
      writeWhole(fd, bytes);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, target);
    syncFolder(dirname(target));
  } catch (error) {
    discard(temporary);
    throw writeFailure(error, path, cures);
  }
}

/** A write may take a part only, which is how a disk that fills up first shows. */
export function writeWhole(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
}

/** The same for the file of `writeLargeFileAtomic`; the event loop has its turn meanwhile. */
export async function writeBytes(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; ) at += (await file.write(bytes, at)).bytesWritten;
}

/** A command's `--output`: a file in one step; what is none (/dev/stdout, a pipe) is written to as it is. */
export function writeOutput(path: string, text: string): void {
  const isFile = !existsSync(path) || statSync(path).isFile();
  try {
    if (isFile) writeFileAtomic(path, text);
    else writeFileSync(path, text);
  } catch (error) {
    throw writeFailure(error, path);
  }
}

/**
 * Replaces a file of any size in one step; `write` fills it piece by piece.
 *
 * @throws RunError where it cannot be written, and whatever `write` throws; what was there before is untouched
 */
export async function writeLargeFileAtomic(
  path: string,
  write: (file: FileHandle) => Promise<void>,
  cures = anyFile,
): Promise<void> {
  const { target, temporary } = fileNames(path);
  try {
    const file = await open(temporary, "w");
    try {
      await write(file);
      await file.sync();
    } finally {
      await file.close();
    }
    renameSync(temporary, target);
    syncFolder(dirname(target));
  } catch (error) {
    discard(temporary);
    throw writeFailure(error, path, cures);
  }
}

/**
 * Replaces a folder in one step: `fill` gets an empty folder beside it, which then takes its place. A folder that was
 * there is moved aside first and comes back where the last rename fails; a crash between the two renames is mended by
 * `recoverFolder`.
 *
 * @throws RunError where it cannot be written, InputError where `folder` is a file, and whatever `fill` throws
 */
export async function writeFolderAtomic(
  folder: string,
  fill: (temporary: string) => Promise<void> | void,
): Promise<void> {
  const target = followLink(folder);
  recoverFolder(target);
  if (existsSync(target) && !lstatSync(target).isDirectory())
    throw new InputError(`${folder}: is a file, and a folder is to be written there; choose another name`);
  const suffix = temporarySuffix();
  const temporary = `${target}.tmp-${suffix}`;
  const aside = `${target}.old-${suffix}`;
  try {
    mkdirSync(dirname(target), { recursive: true });
    mkdirSync(temporary);
    await fill(temporary);
    await syncTree(temporary);
    if (existsSync(target)) {
      renameSync(target, aside);
      try {
        renameSync(temporary, target);
      } catch (error) {
        renameSync(aside, target);
        throw error;
      }
    } else {
      renameSync(temporary, target);
    }
    syncFolder(dirname(target));
    rmSync(aside, { recursive: true, force: true });
  } catch (error) {
    discard(temporary);
    throw writeFailure(error, folder);
  }
}

/**
 * Mends what a process that died inside `writeFolderAtomic` left: brings the folder back from where it was moved aside,
 * and removes what was half written. Does nothing where a living process still writes.
 *
 * @param nobodyWrites the caller knows that no other process does, as one with the folder's lock: whatever is there is left
 */
export function recoverFolder(folder: string, nobodyWrites = false): void {
  const target = followLink(folder);
  for (const { path, kind } of leftovers(target, `${basename(target)}.`, nobodyWrites)) {
    if (kind === "old" && !existsSync(target)) renameSync(path, target);
    else rmSync(path, { recursive: true, force: true });
  }
}

/** Removes what a failed write left. Where even that fails, the write's own failure is the one to tell. */
function discard(temporary: string): void {
  try {
    rmSync(temporary, { recursive: true, force: true });
  } catch {
    // The next write to the same name removes it, once this process has ended.
  }
}

function fileNames(path: string): { target: string; temporary: string } {
  const target = followLink(path);
  const prefix = `.${basename(target)}.`;
  for (const { path: left } of leftovers(target, prefix)) rmSync(left, { recursive: true, force: true });
  return { target, temporary: join(dirname(target), `${prefix}tmp-${temporarySuffix()}`) };
}

/** Writing through a link must land where it points: the link may lead to the disk with the space. */
export function followLink(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return resolve(path);
  }
}

const leftover = new RegExp(`^(tmp|old)-(${suffixPattern})$`);

/** Temporary and moved-aside versions of `target`, left by processes that no longer run; those to bring back first. */
function leftovers(target: string, prefix: string, nobodyWrites = false): { path: string; kind: "tmp" | "old" }[] {
  const parent = dirname(target);
  if (!statSync(parent, { throwIfNoEntry: false })?.isDirectory()) return [];
  return readdirSync(parent)
    .flatMap((name) => {
      const match = name.startsWith(prefix) ? leftover.exec(name.slice(prefix.length)) : null;
      const path = join(parent, name);
      if (match === null || !(nobodyWrites || isLeft(match[2]!, changedAt(path)))) return [];
      return [{ path, kind: match[1] as "tmp" | "old" }];
    })
    .sort((a, b) => (a.kind < b.kind ? -1 : 1));
}

/** Forces everything below the folder to the disk. */
export async function syncTree(folder: string): Promise<void> {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    else if (entry.isFile()) {
      const file = await open(path, "r");
      try {
        await file.sync();
      } finally {
        await file.close();
      }
    }
  }
  syncFolder(folder);
}

/** Makes a rename inside the folder last. Some file systems cannot; the rename holds then as well as they can. */
export function syncFolder(folder: string): void {
  const fd = openSync(folder, "r");
  try {
    fsyncSync(fd);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "EINVAL" && code !== "ENOTSUP") throw error;
  } finally {
    closeSync(fd);
  }
}
