/** Launches of ffi/cuda/experts.cu: a mixture of experts, whose products take one launch for all experts. */
import type { DType } from "../../../tensor/dtype.ts";
import type { ExpertOp, ExpertWeights, Ops } from "../../device.ts";
import { dim, expectShape } from "../../operands.ts";
import { type CudaRuntime, type Defines, type KernelDefinition, macroType } from "../runtime.ts";
import { ceilDiv } from "../threads.ts";

const THREADS = 256;
const WARPS = THREADS / 32;
/** Rows of one expert, and columns, of a block of the products. */
const TILE = 64;
const PRODUCT_THREADS = 256;
const sizes = () => ({ THREADS, TILE, PRODUCT_THREADS });

/** Of a model's type: float32, or activations, weights and gradients in bfloat16. */
const typed = (...roles: readonly string[]): Defines[] =>
  ["float", "bf16"].map((type) => Object.fromEntries(roles.map((role) => [role, type])));

function definition(name: string, parameters: string, variants: readonly Defines[], threads = THREADS) {
  return { file: "experts.cu", name, parameters, threads, sizes, variants } satisfies KernelDefinition;
}

export const expertKernels = {
  routeForward: definition(
    "route_forward",
    "weights:ptr experts:ptr probabilities:ptr logits:ptr T:i32 E:i32 K:i32 normalized:i32 given:i32",
    [{}],
  ),
  routeBackward: definition(
    "route_backward",
    "dlogits:ptr dweights:ptr weights:ptr experts:ptr probabilities:ptr T:i32 E:i32 K:i32 normalized:i32",
    [{}],
  ),
  balanceForward: definition("balance_forward", "load:ptr probabilities:ptr row_weights:ptr T:i32 E:i32", [{}]),
  balanceBackward: definition(
    "balance_backward",
    "dlogits:ptr probabilities:ptr slopes:ptr row_weights:ptr T:i32 E:i32",
    [{}],
  ),
  dispatch: definition("dispatch", "offsets:ptr order:ptr places:ptr experts:ptr pairs:i32", [{}]),
  gatherPairs: definition("gather_pairs", "y:ptr x:ptr order:ptr P:i32 K:i32 D:i32", typed("X_TYPE")),
  scatterPairs: definition("scatter_pairs", "dx:ptr dy:ptr places:ptr T:i32 K:i32 D:i32", typed("Y_TYPE")),
  combineForward: definition(
    "combine_forward",
    "x:ptr y:ptr places:ptr weights:ptr T:i32 K:i32 D:i32",
    typed("Y_TYPE"),
  ),
  combineBackward: definition(
    "combine_backward",
    "dy:ptr dweights:ptr dx:ptr y:ptr places:ptr weights:ptr P:i32 K:i32 D:i32",
    typed("X_TYPE", "Y_TYPE"),
  ),
  forward: definition(
    "experts_forward",
    "y:ptr x:ptr w:ptr offsets:ptr E:i32 next:i64 N:i32 K:i32 ldy:i32 ldx:i32",
    typed("X_TYPE", "Y_TYPE", "W_TYPE"),
    PRODUCT_THREADS,
  ),
  backwardInput: definition(
    "experts_backward_input",
    "dx:ptr dy:ptr w:ptr offsets:ptr E:i32 next:i64 N:i32 K:i32 lddx:i32 lddy:i32 accumulate:i32",
    typed("X_TYPE", "Y_TYPE", "W_TYPE"),
    PRODUCT_THREADS,
  ),
  backwardWeight: definition(
    "experts_backward_weight",
    "dw:ptr dy:ptr x:ptr offsets:ptr next:i64 N:i32 K:i32 lddy:i32 ldx:i32",
    typed("X_TYPE", "Y_TYPE"),
    PRODUCT_THREADS,
  ),
} as const;

const type = ({ dtype }: { readonly dtype: DType }) => macroType(dtype);

/** N, K of each expert's weight. */
const shapeOf = ({ first }: ExpertWeights) => [dim(first, 0), dim(first, 1)] as const;

export function expertOps(runtime: CudaRuntime): Pick<Ops, ExpertOp> {
  /** A warp a row. */
  const launchRows = (kernel: KernelDefinition, defines: Defines, rows: number, ...args: number[]): void => {
    if (rows === 0) return;
    runtime.launch(runtime.kernel(kernel, defines), [ceilDiv(rows, WARPS), 1, 1], THREADS, 0, ...args);
  };
  /** Each expert adds at most one partial tile of rows; blocks beyond the last tile return at once. */
  const rowTiles = (pairs: number, { count }: ExpertWeights) => ceilDiv(pairs, TILE) + count;

  return {
    routeForward({ weights, experts, probabilities }, logits, normalized, given = false) {
      const [T, E, K] = [dim(logits, 0), dim(logits, 1), dim(experts, 1)];
      expectShape(dim(experts, 0) === T && K <= E, `${experts.name}: ${experts.shape} of ${logits.shape}`);
      const buffers = [weights, experts, probabilities, logits].map((t) => t.address);
      const flags = [normalized ? 1 : 0, given ? 1 : 0];
      launchRows(expertKernels.routeForward, {}, T, ...buffers, T, E, K, ...flags);
    },
    routeBackward(dlogits, dweights, { weights, experts, probabilities }, normalized) {
      const [T, E, K] = [dim(dlogits, 0), dim(dlogits, 1), dim(experts, 1)];
      const buffers = [dlogits, dweights, weights, experts, probabilities].map((t) => t.address);
      launchRows(expertKernels.routeBackward, {}, T, ...buffers, T, E, K, normalized ? 1 : 0);
    },
    balanceForward(load, probabilities, rowWeights) {
      const [T, E] = [dim(probabilities, 0), dim(probabilities, 1)];
      expectShape(
        dim(load, 0) === E && dim(rowWeights, 0) === T,
        `${load.name}: ${load.shape} of ${probabilities.shape}`,
      );
      const buffers = [load, probabilities, rowWeights].map((t) => t.address);
      runtime.launch(
        runtime.kernel(expertKernels.balanceForward, {}),
        [ceilDiv(E, 32), 1, 1],
        THREADS,
        0,
        ...buffers,
        T,
        E,
      );
    },
    balanceBackward(dlogits, probabilities, slopes, rowWeights) {
      const [T, E] = [dim(dlogits, 0), dim(dlogits, 1)];
      expectShape(
        dim(slopes, 0) === E && dim(rowWeights, 0) === T,
        `${slopes.name}: ${slopes.shape} of ${dlogits.shape}`,
      );
      const buffers = [dlogits, probabilities, slopes, rowWeights].map((t) => t.address);
      launchRows(expertKernels.balanceBackward, {}, T, ...buffers, T, E);
    },
    dispatch({ offsets, order, places }, experts) {
      const buffers = [offsets, order, places, experts].map((t) => t.address);
      const [E, pairs] = [dim(offsets, 0) - 1, dim(experts, 0) * dim(experts, 1)];
      runtime.launch(runtime.kernel(expertKernels.dispatch, {}), [E, 1, 1], THREADS, 0, ...buffers, pairs);
    },
    gatherPairs(y, x, { order, places }) {
      const [P, K, D] = [dim(y, 0), dim(places, 1), dim(x, 1)];
      expectShape(y.dtype === x.dtype && dim(y, 1) === D, `${y.name}: ${y.shape} from ${x.shape}`);
      launchRows(expertKernels.gatherPairs, { X_TYPE: type(x) }, P, y.address, x.address, order.address, P, K, D);
    },
    scatterPairs(dx, dy, { places }) {
      const [T, K, D] = [dim(dx, 0), dim(places, 1), dim(dx, 1)];
      expectShape(dx.dtype === dy.dtype && dim(dy, 1) === D, `${dx.name}: ${dx.shape} from ${dy.shape}`);
      const buffers = [dx, dy, places].map((t) => t.address);
      launchRows(expertKernels.scatterPairs, { Y_TYPE: type(dy) }, T, ...buffers, T, K, D);
    },
    combineForward(x, y, { places }, weights) {
      const [T, K, D] = [dim(x, 0), dim(places, 1), dim(x, 1)];
      const buffers = [x, y, places, weights].map((t) => t.address);
      launchRows(expertKernels.combineForward, { Y_TYPE: type(y) }, T, ...buffers, T, K, D);
    },
    combineBackward(dy, dweights, dx, y, { places }, weights) {
      const [P, K, D] = [dim(dy, 0), dim(places, 1), dim(dx, 1)];
      const buffers = [dy, dweights, dx, y, places, weights].map((t) => t.address);
      const defines = { X_TYPE: type(dy), Y_TYPE: type(y) };
      launchRows(expertKernels.combineBackward, defines, P, ...buffers, P, K, D);
    },
    expertsForward(y, x, w, { offsets }) {
      const [N, K] = shapeOf(w);
      expectShape(dim(y, 1) === N && dim(x, 1) === K, `${w.first.name}: ${y.shape} = ${x.shape} · ${w.first.shape}ᵀ`);
      const kernel = runtime.kernel(expertKernels.forward, {
        ...{ X_TYPE: type(x), Y_TYPE: type(y), W_TYPE: type(w.first) },
      });
      const buffers = [y.address, x.address, w.first.address, offsets.address];
      const args = [...buffers, w.count, w.first.elements, N, K, y.rowStride, x.rowStride];
      const grid = [ceilDiv(N, TILE), rowTiles(dim(x, 0), w), 1] as const;
      runtime.launch(kernel, grid, PRODUCT_THREADS, 0, ...args);
    },
    expertsBackwardInput(dx, dy, w, { offsets }, accumulate = false) {
      const [N, K] = shapeOf(w);
      expectShape(
        dim(dy, 1) === N && dim(dx, 1) === K,
        `${w.first.name}: ${dx.shape} = ${dy.shape} · ${w.first.shape}`,
      );
      const kernel = runtime.kernel(expertKernels.backwardInput, {
        ...{ X_TYPE: type(dx), Y_TYPE: type(dy), W_TYPE: type(w.first) },
      });
      const buffers = [dx.address, dy.address, w.first.address, offsets.address];
      const args = [...buffers, w.count, w.first.elements, N, K, dx.rowStride, dy.rowStride, accumulate ? 1 : 0];
      const grid = [ceilDiv(K, TILE), rowTiles(dim(dy, 0), w), 1] as const;
      runtime.launch(kernel, grid, PRODUCT_THREADS, 0, ...args);
    },
    expertsBackwardWeight(dw, dy, x, w, { offsets }) {
      const [N, K] = shapeOf(w);
      expectShape(dw.dtype === "float32", `${w.first.name}: ${dw.name} is not float32`);
      expectShape(
        dim(dy, 1) === N && dim(x, 1) === K,
        `${w.first.name}: ${w.first.shape} += ${dy.shape}ᵀ · ${x.shape}`,
      );
      const kernel = runtime.kernel(expertKernels.backwardWeight, { X_TYPE: type(x), Y_TYPE: type(dy) });
      const buffers = [dw.address, dy.address, x.address, offsets.address];
      const args = [...buffers, w.first.elements, N, K, dy.rowStride, x.rowStride];
      const grid = [ceilDiv(K, TILE), ceilDiv(N, TILE), w.count] as const;
      runtime.launch(kernel, grid, PRODUCT_THREADS, 0, ...args);
    },
  };
}
