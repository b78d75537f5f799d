/** Launches of ffi/cuda/flat.cu: flat float32 ops, type conversions, row gathers and scatters. */
import { elementCount, rowElements, type Tensor } from "../../../tensor/tensor.ts";
import type { Ops } from "../../device.ts";
import { dim, expectShape } from "../../operands.ts";
import { type CudaRuntime, type Defines, type KernelDefinition, macroType, type ScratchBound } from "../runtime.ts";
import { ceilDiv, powerOfTwo, unitElements } from "../threads.ts";

const THREADS = 256;
/** Resident blocks of THREADS per multiprocessor. */
const RESIDENT = 8;
/** Elements that a block of sum_squares adds at a time, and the maximum number of blocks: the same on every GPU. */
const SUMMED = 16384;
const SUM_BLOCKS = 1024;

const float: Defines = { Y_TYPE: "float", X_TYPE: "float" };
const conversions: readonly Defines[] = ["float", "bf16"].flatMap((Y_TYPE) =>
  ["float", "bf16", "half"].map((X_TYPE) => ({ Y_TYPE, X_TYPE })),
);
/** float32 from float32 or bfloat16, bfloat16 from float32: for gradients of activations with either type of model. */
const moves: readonly Defines[] = [float, { Y_TYPE: "float", X_TYPE: "bf16" }, { Y_TYPE: "bf16", X_TYPE: "float" }];

function definition(name: string, parameters: string, variants: readonly Defines[] = [float]): KernelDefinition {
  return { file: "flat.cu", name, parameters, threads: THREADS, sizes: () => ({ THREADS, SUMMED }), variants };
}

export const flatKernels = {
  scale: definition("scale", "x:ptr n:i64 factor:f32"),
  softcapForward: definition("softcap_forward", "x:ptr n:i64 cap:f32"),
  softcapBackward: definition("softcap_backward", "dx:ptr y:ptr n:i64 cap:f32", [float, { ...float, Y_TYPE: "bf16" }]),
  add: definition("add", "y:ptr x:ptr n:i64"),
  fill: definition("fill", "x:ptr n:i64 value:f32"),
  cast: definition("cast", "y:ptr x:ptr n:i64", conversions),
  castRows: definition("cast_rows", "y:ptr x:ptr rows:i32 width:i32 ldy:i32 ldx:i32", moves),
  gatherRows: definition("gather_rows", "y:ptr x:ptr rows:ptr N:i32 D:i32 ldy:i32 ldx:i32"),
  scatterRows: definition("scatter_rows", "dx:ptr dy:ptr rows:ptr N:i32 D:i32 lddx:i32 lddy:i32", moves.slice(0, 2)),
  sumSquaresBlocks: definition("sum_squares_blocks", "partial:ptr x:ptr n:i64"),
  sumSquares: definition("sum_squares", "sum:ptr partial:ptr blocks:i32"),
} as const;

export const flatScratch: ScratchBound = () => 8 * SUM_BLOCKS;

function typesOf(y: Tensor, x: Tensor): Defines {
  return { Y_TYPE: macroType(y.dtype), X_TYPE: macroType(x.dtype) };
}

/** Launches a grid-stride kernel over `n` elements. */
function launchFlat(
  runtime: CudaRuntime,
  kernel: KernelDefinition,
  defines: Defines,
  n: number,
  unit: number,
  ...args: number[]
): void {
  const blocks = Math.min(ceilDiv(n, THREADS * unit), runtime.limits.multiprocessors * RESIDENT);
  runtime.launch(runtime.kernel(kernel, defines), [blocks, 1, 1], THREADS, 0, ...args);
}

/** Launches a kernel that moves rows of `width` elements, with as many threads per row as it can use. */
function launchRows(
  runtime: CudaRuntime,
  kernel: KernelDefinition,
  [y, x]: readonly [Tensor, Tensor],
  [rows, width]: readonly [number, number],
  ...args: number[]
): void {
  if (width === 0) return;
  const across = powerOfTwo(ceilDiv(width, unitElements(y, x)), 1, THREADS);
  const down = THREADS / across;
  const blocks = Math.min(ceilDiv(rows, down), runtime.limits.multiprocessors * RESIDENT * 4);
  runtime.launch(runtime.kernel(kernel, typesOf(y, x)), [blocks, 1, 1], [across, down, 1], 0, ...args);
}

/** y (rows, width) = x in y's type; both may be views with gaps. */
export function castRows(runtime: CudaRuntime, y: Tensor, x: Tensor): void {
  const [rows, width] = [dim(x, 0), rowElements(x)];
  const args = [y.address, x.address, rows, width, y.rowStride, x.rowStride];
  launchRows(runtime, flatKernels.castRows, [y, x], [rows, width], ...args);
}

type FlatOp =
  | "sumSquares"
  | "scale"
  | "softcapForward"
  | "softcapBackward"
  | "add"
  | "fill"
  | "cast"
  | "gatherRows"
  | "scatterRows";

export function flatOps(runtime: CudaRuntime): Pick<Ops, FlatOp> {
  const kernels = flatKernels;
  const fill = (x: Tensor, value: number) => {
    const n = elementCount(x.shape);
    launchFlat(runtime, kernels.fill, float, n, 4, x.address, n, value);
  };
  const add = (y: Tensor, x: Tensor) => {
    const n = elementCount(x.shape);
    launchFlat(runtime, kernels.add, float, n, 4, y.address, x.address, n);
  };
  return {
    fill,
    scale(x, factor) {
      const n = elementCount(x.shape);
      launchFlat(runtime, kernels.scale, float, n, 4, x.address, n, factor);
    },
    softcapForward(x, cap) {
      const n = elementCount(x.shape);
      launchFlat(runtime, kernels.softcapForward, float, n, 4, x.address, n, cap);
    },
    softcapBackward(dx, y, cap) {
      const n = elementCount(dx.shape);
      launchFlat(runtime, kernels.softcapBackward, typesOf(dx, y), n, 4, dx.address, y.address, n, cap);
    },
    add,
    cast(y, x) {
      const n = elementCount(x.shape);
      launchFlat(runtime, kernels.cast, typesOf(y, x), n, unitElements(y, x), y.address, x.address, n);
    },
    gatherRows(y, x, index) {
      const [N, D] = [dim(y, 0), dim(y, 1)];
      expectShape(dim(x, 1) === D, `gatherRows: ${y.shape} from ${x.shape}`);
      const args = [y.address, x.address, index.address, N, D, y.rowStride, x.rowStride];
      launchRows(runtime, kernels.gatherRows, [y, x], [N, D], ...args);
    },
    scatterRows(dx, dy, index) {
      const [N, D] = [dim(dy, 0), dim(dx, 1)];
      expectShape(dim(dy, 1) === D && dx.rowStride === D, `scatterRows: ${dx.shape} from ${dy.shape}`);
      expectShape(dx.dtype === "float32", `scatterRows: ${dx.name} is not float32`);
      fill(dx, 0);
      const args = [dx.address, dy.address, index.address, N, D, dx.rowStride, dy.rowStride];
      launchRows(runtime, kernels.scatterRows, [dx, dy], [N, D], ...args);
    },
    sumSquares(sum, x) {
      const n = elementCount(x.shape);
      const blocks = Math.min(ceilDiv(n, SUMMED), SUM_BLOCKS);
      const partial = runtime.scratch(0, 8 * SUM_BLOCKS);
      const [first, second] = [kernels.sumSquaresBlocks, kernels.sumSquares];
      runtime.launch(runtime.kernel(first, float), [blocks, 1, 1], THREADS, 0, partial, x.address, n);
      runtime.launch(runtime.kernel(second, float), [1, 1, 1], THREADS, 0, sum.address, partial, blocks);
    },
  };
}
