/**
 * The few calls of the C library that Bun has no equivalent for: mapping files of any size, anonymous memory, views of memory
 * at an address, locking a file. Addresses are plain numbers (they stay below 2^53). Linux (glibc or musl) and macOS; leaves
 * out Windows.
 */
import { dlopen, type Pointer, read, toArrayBuffer } from "bun:ffi";
import { closeSync, fstatSync, openSync, statSync } from "node:fs";
import { InputError, RunError } from "../../src/errors.ts";
import { requireFile } from "../../src/files/paths.ts";

const symbolTable = {
  // void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
  mmap: { args: ["usize", "usize", "i32", "i32", "i32", "i64"], returns: "ptr" },
  // int munmap(void *addr, size_t length)
  munmap: { args: ["usize", "usize"], returns: "i32" },
  // int madvise(void *addr, size_t length, int advice)
  madvise: { args: ["usize", "usize", "i32"], returns: "i32" },
  // int flock(int fd, int operation)
  flock: { args: ["i32", "i32"], returns: "i32" },
  // void exit(int status)
  exit: { args: ["i32"], returns: "void" },
} as const;

const isMac = process.platform === "darwin";

/** Address of the last error's number. */
const errorSymbol = isMac ? "__error" : "__errno_location";

function openLibc() {
  const candidates = isMac ? ["libSystem.B.dylib"] : ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1"];
  for (const name of candidates) {
    try {
      const libc = dlopen(name, symbolTable).symbols;
      const errors: Record<string, (() => unknown) | undefined> = dlopen(name, {
        [errorSymbol]: { args: [], returns: "ptr" },
      }).symbols;
      return { libc, errorNumber: errors[errorSymbol]! };
    } catch {
      // try the next candidate
    }
  }
  throw new RunError(`no C library found under the names ${candidates.join(", ")}`);
}

const { libc, errorNumber } = openLibc();

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_ANONYMOUS = isMac ? 0x1000 : 0x20;
const MADV_HUGEPAGE = 14; // Linux only
const MADV_DONTNEED = 4;
/** Of x86-64, and of arm64 with pages of 4 KiB. */
const HUGE_PAGE = 2 ** 21;
const MAP_FAILED = 2 ** 64 - 1;
/** Checking the file takes microseconds, as does reading a row of a dataset. */
const LOOK_EVERY_MS = 100;

/** A file mapped read-only. Views are valid until `close`. */
export interface FileMapping {
  readonly path: string;
  /** Address of byte 0; 0 for an empty file. */
  readonly address: number;
  readonly byteLength: number;
  /** A view of `length` bytes from `offset`, without a copy. Keep it short-lived: it does not keep the mapping alive. */
  view(offset: number, length: number): Uint8Array<ArrayBuffer>;
  /**
   * Checks, at most a few times per second, that the file is still the one that was mapped: writes by another program show
   * here, and touching a truncated part ends the process. A file that replaces it by a rename is a different file and harmless.
   *
   * @throws InputError if it changed
   */
  requireUnchanged(): void;
  /** Drops the pages from memory (they are read again from the file when touched). */
  release(): void;
  close(): void;
}

function mapped(result: unknown): number | null {
  const address = Number(result);
  return address === 0 || address === -1 || address === MAP_FAILED ? null : address;
}

/**
 * Maps a whole file, of any size (`Bun.mmap` stops at 4 GiB).
 *
 * @throws InputError if the file cannot be opened or is not a regular file.
 */
export function mapFile(path: string): FileMapping {
  let fd: number;
  requireFile(path);
  try {
    fd = openSync(path, "r");
  } catch (error) {
    throw new InputError(`${path}: cannot be opened (${(error as NodeJS.ErrnoException).code}); check the path`);
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new InputError(`${path}: not a regular file`);
    const byteLength = stat.size;
    if (byteLength === 0) return emptyMapping(path);
    const address = mapped(libc.mmap(0, byteLength, PROT_READ, MAP_SHARED, fd, 0));
    if (address === null)
      throw new RunError(`${path}: mmap of ${byteLength} bytes failed; check free address space (ulimit -v)`);
    let open = true;
    let looked = performance.now();
    return {
      path,
      address,
      byteLength,
      requireUnchanged() {
        const now = performance.now();
        if (now - looked < LOOK_EVERY_MS) return;
        looked = now;
        const found = statSync(path, { throwIfNoEntry: false });
        if (found?.ino !== stat.ino || found.dev !== stat.dev) return;
        if (found.size === byteLength && found.mtimeMs === stat.mtimeMs) return;
        throw new InputError(
          `${path}: changed while it was read (${byteLength} bytes before, ${found.size} now); start again, and put new files in its place by a rename`,
        );
      },
      view(offset, length) {
        if (!open) throw new Error(`${path}: read after close`);
        if (offset < 0 || length < 0 || offset + length > byteLength)
          throw new RangeError(`${path}: bytes ${offset}..${offset + length} lie outside the file's ${byteLength}`);
        if (length === 0) return new Uint8Array(0);
        return new Uint8Array(bytesAt(address + offset, length));
      },
      release() {
        if (open) libc.madvise(address, byteLength, MADV_DONTNEED);
      },
      close() {
        if (open) libc.munmap(address, byteLength);
        open = false;
      },
    };
  } finally {
    closeSync(fd);
  }
}

function emptyMapping(path: string): FileMapping {
  return {
    path,
    address: 0,
    byteLength: 0,
    view: () => new Uint8Array(0),
    requireUnchanged() {},
    release() {},
    close() {},
  };
}

/** Anonymous memory, zeroed, page-aligned; if large, in huge pages where the kernel offers them. */
export interface AnonymousMemory {
  readonly address: number;
  readonly byteLength: number;
  /** Returns the pages to the system; they read as zero when touched again. */
  discard(offset: number, length: number): void;
  free(): void;
}

/** @throws RunError if the system refuses the allocation. */
export function mapAnonymous(byteLength: number): AnonymousMemory {
  const usesHugePages = !isMac && byteLength >= 2 * HUGE_PAGE;
  const room = usesHugePages ? byteLength + HUGE_PAGE : byteLength;
  const start = mapped(libc.mmap(0, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (start === null) throw new RunError(`the system refused ${(byteLength / 2 ** 20).toFixed(0)} MiB of memory`);
  const address = usesHugePages ? Math.ceil(start / HUGE_PAGE) * HUGE_PAGE : start;
  if (usesHugePages) libc.madvise(address, byteLength, MADV_HUGEPAGE);
  return {
    address,
    byteLength,
    discard(offset, length) {
      libc.madvise(address + offset, length, MADV_DONTNEED);
    },
    free() {
      libc.munmap(start, room);
    },
  };
}

/** The memory at `address` as an ArrayBuffer, without a copy or ownership. */
export function bytesAt(address: number, length: number): ArrayBuffer {
  return toArrayBuffer(address as Pointer, 0, length);
}

const LOCK_EX = 2;
const LOCK_NB = 4;
/** EWOULDBLOCK: another open file holds the lock. */
const heldElsewhere = isMac ? 35 : 11;

/**
 * Takes the kernel's lock on an open file. It ends when the file is closed, and so with the process. It works between
 * containers, and between machines if the file system supports that.
 *
 * @returns `unsupported` if the file system has no locks
 */
export function lockFile(fd: number): "locked" | "held" | "unsupported" {
  if (libc.flock(fd, LOCK_EX | LOCK_NB) === 0) return "locked";
  return read.i32(errorNumber() as Pointer, 0) === heldElsewhere ? "held" : "unsupported";
}

/** From here on the process ends by the C library's exit, which calls the handlers of libraries; Bun's own does not. */
export function exitWithHandlers(): void {
  process.on("exit", (status) => libc.exit(status));
}
