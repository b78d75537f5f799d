/**
 * Launches of ffi/cuda/bias.cu: column sums in two stages, for gradients of biases and of norms' weights; and biases
 * written to rows before a product is added.
 */
import { rowElements, type Tensor } from "../../../tensor/tensor.ts";
import type { Ops, ScratchSizes, Weight } from "../../device.ts";
import { dim, expectShape } from "../../operands.ts";
import { type CudaLimits, type CudaRuntime, type KernelDefinition, macroType, type ScratchBound } from "../runtime.ts";
import { ceilDiv, unitElements } from "../threads.ts";

const WARP = 32;
/** Rows of threads in a block: STRIPES in add_column_sums, ROWS in the others. */
const [ROWS, STRIPES] = [8, 32];
const sizes = () => ({ ROWS, STRIPES });

export const biasKernels = {
  biasBackward: {
    file: "bias.cu",
    name: "bias_backward",
    parameters: "partial:ptr dy:ptr M:i32 N:i32 lddy:i32",
    threads: WARP * ROWS,
    sizes,
    variants: [{ DY_TYPE: "float" }, { DY_TYPE: "bf16" }],
  },
  addColumnSums: {
    file: "bias.cu",
    name: "add_column_sums",
    parameters: "sum:ptr partial:ptr blocks:i32 N:i32",
    threads: WARP * STRIPES,
    sizes,
    variants: [{}],
  },
  addBias: {
    file: "bias.cu",
    name: "add_bias",
    parameters: "y:ptr bias:ptr M:i32 N:i32 ldy:i32 accumulate:i32",
    threads: WARP * ROWS,
    sizes,
    variants: [
      { Y_TYPE: "float", BIAS_TYPE: "float" },
      { Y_TYPE: "float", BIAS_TYPE: "bf16" },
      { Y_TYPE: "bf16", BIAS_TYPE: "bf16" },
    ],
  },
} as const satisfies Record<string, KernelDefinition>;

/** Blocks that share the rows of dy: enough to fill the GPU, each with at least a few rows. */
function rowBlocks(M: number, columnBlocks: number, { multiprocessors }: CudaLimits): number {
  return Math.max(1, Math.min(ceilDiv(M, ROWS * 4), ceilDiv(multiprocessors * 8, columnBlocks)));
}

/** dy has the columns of a fused product: q, k and v, or any other with a bias. */
export const biasScratch: ScratchBound = (sizes: ScratchSizes, limits: CudaLimits) => {
  const { heads, kvHeads, headDim } = sizes.attention;
  const widths = [(heads + 2 * kvHeads) * headDim, 2 * sizes.intermediateSize, sizes.hiddenSize, sizes.vocabSize];
  return Math.max(
    ...widths.map((N) => {
      const most = [4, 8].map((unit) => rowBlocks(sizes.tokens, ceilDiv(N, WARP * unit), limits));
      return 4 * N * Math.max(...most);
    }),
  );
};

/** sum (N) += column sums of `partial` (blocks, N) float32, in order. */
export function addColumnSums(runtime: CudaRuntime, sum: number, partial: number, blocks: number, N: number): void {
  const kernel = runtime.kernel(biasKernels.addColumnSums, {});
  runtime.launch(kernel, [ceilDiv(N, WARP), 1, 1], [WARP, STRIPES, 1], 0, sum, partial, blocks, N);
}

/** y (M, N) = bias (N) on every row, or y += bias. */
export function addBias(runtime: CudaRuntime, y: Tensor, bias: Weight, accumulate: boolean): void {
  const [M, N] = [dim(y, 0), rowElements(y)];
  const types = { Y_TYPE: macroType(y.dtype), BIAS_TYPE: macroType(bias.dtype) };
  const grid = [ceilDiv(N, WARP * unitElements(y, bias)), Math.min(ceilDiv(M, ROWS), 1024), 1] as const;
  const args = [y.address, bias.address, M, N, y.rowStride, accumulate ? 1 : 0];
  runtime.launch(runtime.kernel(biasKernels.addBias, types), grid, [WARP, ROWS, 1], 0, ...args);
}

export function biasOps(runtime: CudaRuntime): Pick<Ops, "biasBackward"> {
  return {
    biasBackward(dbias: Tensor, dy: Tensor) {
      const [M, N] = [dim(dy, 0), rowElements(dy)];
      expectShape(dim(dbias, 0) >= N && dbias.dtype === "float32", `biasBackward: ${dbias.shape} from ${dy.shape}`);
      if (M === 0) return;
      const across = ceilDiv(N, WARP * unitElements(dy));
      const blocks = rowBlocks(M, across, runtime.limits);
      const partial = runtime.scratch(0, 4 * N * blocks);
      const kernel = runtime.kernel(biasKernels.biasBackward, { DY_TYPE: macroType(dy.dtype) });
      const args = [partial, dy.address, M, N, dy.rowStride];
      runtime.launch(kernel, [across, blocks, 1], [WARP, ROWS, 1], 0, ...args);
      addColumnSums(runtime, dbias.address, partial, blocks, N);
    },
  };
}
