/**
 * MPI, as far as ranks need it: who they are, one broadcast, and messages that do not block. Open MPI, MPICH (and what shares
 * its interface: Intel MPI, MVAPICH, Cray's) and the standard's own interface (MPI 5.0, libmpi_abi) differ in what their handles
 * are: addresses of a library's data, 32-bit numbers, small pointers. No reduction is ever called, since its order is the
 * library's.
 *
 * Sources: MPI: A Message-Passing Interface Standard, version 5.0 (2025), chapter 20 for the numbers of its own interface; mpi.h
 * of Open MPI 5.0 and MPICH 5.0
 */
import { ptr } from "bun:ffi";
import { existsSync, readlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { InputError, RunError } from "../../src/errors.ts";
import { bindLibrary } from "./bind.ts";
import { exitWithHandlers } from "./libc.ts";
import { nativeBlock } from "./native.ts";
import { systemLoader } from "./system-loader.ts";

/** With handles of 64 bits; MPICH's have 32, which travel in the same registers. */
const signatures = {
  MPI_Init_thread: "argc:ptr argv:ptr required:i32 provided:ptr",
  MPI_Comm_rank: "comm:u64 rank:ptr",
  MPI_Comm_size: "comm:u64 size:ptr",
  MPI_Bcast: "buffer:ptr count:i32 datatype:u64 root:i32 comm:u64",
  MPI_Isend: "buf:ptr count:i32 datatype:u64 dest:i32 tag:i32 comm:u64 request:ptr",
  MPI_Irecv: "buf:ptr count:i32 datatype:u64 source:i32 tag:i32 comm:u64 request:ptr",
  MPI_Testall: "count:i32 array_of_requests:ptr flag:ptr array_of_statuses:ptr",
  MPI_Get_library_version: "version:ptr resultlen:ptr",
  MPI_Finalize: "",
} as const;

/** What the libraries' interfaces differ in. */
interface Interface {
  readonly world: number;
  readonly byte: number;
  /** MPI_THREAD_FUNNELED */
  readonly funneled: number;
  /** MPI_STATUSES_IGNORE */
  readonly noStatuses: number;
  readonly requestBytes: 4 | 8;
}

const standard: Interface = { world: 0x101, byte: 0x247, funneled: 1024, noStatuses: 0, requestBytes: 8 };
const mpich: Interface = { world: 0x44000000, byte: 0x4c00010d, funneled: 1, noStatuses: 1, requestBytes: 4 };

export type MpiKind = "Open MPI" | "MPICH";

/** Files by the launcher's kind, in the order in which they are looked for. */
const files: Readonly<Record<MpiKind, readonly string[]>> = {
  "Open MPI": ["libmpi.so.40"],
  MPICH: ["libmpi_abi.so.1", "libmpi.so.12", "libmpich.so.12"],
};

/** Names a library's file, for a launcher whose library is not found. */
export const mpiVariable = "BUN_GRPO_MPI";

/** Messages are cut into pieces of this many bytes: counts have 31 bits. */
const MOST_BYTES = 2 ** 30;

export interface Mpi {
  /** "Open MPI v5.0.11": the first words of what the library says of itself. */
  readonly version: string;
  readonly path: string;
  readonly rank: number;
  readonly size: number;
  /** Rank 0's text, up to `BROADCAST_BYTES` of it. Blocks until all ranks have called it. @throws RunError */
  broadcast(text: string): string;
  /**
   * Begins to send buffers to every rank and to receive as many as each sends, in order; their memory must stay until the
   * returned function, called again and again, says that all have arrived. One at a time. @throws RunError
   */
  exchange(
    send: readonly (readonly Uint8Array[])[],
    receive: readonly (readonly Uint8Array[])[],
  ): { readonly isDone: () => boolean };
  /** Ends the use of MPI; every rank does. */
  finish(): void;
}

export const BROADCAST_BYTES = 2048;

/** The folder of the libraries that belong to the process's launcher: beside the folder of its program. */
function launcherFolder(pid: number): string | null {
  try {
    return join(dirname(dirname(readlinkSync(`/proc/${pid}/exe`))), "lib");
  } catch {
    return null; // not Linux, or another user's
  }
}

interface Search {
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** The process that launched this one. */
  readonly launcher?: number;
}

/**
 * Where a launcher's library may be: what the variable names, beside the launcher, beside the mpirun on PATH, in the loader's
 * own places.
 */
export function mpiCandidates(kind: MpiKind, { env = process.env, launcher = process.ppid }: Search = {}): string[] {
  const named = env[mpiVariable];
  if (named) return [named];
  const program = env.PATH ? Bun.which("mpirun", { PATH: env.PATH }) : null;
  const beside = [launcherFolder(launcher), program && join(dirname(dirname(program)), "lib")];
  const folders = [...new Set(beside.filter((folder): folder is string => folder !== null))];
  const found = folders.flatMap((folder) => files[kind].map((name) => join(folder, name)).filter(existsSync));
  return [...found, ...files[kind]];
}

function interfaceOf(path: string, handle: number): Interface {
  const { addressOf } = systemLoader();
  const world = addressOf(handle, "ompi_mpi_comm_world");
  if (world !== 0)
    return { ...{ world, byte: addressOf(handle, "ompi_mpi_byte") }, funneled: 1, noStatuses: 0, requestBytes: 8 };
  return path.includes("libmpi_abi") ? standard : mpich;
}

/**
 * Loads the library of the launcher that has started this process, and initialises it.
 *
 * @throws InputError if there is none, RunError if it fails
 */
export function openMpi(kind: MpiKind, search: Search = {}): Mpi {
  const tried: string[] = [];
  const loader = systemLoader();
  for (const path of mpiCandidates(kind, search)) {
    // Open MPI's plugins look its symbols up among all libraries'.
    const handle = loader.load(path, true);
    if (typeof handle === "number") return initialised(path, interfaceOf(path, handle));
    tried.push(handle);
  }
  throw new InputError(
    `this process was started by ${kind}, whose library cannot be loaded (${[...new Set(tried)].join("; ")}); name it in ${mpiVariable}, or set MASTER_ADDR and MASTER_PORT, and ranks meet without MPI`,
  );
}

function initialised(path: string, { world, byte, funneled, noStatuses, requestBytes }: Interface): Mpi {
  const calls = bindLibrary(path, signatures, [], null, "Open MPI 4 or MPICH 3, or a later one,");
  const out = nativeBlock(8192 + 64 + BROADCAST_BYTES);
  const check = (call: keyof typeof signatures, status: number) => {
    // Usually the library itself has said more, and ended the process.
    if (status !== 0) throw new RunError(`${call}: error ${status}; start again from the last checkpoint`);
  };
  check("MPI_Init_thread", calls.MPI_Init_thread(0, 0, funneled, out.address));
  check("MPI_Comm_rank", calls.MPI_Comm_rank(world, out.address));
  const rank = out.i32();
  check("MPI_Comm_size", calls.MPI_Comm_size(world, out.address));
  const size = out.i32();
  check("MPI_Get_library_version", calls.MPI_Get_library_version(out.address + 64, out.address));
  const bytes = new Uint8Array(out.view.buffer, 64, out.i32());
  const version = new TextDecoder().decode(bytes).split(/[,\n]/)[0]!.replace(/\s+/g, " ").trim();
  let requests = nativeBlock(1024);
  const flag = nativeBlock(8);

  return {
    ...{ version, path, rank, size },
    broadcast(text) {
      const place = new Uint8Array(out.view.buffer, 8192 + 64, BROADCAST_BYTES).fill(0);
      if (rank === 0 && new TextEncoder().encodeInto(text, place).read < text.length)
        throw new RangeError(`${text.length} characters are too many for a broadcast`);
      check("MPI_Bcast", calls.MPI_Bcast(out.address + 8192 + 64, BROADCAST_BYTES, byte, 0, world));
      return new TextDecoder().decode(place.subarray(0, place.indexOf(0)));
    },
    exchange(send, receive) {
      const messages = [
        ...messagesOf(receive, rank).map((message) => ({ ...message, symbol: "MPI_Irecv" as const })),
        ...messagesOf(send, rank).map((message) => ({ ...message, symbol: "MPI_Isend" as const })),
      ];
      if (messages.length * requestBytes > requests.byteLength) {
        requests.free();
        requests = nativeBlock(2 * messages.length * requestBytes);
      }
      for (const [i, { symbol, address, count, peer }] of messages.entries())
        check(symbol, calls[symbol](address, count, byte, peer, 0, world, requests.address + i * requestBytes));
      return {
        isDone() {
          check("MPI_Testall", calls.MPI_Testall(messages.length, requests.address, flag.address, noStatuses));
          return flag.i32() !== 0;
        },
      };
    },
    finish() {
      check("MPI_Finalize", calls.MPI_Finalize());
      // MPICH tells its launcher of the end in such a handler; without it the launcher takes that for a crash.
      exitWithHandlers();
    },
  };
}

/** Buffers as messages to or from each other rank. */
function messagesOf(buffers: readonly (readonly Uint8Array[])[], rank: number) {
  return buffers.flatMap((all, peer) =>
    peer === rank
      ? []
      : all.flatMap((bytes) =>
          Array.from({ length: Math.ceil(bytes.length / MOST_BYTES) }, (_, i) => ({
            peer,
            address: ptr(bytes) + i * MOST_BYTES,
            count: Math.min(MOST_BYTES, bytes.length - i * MOST_BYTES),
          })),
        ),
  );
}
