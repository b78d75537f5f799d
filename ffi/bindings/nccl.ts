/**
 * The C interface of NCCL (libnccl.so.2): each symbol with its arguments' C names and types. Only what copies bytes between
 * GPUs: no reduction is ever called, since its order depends on the number of ranks. Communicators do not block: a call may
 * return `ncclInProgress`, and `state` says when it is done.
 *
 * Source: NCCL user guide, https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html; nccl.h
 */

import { bindLibrary, type Calls } from "./bind.ts";
import type { Trace } from "./calls.ts";
import { nativeBlock, textAt } from "./native.ts";
import { findLibrary, libraryFolders, loadedFile, NvidiaCallError, type SearchOptions } from "./nvidia-libraries.ts";

const signatures = {
  ncclGetVersion: "version:ptr",
  ncclGetErrorString: "result:i32",
  ncclGetLastError: "comm:ptr",
  ncclGetUniqueId: "uniqueId:ptr",
  // ncclCommInitRank takes the id by value, which Bun's calls cannot; this one has been there since 2.23.
  ncclCommInitRankScalable: "newcomm:ptr nranks:i32 myrank:i32 nId:i32 commIds:ptr config:ptr",
  ncclCommGetAsyncError: "comm:ptr asyncError:ptr",
  ncclCommFinalize: "comm:ptr",
  ncclCommDestroy: "comm:ptr",
  ncclCommAbort: "comm:ptr",
  ncclGroupStart: "",
  ncclGroupEnd: "",
  ncclSend: "sendbuff:ptr count:u64 datatype:i32 peer:i32 comm:ptr stream:ptr",
  ncclRecv: "recvbuff:ptr count:u64 datatype:i32 peer:i32 comm:ptr stream:ptr",
} as const;

export type NcclSymbol = keyof typeof signatures;
export const ncclSignatures: Readonly<Record<NcclSymbol, string>> = signatures;

/** Bytes of ncclUniqueId. */
export const NCCL_UNIQUE_ID_BYTES = 128;
/** ncclDataType_t */
export const NCCL_UINT8 = 1;
/** ncclResult_t */
export const NCCL_SUCCESS = 0;
export const NCCL_IN_PROGRESS = 7;

/** The oldest version that has all symbols: 2.23. */
const LEAST_VERSION = 22300;
/** The first fields of ncclConfig_t: the others keep their defaults, as its size says. */
const config = { size: 32, magic: 0xcafebeef, blockingAt: 16, undefinedAt: [20, 24, 28], undefined: -(2 ** 31) };

const cures: Readonly<Record<number, string>> = {
  1: "see nvidia-smi, and whether the GPUs are shared with other programs",
  2: "set NCCL_DEBUG=WARN to see what the system refused: shared memory (/dev/shm), a network interface (NCCL_SOCKET_IFNAME)",
  5: "give each rank a GPU of its own",
  6: "another rank has failed: see its line",
};

export interface Nccl {
  readonly path: string;
  /** "2.30.7" */
  readonly version: string;
  readonly calls: Calls<typeof signatures>;
  /** Throws for a result other than success or "in progress". @throws NvidiaCallError with the library's own text */
  check(call: NcclSymbol, result: number, communicator?: number): void;
  /** A new id of a group, which one process makes for all. @throws NvidiaCallError */
  createId(): Uint8Array;
  /** Begins to join a group; returns the communicator, which is usable once `state` says so. @throws NvidiaCallError */
  begin(id: Uint8Array, rank: number, size: number): number;
  /** Whether the communicator's last call is done. @throws NvidiaCallError if it has failed */
  isReady(communicator: number): boolean;
}

const cure = "install it: pip install nvidia-nccl-cu13 (nvidia-nccl-cu12 for CUDA 12), or NVIDIA's packages libnccl2";

/** "2.30.7" for 23007 */
const versionText = (version: number): string =>
  `${Math.floor(version / 10_000)}.${Math.floor((version % 10_000) / 100)}.${version % 100}`;

/**
 * Finds and loads NCCL.
 *
 * @throws MissingLibraryError if there is none, RunError if it is too old
 */
export function openNccl(options: SearchOptions, trace: Trace | null = null): Nccl {
  const found = findLibrary("libnccl", [2], libraryFolders(options), options, () => [], cure);
  const calls = bindLibrary(
    found.path,
    signatures,
    ["ncclGetErrorString", "ncclGetLastError"],
    trace,
    "version 2.23 or later",
  );
  const out = nativeBlock(NCCL_UNIQUE_ID_BYTES + config.size);
  const check = (call: NcclSymbol, result: number, communicator = 0) => {
    if (result === NCCL_SUCCESS || result === NCCL_IN_PROGRESS) return;
    const name = textAt(Number(calls.ncclGetErrorString(result)));
    const text = textAt(Number(calls.ncclGetLastError(communicator))).trim();
    throw new NvidiaCallError(call, result, name, text, cures[result] ?? "set NCCL_DEBUG=WARN to see more");
  };
  check("ncclGetVersion", calls.ncclGetVersion(out.address));
  const version = out.i32();
  if (version < LEAST_VERSION) {
    const text = `libnccl.so.2 is version ${versionText(version)}, and 2.23 is needed`;
    throw new NvidiaCallError("ncclGetVersion", version, text, "", cure);
  }
  return {
    path: loadedFile(found.path),
    version: versionText(version),
    calls,
    check,
    createId() {
      check("ncclGetUniqueId", calls.ncclGetUniqueId(out.address));
      return new Uint8Array(out.view.buffer, 0, NCCL_UNIQUE_ID_BYTES).slice();
    },
    begin(id, rank, size) {
      new Uint8Array(out.view.buffer, 0, NCCL_UNIQUE_ID_BYTES).set(id);
      const at = NCCL_UNIQUE_ID_BYTES;
      out.setU64(at, config.size);
      out.view.setUint32(at + 8, config.magic, true);
      out.view.setUint32(at + 12, version, true);
      out.view.setInt32(at + config.blockingAt, 0, true);
      for (const field of config.undefinedAt) out.view.setInt32(at + field, config.undefined, true);
      const result = nativeBlock(8);
      try {
        check(
          "ncclCommInitRankScalable",
          calls.ncclCommInitRankScalable(result.address, size, rank, 1, out.address, out.address + at),
        );
        return result.u64();
      } finally {
        result.free();
      }
    },
    isReady(communicator) {
      check("ncclCommGetAsyncError", calls.ncclCommGetAsyncError(communicator, out.address), communicator);
      const state = out.i32();
      check("ncclCommGetAsyncError", state, communicator);
      return state === NCCL_SUCCESS;
    },
  };
}
