/**
 * Copies between the memory of two processes of one machine, in one step and without a buffer between them: process_vm_readv(2)
 * of Linux. The system permits it for processes of one user; where it permits it for descendants only (Yama), a process names
 * another that may, with all of its descendants.
 */
import { dlopen, type Pointer, ptr, read } from "bun:ffi";

const libraries = ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1"];

const table = {
  // ssize_t process_vm_readv(pid_t, const struct iovec *local, unsigned long, const struct iovec *remote, unsigned long,
  //   unsigned long flags)
  process_vm_readv: { args: ["i32", "ptr", "u64", "ptr", "u64", "u64"], returns: "i64" },
  // int prctl(int option, unsigned long, unsigned long, unsigned long, unsigned long)
  prctl: { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" },
  __errno_location: { args: [], returns: "ptr" },
} as const;

/** Some bytes of a process. */
export interface Span {
  readonly address: number;
  readonly length: number;
}

export interface ProcessMemory {
  /**
   * Copies bytes of another process: the first of them go to the first of `into`, as many as there are in both.
   *
   * @returns the error's number; 0: all have been copied
   */
  read(pid: number, from: readonly Span[], into: readonly Span[]): number;
  /** Lets a process, and all that it has started, read this one's memory, where the system would not by itself. */
  permit(pid: number): void;
}

const PR_SET_PTRACER = 0x59616d61;
/** The most spans that the system takes at once (IOV_MAX). */
export const MOST_SPANS = 1024;
const EIO = 5;

/** A list of struct iovec. */
function vector(spans: readonly Span[]): BigUint64Array {
  const all = new BigUint64Array(2 * spans.length);
  for (const [i, { address, length }] of spans.entries()) {
    all[2 * i] = BigInt(address);
    all[2 * i + 1] = BigInt(length);
  }
  return all;
}

/** null: the system has no such call. */
export function openProcessMemory(): ProcessMemory | null {
  if (process.platform !== "linux") return null;
  for (const name of libraries) {
    try {
      const { process_vm_readv, prctl, __errno_location } = dlopen(name, table).symbols;
      return {
        read(pid, from, into) {
          const [local, remote] = [vector(into), vector(from)];
          const wanted = into.reduce((sum, { length }) => sum + length, 0);
          const copied = Number(process_vm_readv(pid, ptr(local), into.length, ptr(remote), from.length, 0));
          if (copied === wanted) return 0;
          return copied < 0 ? read.i32(__errno_location() as Pointer, 0) : EIO;
        },
        permit(pid) {
          prctl(PR_SET_PTRACER, pid, 0, 0, 0);
        },
      };
    } catch {
      // try the next candidate
    }
  }
  return null;
}

/** Where the bytes of a view are, which must stay until they have been read; an empty view has no place. */
export const spanOf = (bytes: Uint8Array): Span =>
  bytes.length === 0 ? { address: 0, length: 0 } : { address: Number(ptr(bytes)), length: bytes.length };
