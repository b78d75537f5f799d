/** Launches of ffi/cuda/rmsnorm.cu: short rows take a warp or a part of one, longer ones a block each. */
import type { DType } from "../../../tensor/dtype.ts";
import type { Ops } from "../../device.ts";
import { expectShape, normSizes } from "../../operands.ts";
import {
  type CudaLimits,
  type CudaRuntime,
  type Defines,
  type KernelDefinition,
  macroType,
  type ScratchBound,
} from "../runtime.ts";
import { ceilDiv, powerOfTwo, unitElements } from "../threads.ts";
import { addColumnSums } from "./bias.ts";

const WARP = 32;
/** Threads of a block with several rows, and the maximum for a block with one row. */
const [SHARED_BLOCK, ROW_BLOCK] = [256, 512];
/** Elements of a row that a thread keeps in registers. */
const CACHED = 16;
const sizes = () => ({ THREADS: ROW_BLOCK, CACHED });

function forwardTypes(Y_TYPE: string, X_TYPE: string, W_TYPE: string): Defines {
  return { Y_TYPE, X_TYPE, W_TYPE };
}

function backwardTypes(DX_TYPE: string, DY_TYPE: string, X_TYPE: string, W_TYPE: string): Defines {
  return { DX_TYPE, DY_TYPE, X_TYPE, W_TYPE, RESIDUAL_TYPE: "float" };
}

export const rmsnormKernels = {
  forward: {
    file: "rmsnorm.cu",
    name: "rmsnorm_forward",
    parameters: "y:ptr rstd:ptr x:ptr weight:ptr T:i32 H:i32 D:i32 ldy:i32 ldx:i32 eps:f32 offset:f32",
    threads: ROW_BLOCK,
    sizes,
    // the residual stream is float32; heads have the model's type
    variants: [
      forwardTypes("float", "float", "float"),
      forwardTypes("bf16", "float", "bf16"),
      forwardTypes("bf16", "bf16", "bf16"),
      // what attention and MLP add to the stream
      forwardTypes("float", "float", "bf16"),
    ],
  },
  backward: {
    file: "rmsnorm.cu",
    name: "rmsnorm_backward",
    parameters:
      "dx:ptr partial:ptr dy:ptr x:ptr weight:ptr rstd:ptr dresidual:ptr T:i32 H:i32 D:i32 lddx:i32 lddy:i32 ldx:i32 ldr:i32 offset:f32",
    threads: ROW_BLOCK,
    sizes,
    // float32; into the residual stream's gradient; the last norm's, in place; heads
    variants: [
      backwardTypes("float", "float", "float", "float"),
      backwardTypes("float", "bf16", "float", "bf16"),
      backwardTypes("bf16", "bf16", "float", "bf16"),
      backwardTypes("bf16", "bf16", "bf16", "bf16"),
      // of what attention and MLP add
      backwardTypes("bf16", "float", "float", "bf16"),
    ],
  },
} as const satisfies Record<string, KernelDefinition>;

/** Threads per row of D elements, and rows per block. */
function blockOf(D: number): readonly [across: number, down: number] {
  const threads = ceilDiv(D, CACHED);
  if (threads > WARP) return [Math.min(ceilDiv(threads, WARP) * WARP, ROW_BLOCK), 1];
  const across = powerOfTwo(threads, 1, WARP);
  return [across, SHARED_BLOCK / across];
}

/**
 * Blocks of the backward pass, each with a partial sum of the weight's gradient: at most as many as are resident, each
 * with a few rows.
 */
function backwardBlocks(rows: number, D: number, { multiprocessors }: CudaLimits): number {
  const [across, down] = blockOf(D);
  return Math.min(ceilDiv(rows, 2 * down), multiprocessors * Math.max(1, Math.floor(512 / (across * down))));
}

export const rmsnormScratch: ScratchBound = ({ hiddenSize, attention }, limits) =>
  Math.max(
    ...[hiddenSize, attention.heads * attention.headDim].map(
      (D) => 4 * D * backwardBlocks(Number.MAX_SAFE_INTEGER, D, limits),
    ),
  );

const type = (operand: { readonly dtype: DType }) => macroType(operand.dtype);

export function rmsnormOps(runtime: CudaRuntime): Pick<Ops, "rmsnormForward" | "rmsnormBackward"> {
  return {
    rmsnormForward(y, rstd, x, weight, epsilon, heads = 1) {
      const [T, D] = normSizes(y, x, weight, heads);
      const kernel = runtime.kernel(rmsnormKernels.forward, forwardTypes(type(y), type(x), type(weight)));
      const [across, down] = blockOf(D);
      const args = [y.address, rstd?.address ?? 0, x.address, weight.address, T, heads, D, y.rowStride, x.rowStride];
      runtime.launch(
        kernel,
        [ceilDiv(T * heads, down), 1, 1],
        [across, down, 1],
        0,
        ...args,
        epsilon,
        weight.offset ?? 0,
      );
    },
    rmsnormBackward(dx, dweight, dy, x, weight, rstd, dresidual, heads = 1) {
      const [T, D] = normSizes(dy, x, weight, heads);
      expectShape(!dweight || dweight.dtype === "float32", `${weight.name}: ${dweight?.name} is not float32`);
      if (T === 0) return;
      const defines = {
        ...backwardTypes(type(dx), type(dy), type(x), type(weight)),
        RESIDUAL_TYPE: dresidual ? type(dresidual) : "float",
      };
      const [across, down] = blockOf(D);
      const blocks = backwardBlocks(T * heads, D, runtime.limits);
      const unit = unitElements(dx, dy, x, weight);
      const partial = runtime.scratch(0, 4 * D * blocks);
      runtime.launch(
        runtime.kernel(rmsnormKernels.backward, defines),
        [blocks, 1, 1],
        [across, down, 1],
        4 * down * unit * ceilDiv(D, unit),
        dx.address,
        partial,
        dy.address,
        x.address,
        weight.address,
        rstd.address,
        dresidual?.address ?? 0,
        T,
        heads,
        D,
        dx.rowStride,
        dy.rowStride,
        x.rowStride,
        dresidual?.rowStride ?? 0,
        weight.offset ?? 0,
      );
      if (dweight) addColumnSums(runtime, dweight.address, partial, blocks, D);
    },
  };
}
