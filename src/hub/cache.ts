/**
 * The cache that all tools of the hub share, in huggingface_hub's layout: `models--org--name/` with `blobs/` (files by
 * the hash of what is in them), `snapshots/COMMIT/` (links into them), `refs/` (branch → commit) and `trees/` (what a
 * commit holds); `.locks/` beside. What either side wrote, the other uses.
 *
 * https://huggingface.co/docs/huggingface_hub/guides/manage-cache
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, relative } from "node:path";
import { lockFile } from "../../ffi/bindings/libc.ts";
import { hubCache, type RepoType } from "./environment.ts";
import { HubError, type Repository } from "./failures.ts";

/** A file of a commit. */
export interface HubFile {
  readonly path: string;
  readonly size: number;
  /** Names its blob: SHA-256 of a large file, Git's hash (SHA-1 of header and contents) of a small one. */
  readonly hash: string;
  readonly isLarge: boolean;
  readonly xetHash?: string | undefined;
  /** Git's hash of a large file's pointer. */
  readonly blobId: string;
}

const folderName = (type: RepoType, id: string): string => [`${type}s`, ...id.split("/")].join("--");

export const repoFolder = ({ type, id }: Repository): string => join(hubCache(), folderName(type, id));
export const snapshotFolder = (repo: Repository, commit: string): string => join(repoFolder(repo), "snapshots", commit);
export const blobPath = (repo: Repository, { hash }: HubFile): string => join(repoFolder(repo), "blobs", hash);

export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

/** The commit that a revision was when it was last asked for; null: it never was. */
export function cachedCommit(repo: Repository): string | null {
  const revision = repo.revision ?? "main";
  if (isCommit(revision)) return revision;
  const text = readText(join(repoFolder(repo), "refs", revision))?.trim() ?? "";
  return isCommit(text) ? text : null;
}

/** Written last, so that a branch always leads to a complete copy. */
export function writeRef(repo: Repository, commit: string): void {
  const revision = repo.revision ?? "main";
  const path = join(repoFolder(repo), "refs", revision);
  // A cache that may only be read has it already.
  if (revision !== commit && readText(path)?.trim() !== commit) write(path, commit);
}

const format = 1;

interface TreeEntry {
  readonly size: number;
  readonly blob_id: string;
  readonly lfs_sha256?: string;
  readonly lfs_size?: number;
  readonly xet_hash?: string;
}

/** What a commit holds, if it was listed before; null: unknown. */
export function cachedTree(repo: Repository, commit: string): HubFile[] | null {
  const text = readText(treePath(repo, commit));
  if (text === null) return null;
  try {
    const { format_version, files } = JSON.parse(text) as {
      format_version: number;
      files: Record<string, TreeEntry>;
    };
    if (format_version !== format) return null;
    return Object.entries(files).map(([path, { size, blob_id, lfs_sha256, lfs_size, xet_hash }]) => ({
      path,
      size: lfs_size ?? size,
      hash: lfs_sha256 ?? blob_id,
      isLarge: lfs_sha256 !== undefined,
      xetHash: xet_hash,
      blobId: blob_id,
    }));
  } catch {
    return null; // Of another version, or half a file: it is listed again.
  }
}

export function writeTree(repo: Repository, commit: string, tree: readonly HubFile[]): void {
  const files = Object.fromEntries(
    tree.map(({ path, size, hash, isLarge, xetHash, blobId }): [string, TreeEntry] => [
      path,
      {
        size,
        blob_id: blobId,
        ...(isLarge && { lfs_sha256: hash, lfs_size: size }),
        ...(xetHash !== undefined && { xet_hash: xetHash }),
      },
    ]),
  );
  write(treePath(repo, commit), JSON.stringify({ format_version: format, files }, null, 1));
}

const treePath = (repo: Repository, commit: string): string => join(repoFolder(repo), "trees", `${commit}.json`);

/** Puts a blob at its path in the snapshot: a link, or a copy where the file system has none. */
export function link(repo: Repository, commit: string, file: HubFile): void {
  const pointer = join(snapshotFolder(repo, commit), file.path);
  const blob = blobPath(repo, file);
  inCache(() => {
    mkdirSync(dirname(pointer), { recursive: true });
    if (lstatSync(pointer, { throwIfNoEntry: false }) !== undefined) {
      if (existsSync(pointer)) return; // Another process was faster.
      rmSync(pointer);
    }
    try {
      symlinkSync(relative(dirname(pointer), blob), pointer);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EEXIST") return;
      if (code !== "EPERM" && code !== "ENOTSUP" && code !== "ENOSYS") throw error;
      renameSync(blob, pointer);
    }
  });
}

/** Backup programs leave out a folder with this file. https://bford.info/cachedir/ */
export function tagCache(): void {
  const path = join(hubCache(), "CACHEDIR.TAG");
  if (!existsSync(path))
    write(path, "Signature: 8a477f597d28d172789f06886806bc55\n# Downloaded from the Hugging Face hub.\n");
}

export interface BlobLock {
  /** "held": by another process, so ask again; "unsupported": the file system has none. */
  readonly state: "locked" | "held" | "unsupported";
  release(): void;
}

/** Tries to be the only one that downloads a blob, as Python's filelock does. */
export function lockBlob(repo: Repository, { hash }: HubFile): BlobLock {
  const path = join(hubCache(), ".locks", folderName(repo.type, repo.id), `${hash}.lock`);
  return inCache(() => {
    mkdirSync(dirname(path), { recursive: true });
    const fd = openSync(path, "a", 0o664);
    const state = lockFile(fd);
    const [own, there] = [fstatSync(fd), statSync(path, { throwIfNoEntry: false })];
    // Its last holder may have removed the file between our opening and locking it: then our lock protects nothing.
    if (state === "held" || own.ino !== there?.ino) {
      closeSync(fd);
      return { state: "held", release() {} };
    }
    return { state, release: () => closeSync(fd) };
  });
}

function write(path: string, text: string): void {
  const beside = `${path}.${crypto.randomUUID().slice(0, 8)}.tmp`;
  inCache(() => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(beside, text);
    renameSync(beside, path);
  });
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}

/** Runs a write in the cache. @throws HubError with the cure, where the system refuses it */
export function inCache<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw cacheRefusal(error);
  }
}

export function cacheRefusal(error: unknown): unknown {
  const { code, syscall } = (error ?? {}) as NodeJS.ErrnoException;
  if (error instanceof HubError || typeof code !== "string" || syscall === undefined) return error;
  const full = code === "ENOSPC" || code === "EDQUOT";
  const why = full ? "the disk is full" : code === "EROFS" ? "it is read-only" : "it cannot be written";
  const cure = full
    ? "free some space, or set HF_HOME to a folder on another disk; what was downloaded is kept"
    : "change its permissions, or set HF_HOME to a folder of yours";
  return new HubError("disk", `the hub's cache ${hubCache()}: ${why} (${code}); ${cure}`, { cause: error });
}
