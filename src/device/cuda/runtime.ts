/**
 * What an op's launcher sees of the CUDA device: kernels by definition and macros, launches on the one compute stream,
 * scratch memory. Implemented by device.ts; the ops are in ops/.
 */
import type { ScratchSizes } from "../device.ts";

/** Macros that a kernel is compiled with: names and values. */
export type Defines = Readonly<Record<string, string | number>>;

/** A kernel of ffi/cuda, as its source has it. The gates hold it against the compiled code. */
export interface KernelDefinition {
  /** Source in ffi/cuda, such as "rmsnorm.cu". */
  readonly file: string;
  /** `extern "C"` name. */
  readonly name: string;
  /** Parameters in order, "y:ptr T:i32 eps:f32": i32, u32, i64, f32 or ptr, as the C source has them. */
  readonly parameters: string;
  /** Threads a block is launched with at most: the source's __launch_bounds__. */
  readonly threads: number;
  /**
   * Sizes that the source has as macros because launches are computed from them too: for all kernels of a source the same,
   * and of a variant the same wherever it is launched.
   */
  readonly sizes: (variant: Defines) => Defines;
  /** Types and head sizes that float32 and bfloat16 models launch: what the static gates compile. */
  readonly variants: readonly Defines[];
}

/** A specialised kernel, loaded. */
export interface Kernel {
  readonly definition: KernelDefinition;
  readonly function: number;
}

export interface CudaLimits {
  readonly multiprocessors: number;
  /** Major × 10 + minor, such as 80. */
  readonly computeCapability: number;
  /** Bytes of dynamic shared memory that a block may opt in to. */
  readonly sharedMemory: number;
}

export interface CudaRuntime {
  readonly limits: CudaLimits;
  /**
   * Specialised by the types of operands and the head size: compiled at first use, then found by definition and variant.
   *
   * @throws RunError with the compiler's log
   */
  kernel(definition: KernelDefinition, variant: Defines): Kernel;
  /**
   * Queues a launch on the compute stream. `args` in the definition's order, addresses as numbers. A grid with a zero
   * launches nothing. Shared memory above 48 KiB is opted in to here.
   *
   * @throws RunError with the driver's own text
   */
  launch(
    kernel: Kernel,
    grid: readonly [x: number, y: number, z: number],
    block: number | readonly [x: number, y: number, z: number],
    sharedBytes: number,
    ...args: number[]
  ): void;
  /**
   * Address of at least `bytes` of device memory, 256-aligned, that this op may use until it returns (launches it has
   * queued included, as the stream is in order). A slot is one buffer: 0 for an op's own kernels, 1 and 2 for operands
   * that products convert.
   */
  scratch(slot: 0 | 1 | 2, bytes: number): number;
}

/** The most scratch (slot 0) that a file's ops ask for at these sizes; each ops file exports one. */
export type ScratchBound = (sizes: ScratchSizes, limits: CudaLimits) => number;

/** A type as the kernels' macros spell it. */
export function macroType(dtype: string): "float" | "bf16" | "half" {
  if (dtype === "float32") return "float";
  if (dtype === "bfloat16") return "bf16";
  if (dtype === "float16") return "half";
  throw new TypeError(`CUDA kernels do not take ${dtype}`);
}
