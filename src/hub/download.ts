/**
 * One file of the hub into the cache's blobs: continued where it broke off (`HASH.incomplete`), checked by size and hash
 * before it counts, by one process at a time. Which files, and their places, is snapshot.ts.
 */
import { createHash, type Hash } from "node:crypto";
import { createReadStream, existsSync, mkdirSync, renameSync, rmSync, statSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { dirname } from "node:path";
import { type BlobLock, blobPath, cacheRefusal, type HubFile, inCache, lockBlob } from "./cache.ts";
import { HubError, nameOf, networkReason, type Repository } from "./failures.ts";
import type { Transfer, TransferWatch } from "./progress.ts";
import { askHub, patience } from "./request.ts";

const lookMs = 100;
const tellMs = 2000;

/**
 * Makes sure that the blob is there.
 *
 * @param url where its bytes are
 * @throws HubError where it breaks off for good (what arrived is kept), is not what the hub lists, or cannot be written
 */
export async function downloadBlob(
  repo: Repository,
  file: HubFile,
  url: string,
  transfer: Transfer,
  watch: TransferWatch,
): Promise<void> {
  const blob = blobPath(repo, file);
  inCache(() => mkdirSync(dirname(blob), { recursive: true }));
  const lock = await lockedOrMade(repo, file, blob, watch);
  if (lock === null) {
    transfer.add(file.size);
    return;
  }
  // Without locks two processes could write to one file: each has its own, and what breaks off begins anew.
  const unique = lock.state === "locked" ? "" : `.${crypto.randomUUID().slice(0, 8)}`;
  const incomplete = `${blob}${unique}.incomplete`;
  try {
    for (let tries = 0; !(await isWhole(repo, file, url, incomplete, transfer)); tries++) {
      rmSync(incomplete, { force: true });
      transfer.add(-file.size);
      if (tries === 1)
        throw new HubError(
          "damaged",
          `${nameOf(repo)}: ${file.path} arrived twice with another ${file.isLarge ? "SHA-256" : "hash"} than the hub ` +
            "lists, so it was removed; something on the way changes it: check the proxy, or use another network",
        );
    }
    inCache(() => renameSync(incomplete, blob));
  } finally {
    if (unique !== "") rmSync(incomplete, { force: true });
    lock.release();
  }
}

/** The lock, or null: another process has made the blob meanwhile. */
async function lockedOrMade(
  repo: Repository,
  file: HubFile,
  blob: string,
  { note }: TransferWatch,
): Promise<BlobLock | null> {
  for (let waited = 0; ; waited += lookMs) {
    const lock = lockBlob(repo, file);
    if (existsSync(blob)) {
      lock.release();
      return null;
    }
    if (lock.state !== "held") return lock;
    if (waited === tellMs) note(`${nameOf(repo)}: another process is downloading ${file.path}; waiting for it`);
    await Bun.sleep(lookMs);
  }
}

/** Fetches what is missing of the file, going on after each break. @returns whether it is what the hub lists */
async function isWhole(
  repo: Repository,
  file: HubFile,
  url: string,
  incomplete: string,
  transfer: Transfer,
): Promise<boolean> {
  for (let fails = 0; ; ) {
    const hash = file.isLarge ? createHash("sha256") : createHash("sha1").update(`blob ${file.size}\0`);
    const start = await resumed(file, incomplete, hash);
    if (start === file.size && existsSync(incomplete)) {
      transfer.add(file.size);
      return hash.digest("hex") === file.hash;
    }
    const parts: Parts = { file, incomplete, transfer, hash, at: start };
    transfer.add(start);
    try {
      await fetchRest(repo, url, parts);
      if (parts.at === file.size) return hash.digest("hex") === file.hash;
      if (parts.at > file.size) return false;
      throw new Error("the connection was closed");
    } catch (error) {
      const refused = cacheRefusal(error);
      if (refused instanceof HubError && !(refused.kind === "unreachable")) throw refused;
      if (parts.at > start) fails = 0;
      const wait = patience.waits[fails++];
      if (wait === undefined) throw brokeOff(repo, file, parts.at, refused);
      transfer.add(-parts.at);
      await Bun.sleep(wait);
    }
  }
}

function brokeOff(repo: Repository, file: HubFile, at: number, error: unknown): HubError {
  if (error instanceof HubError && at === 0) return error;
  const why = error instanceof HubError ? /\((.*)\)/.exec(error.message)?.[1] : networkReason(error);
  return new HubError(
    "unreachable",
    `${nameOf(repo)}: the download of ${file.path} broke off after ${at} of ${file.size} bytes (${why}); ` +
      "run the command again to continue",
    { cause: error },
  );
}

/** The bytes that an earlier attempt left, through the hash. */
async function resumed(file: HubFile, incomplete: string, hash: Hash): Promise<number> {
  const there = statSync(incomplete, { throwIfNoEntry: false })?.size ?? 0;
  if (there > file.size) {
    rmSync(incomplete);
    return 0;
  }
  if (there > 0) for await (const chunk of createReadStream(incomplete)) hash.update(chunk as Uint8Array);
  return there;
}

interface Parts {
  readonly file: HubFile;
  readonly incomplete: string;
  readonly transfer: Transfer;
  hash: Hash;
  /** Bytes that are there. */
  at: number;
}

async function fetchRest(repo: Repository, url: string, parts: Parts): Promise<void> {
  const { file, incomplete, transfer } = parts;
  const stop = new AbortController();
  const response = await askHub(repo, url, {
    // The size and the hash are those of the plain bytes.
    headers: { "Accept-Encoding": "identity", ...(parts.at > 0 && { Range: `bytes=${parts.at}-` }) },
    path: file.path,
    signal: stop.signal,
  });
  const handle = await open(incomplete, parts.at > 0 ? "r+" : "w");
  try {
    // A server that cannot begin in the middle sends everything.
    if (parts.at > 0 && !startsAt(response, parts.at)) {
      await handle.truncate(0);
      transfer.add(-parts.at);
      parts.at = 0;
      parts.hash = file.isLarge ? createHash("sha256") : createHash("sha1").update(`blob ${file.size}\0`);
    }
    await received(response, handle, parts, stop);
  } finally {
    await handle.close();
  }
}

const startsAt = (response: Response, at: number): boolean =>
  response.status === 206 && response.headers.get("content-range")?.startsWith(`bytes ${at}-`) === true;

async function received(response: Response, handle: FileHandle, parts: Parts, stop: AbortController): Promise<void> {
  const { file, transfer } = parts;
  const reader = response.body!.getReader();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let position = parts.at;
  try {
    for (;;) {
      const stalled = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error("nothing arrives any more")), patience.stallMs);
      });
      const { done, value } = await Promise.race([reader.read(), stalled]);
      clearTimeout(timer);
      if (done) return;
      for (let from = 0; from < value.length; )
        from += (await handle.write(value, from, value.length - from, position + from)).bytesWritten;
      position += value.length;
      parts.hash.update(value);
      parts.at = position;
      transfer.add(value.length);
      if (position > file.size) return;
    }
  } finally {
    clearTimeout(timer);
    stop.abort();
  }
}
