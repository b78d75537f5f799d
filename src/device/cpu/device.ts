/**
 * The CPU device: implements device.ts with the kernels of ffi/cpu. This file builds and opens their library and
 * combines the parts in cpu/: the instruction path, memory, parameters, recordings and ops.
 */
import { cpus } from "node:os";
import { traceLines } from "../../../ffi/bindings/calls.ts";
import { buildKernels, type CpuLibrary, openCpuLibrary } from "../../../ffi/bindings/cpu.ts";
import type { ComputeDType } from "../../tensor/dtype.ts";
import type { Device } from "../device.ts";
import { allocate, download, upload } from "./memory.ts";
import { cpuOps } from "./ops.ts";
import { openParameters } from "./parameters.ts";
import { bfloat16Paths, choosePath, usableThreads } from "./path.ts";
import { openRecordings } from "./recordings.ts";
import { kernelSizes } from "./scratch.ts";

export interface CpuOptions {
  /** Kernel threads; by default as many as this process may use. */
  readonly threads?: number | null;
  /** Instruction path; by default $BUN_GRPO_CPU_PATH, else the fastest proven one. */
  readonly path?: string;
  /** Counts calls and time per kernel; by default if $BUN_GRPO_TRACE is set. */
  readonly trace?: boolean;
  /** Called before kernels are compiled that are not in the cache. */
  readonly onBuild?: () => void;
  /** A kernel library to use instead of the one built from ffi/cpu. */
  readonly libraryFile?: string;
}

export interface CpuDevice extends Device {
  readonly kind: "cpu";
  readonly library: CpuLibrary;
  readonly path: string;
  readonly threads: number;
}

/**
 * Bytes of logits computed per read of the head's weights, and per addition to their gradient: more where products are so
 * fast that they wait for both.
 */
const [HEAD_BYTES, FAST_HEAD_BYTES] = [48 * 2 ** 20, 96 * 2 ** 20];
/** Enough rows to keep the product busy. */
const HEAD_ROWS = 1024;
/** How long each measurement of the peak runs. */
const PEAK_MILLISECONDS = 30;

/**
 * Opens the CPU device, building its kernels on first use.
 *
 * @throws RunError if the kernels cannot be built or loaded; InputError for a path that this machine lacks
 */
export async function openCpuDevice(options: CpuOptions = {}): Promise<CpuDevice> {
  const libraryFile = options.libraryFile ?? (await buildKernels(options.onBuild)).library;
  const library = openCpuLibrary(libraryFile, { trace: options.trace ?? !!process.env.BUN_GRPO_TRACE });
  const path = choosePath(library, options.path ?? process.env.BUN_GRPO_CPU_PATH);
  const threads = library.setThreads(options.threads ?? usableThreads(library));
  const storesBfloat16 = bfloat16Paths.includes(path);
  const peaks = new Map<ComputeDType, number>();
  const storedDType = (dtype: ComputeDType): ComputeDType => (storesBfloat16 ? dtype : "float32");
  const sizes = kernelSizes(library, threads);
  return {
    kind: "cpu",
    library,
    path,
    threads,
    description: `CPU ${cpus()[0]?.model.trim() ?? process.arch}, ${path}, ${threads} thread${threads === 1 ? "" : "s"}`,
    numericsKey: `cpu ${process.arch} ${path}`,
    exactlyOnPolicy: true,
    queuesWork: false,
    ops: cpuOps(library.kernels, { gradientDType: storedDType, rowBlock: sizes.rowBlock }),
    peakFlops(dtype) {
      const peak = peaks.get(dtype) ?? library.peakGflops(PEAK_MILLISECONDS, dtype) * 1e9;
      peaks.set(dtype, peak);
      return peak;
    },
    traceLines: () => traceLines(library.trace),
    microBatchTokens: 2048,
    headBytes: storesBfloat16 ? FAST_HEAD_BYTES : HEAD_BYTES,
    headRows: HEAD_ROWS,
    freeBytes: () => null,
    heldBytes: () => null,
    allocate(bytes, what) {
      const memory = allocate(bytes, what);
      const free = () => {
        library.endPopulating();
        memory.free();
      };
      return { ...memory, free };
    },
    populate: ({ address, byteLength }) => library.populate(address, byteLength),
    allocateHost: allocate,
    upload,
    download,
    read: async (source) => download(source),
    queueRead(source) {
      const data = download(source);
      return async () => data;
    },
    activationDType: storedDType,
    gradientDType: storedDType,
    masterDType: "uint16",
    parameterLayout: (dtype) => (storesBfloat16 && dtype === "bfloat16" ? "panels of pairs" : "panels"),
    decodeBucket: (sequences) => sequences,
    ...sizes,
    staging: null,
    peers: null,
    prepare() {}, // each thread grows its own scratch
    ...openParameters(library.kernels),
    ...openRecordings(library.record),
    close() {}, // the kernels stay loaded for the next device of this process
  };
}
