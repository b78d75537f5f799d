/**
 * Controls and reads the emulated driver from a test in the same process: thread order, streams, checks, memory; reports,
 * counters, live objects, calls. It uses the library that the device under test has loaded.
 */
import { join } from "node:path";
import { bindLibrary } from "../../ffi/bindings/bind.ts";
import { textAt } from "../../ffi/bindings/native.ts";

const signatures = {
  emulator_set_order: "order:i32 seed:u64",
  emulator_set_streams: "lazy:i32",
  emulator_set_check: "check:i32",
  emulator_set_perturb: "perturb:i32",
  emulator_set_accumulation: "products:i32 extra_bits:i32",
  emulator_set_threads: "threads:i32",
  emulator_set_memory: "bytes:u64",
  emulator_set_compute_capability: "capability:i32",
  emulator_hook_fault: "status:i32",
  emulator_reports: "",
  emulator_clear_reports: "",
  emulator_counters: "",
  emulator_clear_counters: "",
  emulator_live: "",
  emulator_launches: "",
  emulator_calls: "",
  emulator_reset: "",
} as const;

/** Orders in which the threads of a block take turns; all must give the same bits. */
export const threadOrders = ["ascending", "descending", "far-ahead", "shuffled"] as const;
export type ThreadOrder = (typeof threadOrders)[number];

/** A fault, or an advisory finding such as bank conflicts. */
export interface Report {
  /** A stable word: "race", "out-of-bounds", "early-reuse", … */
  readonly kind: string;
  readonly kernel: string;
  /** With kernel, block, thread and source line. */
  readonly text: string;
}

/** Counts of a kernel since the counters were cleared, over all its launches. */
export interface KernelCounters {
  readonly kernel: string;
  readonly launches: number;
  readonly threads: number;
  readonly instructions: number;
  readonly integer: number;
  readonly floating: number;
  readonly fused: number;
  readonly special: number;
  readonly memory: number;
  readonly barrier: number;
  readonly warp: number;
  readonly mma: number;
  readonly ldmatrix: number;
  readonly asyncCopy: number;
  readonly control: number;
  /** By ordinary instructions, per thread: add and mul 1, fma 2. */
  readonly flops: number;
  /** By mma: 2·M·N·K per warp. */
  readonly mmaFlops: number;
  /** 32-byte sectors of global memory requested, and the minimum possible. */
  readonly sectors: number;
  readonly idealSectors: number;
  /** Warp accesses to shared memory, and the passes they take with bank conflicts. */
  readonly sharedAccesses: number;
  readonly sharedPasses: number;
}

export interface LiveObjects {
  readonly allocations: number;
  readonly bytes: number;
  readonly pinned: number;
  readonly streams: number;
  readonly events: number;
  readonly modules: number;
  readonly graphs: number;
  readonly executables: number;
  readonly contexts: number;
  readonly cublas: number;
  readonly cublasLt: number;
}

/**
 * Sums as hardware forms them (runtime/truncate.h): a step takes a fixed number of products, aligns them to the largest
 * exponent and truncates below its last place plus the extra bits. An A100 uses 8 products and 1 extra bit, an H100 16 and 2.
 * Long sums are less exact the more bits are kept within a step, since these are what the end of the step truncates toward
 * zero: 8 and 2 err most.
 */
export interface Truncating {
  readonly products: 8 | 16;
  readonly extraBits: 0 | 1 | 2;
}

/** How tensor cores add up products, in kernels and in cuBLAS. */
export type Accumulation = "rounded" | Truncating;

export interface EmulatorControl {
  setOrder(order: ThreadOrder, seed?: number): void;
  /** Lazy: work runs only when something waits for it. */
  setStreams(streams: "eager" | "lazy"): void;
  setCheck(check: boolean): void;
  /** Results of approximate instructions are off by 2⁻²². */
  setPerturb(perturb: boolean): void;
  setAccumulation(how: Accumulation): void;
  /** Threads that run the blocks of a launch if checks are off. */
  setThreads(threads: number): void;
  setMemory(bytes: number): void;
  /** Major × 10 + minor; set before opening a device. */
  setComputeCapability(capability: number): void;
  /** Loses the context as if by a fault on the GPU: every later call returns this CUresult. */
  fault(status: number): void;
  reports(): Report[];
  clearReports(): void;
  counters(): KernelCounters[];
  /** Counters of kernels, launches and calls. */
  clearCounters(): void;
  live(): LiveObjects;
  /** Kernels and library products that ran, by name, including those replayed in a graph. */
  launches(): Record<string, number>;
  /** Calls by exported symbol. */
  calls(): Record<string, number>;
  /** Resets to the state of a new process: no objects, reports or counts. */
  reset(): void;
}

/** @param folder the result of buildEmulator */
export function openControl(folder: string): EmulatorControl {
  const textual = [
    "emulator_reports",
    "emulator_counters",
    "emulator_live",
    "emulator_launches",
    "emulator_calls",
  ] as const;
  const library = bindLibrary(join(folder, "libcuda.so.1"), signatures, textual, null);
  const json = (name: (typeof textual)[number]) => JSON.parse(textAt(Number(library[name]())));
  return {
    setOrder: (order, seed = 1) => void library.emulator_set_order(threadOrders.indexOf(order), seed),
    setStreams: (streams) => void library.emulator_set_streams(Number(streams === "lazy")),
    setCheck: (check) => void library.emulator_set_check(Number(check)),
    setPerturb: (perturb) => void library.emulator_set_perturb(Number(perturb)),
    setAccumulation(how) {
      const { products, extraBits } = how === "rounded" ? { products: 0, extraBits: 0 } : how;
      library.emulator_set_accumulation(products, extraBits);
    },
    setThreads: (threads) => void library.emulator_set_threads(threads),
    setMemory: (bytes) => void library.emulator_set_memory(bytes),
    setComputeCapability: (capability) => void library.emulator_set_compute_capability(capability),
    fault: (status) => void library.emulator_hook_fault(status),
    reports: () => json("emulator_reports"),
    clearReports: () => void library.emulator_clear_reports(),
    counters: () => json("emulator_counters"),
    clearCounters: () => void library.emulator_clear_counters(),
    // The driver counts a library's handles only once that library is loaded.
    live: () => ({ cublas: 0, cublasLt: 0, ...json("emulator_live") }),
    launches: () => json("emulator_launches"),
    calls: () => json("emulator_calls"),
    reset: () => void library.emulator_reset(),
  };
}
