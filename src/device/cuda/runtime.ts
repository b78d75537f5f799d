/**
 * The CUDA device as seen by an op's launcher: kernels by definition and macros, launches on the compute stream,
 * scratch memory. device.ts implements it; the ops are in ops/.
 */
import type { Tensor } from "../../tensor/tensor.ts";
import type { ScratchSizes } from "../device.ts";

/** Macros that a kernel is compiled with: names and values. */
export type Defines = Readonly<Record<string, string | number>>;

/** A kernel of ffi/cuda, as in its source. Static checks compare it with the compiled code. */
export interface KernelDefinition {
  /** Source in ffi/cuda, such as "rmsnorm.cu". */
  readonly file: string;
  /** `extern "C"` name. */
  readonly name: string;
  /** Parameters in order, "y:ptr T:i32 eps:f32": i32, u32, i64, f32 or ptr, as in the C source. */
  readonly parameters: string;
  /** Maximum threads of a block: the source's __launch_bounds__. */
  readonly threads: number;
  /** The compute capability whose own instructions it uses (90: sm_90a); it runs on no other. */
  readonly only?: number;
  /**
   * Sizes that are macros in the source because launches depend on them too. They are the same for all kernels of a
   * source and for all launches of a variant.
   */
  readonly sizes: (variant: Defines) => Defines;
  /** Types and head sizes used by float32 and bfloat16 models, which the static checks compile. */
  readonly variants: readonly Defines[];
}

/** A loaded specialization of a kernel. */
export interface Kernel {
  readonly definition: KernelDefinition;
  readonly function: number;
}

export interface CudaLimits {
  readonly multiprocessors: number;
  /** Major × 10 + minor, such as 80. */
  readonly computeCapability: number;
  /** Maximum bytes of dynamic shared memory that a block may opt in to. */
  readonly sharedMemory: number;
}

export interface CudaRuntime {
  readonly limits: CudaLimits;
  /**
   * A kernel specialized for operand types and head size: compiled on first use, then looked up by definition and
   * variant.
   *
   * @throws RunError with the compiler's log
   */
  kernel(definition: KernelDefinition, variant: Defines): Kernel;
  /**
   * Queues a launch on the compute stream. `args` are in the definition's order, addresses as numbers. An empty grid
   * launches nothing. Opts in to shared memory above 48 KiB.
   *
   * @throws RunError with the driver's message
   */
  launch(
    kernel: Kernel,
    grid: readonly [x: number, y: number, z: number],
    block: number | readonly [x: number, y: number, z: number],
    sharedBytes: number,
    ...args: number[]
  ): void;
  /**
   * Address of at least `bytes` of device memory, 256-aligned, that this op and the launches it queues may use until it
   * returns (the stream is in order). A slot is one buffer: 0 for an op's own kernels, 1 and 2 for operands that
   * products convert.
   */
  scratch(slot: 0 | 1 | 2, bytes: number): number;
  /**
   * Encodes a bfloat16 matrix for the copy engine, which copies tiles of `tileRows` × 64: a "map" argument of the launches
   * up to the next call with this `place`. Address and row stride are multiples of 16 bytes.
   *
   * @throws RunError with the driver's message
   */
  tensorMap(matrix: Tensor, tileRows: number, place?: 0 | 1): number;
  /** Device address of COUNTERS (counters.ts) u32, which are 0 before each launch; a kernel that counts in them leaves 0. */
  readonly counters: number;
}

/** The maximum scratch (slot 0) of a file's ops at these sizes; each ops file that needs scratch exports one. */
export type ScratchBound = (sizes: ScratchSizes, limits: CudaLimits) => number;

/** A type's name in the kernels' macros. */
export function macroType(dtype: string): "float" | "bf16" | "half" {
  if (dtype === "float32") return "float";
  if (dtype === "bfloat16") return "bf16";
  if (dtype === "float16") return "half";
  throw new TypeError(`CUDA kernels do not take ${dtype}`);
}
