/** Launches of ffi/cuda/nf4.cu: a weight in NF4 as numbers, before cuBLAS multiplies with it. */
import { bytesPerElement } from "../../../tensor/dtype.ts";
import { nf4Layout } from "../../../tensor/nf4.ts";
import { elementCount, type Tensor, tensor } from "../../../tensor/tensor.ts";
import type { Weight } from "../../device.ts";
import { type CudaRuntime, type KernelDefinition, macroType, type ScratchBound } from "../runtime.ts";
import { ceilDiv } from "../threads.ts";

const THREADS = 256;
/** Elements per thread and iteration, and resident blocks per multiprocessor. */
const [UNIT, RESIDENT] = [8, 8];
/** The scratch slot of the numbers. */
const SLOT = 2;

export const nf4Kernels = {
  decode: {
    file: "nf4.cu",
    name: "nf4_decode",
    parameters: "y:ptr w:ptr nested:i64 scales:i64 codes:i64 n:i64",
    threads: THREADS,
    sizes: () => ({ THREADS }),
    variants: [{ Y_TYPE: "float" }, { Y_TYPE: "bf16" }],
  },
} as const satisfies Record<string, KernelDefinition>;

/** Codes as bitsandbytes has them: two to a byte, row after row. A thread reads those of 8 elements at once. */
export const cudaNf4Layout = (shape: readonly number[]) =>
  nf4Layout(elementCount(shape), Math.ceil(elementCount(shape) / UNIT) * (UNIT / 2));

/** Scratch of slot 2 for the largest weight. */
export const nf4Scratch: ScratchBound = ({ quantizedElements = 0 }) => 4 * quantizedElements;

/** A weight's numbers, row-major in scratch memory, until the next weight's. */
export function decoded(runtime: CudaRuntime, w: Weight): Tensor {
  const n = elementCount(w.shape);
  const address = runtime.scratch(SLOT, n * bytesPerElement(w.dtype));
  const { nested, scales, codes } = cudaNf4Layout(w.shape);
  const blocks = Math.min(ceilDiv(n, THREADS * UNIT), runtime.limits.multiprocessors * RESIDENT);
  const kernel = runtime.kernel(nf4Kernels.decode, { Y_TYPE: macroType(w.dtype) });
  runtime.launch(kernel, [blocks, 1, 1], THREADS, 0, address, w.address, nested, scales, codes, n);
  return tensor(w.name, address, w.dtype, w.shape);
}
