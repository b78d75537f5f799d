/**
 * Launches of ffi/cuda/attention_backward_keys_warpgroup.cu and attention_backward_queries_warpgroup.cu, the gradient of
 * attention on Hopper GPUs: between the work list and the sums of attention-backward.ts, which falls back on its own kernels
 * where these do not apply.
 */
import type { Tensor } from "../../../tensor/tensor.ts";
import type { AttentionShape } from "../../device.ts";
import { dim, qkvAddresses } from "../../operands.ts";
import type { CudaRuntime, Defines, KernelDefinition } from "../runtime.ts";
import { WARPGROUP_CAPABILITY } from "../tensor-maps.ts";
import { ceilDiv } from "../threads.ts";
import { WARPGROUP_HEADS, WARPGROUP_ROWS, WARPGROUP_THREADS } from "./attention-warpgroup.ts";

/** Rows of a tile of keys whose gradients a block sums, and of queries in its list. */
const ROWS = WARPGROUP_ROWS;
/** Rows that the copy engine fetches at once. */
const BOX = 64;
/** Rows of queries and of dout that the keys' kernel takes at a time. */
const QUERIES = 64;
/** Bytes behind the tiles: barriers and the description of the work, or those and statistics of ROWS rows; and of each stage. */
const CONTROL_BYTES = { keys: 512, stage: 640, queries: 1536 };

/**
 * Registers of a thread that copies, and of one that computes, of 168 a thread of the block. Sums of heads of 128 leave so few
 * that the copying threads have to make do with the least.
 */
function registers(least: boolean) {
  const [PRODUCER_REGISTERS, CONSUMER_REGISTERS] = least ? [24, 240] : [40, 232];
  return { PRODUCER_REGISTERS, CONSUMER_REGISTERS };
}

/** Bytes of three tiles of ROWS rows, two operands and a result, and of a ring of two operands of `rows` rows. */
function tileBytes(headDim: number, stages: number, rows: number): number {
  return 2 * headDim * (3 * ROWS + 2 * stages * rows);
}

function keysTile(headDim: number) {
  const STAGES = headDim > 64 ? 3 : 6; // about as many microseconds ahead
  const SHARED_BYTES = tileBytes(headDim, STAGES, QUERIES) + CONTROL_BYTES.keys + STAGES * CONTROL_BYTES.stage;
  return { ROWS, TILE: ROWS, QUERIES, BOX, STAGES, SHARED_BYTES, ...registers(headDim > 64) };
}

function queriesTile(headDim: number) {
  const STAGES = headDim > 64 ? 2 : 3;
  const SHARED_BYTES = tileBytes(headDim, STAGES, ROWS) + CONTROL_BYTES.queries;
  return { ROWS, KEYS: ROWS, BOX, STAGES, SHARED_BYTES, ...registers(false) };
}

const variants = [0, 1].flatMap((WINDOWED) => WARPGROUP_HEADS.map((HEAD_DIM) => ({ HEAD_DIM, WINDOWED })));

export const attentionBackwardWarpgroupKernels = {
  keys: {
    file: "attention_backward_keys_warpgroup.cu",
    name: "attention_backward_keys_warpgroup",
    parameters:
      "qkv:map douts:map dk:ptr dv:ptr slots:ptr stats:ptr units:ptr segments:ptr next:ptr max_units:i32 T:i32 Hkv:i32 " +
      "group:i32 k_column:i32 v_column:i32 window:i32 ldd:i64 scale:f32",
    threads: WARPGROUP_THREADS,
    only: WARPGROUP_CAPABILITY,
    sizes: ({ HEAD_DIM }: Defines) => ({ THREADS: WARPGROUP_THREADS, ...keysTile(Number(HEAD_DIM)) }),
    variants,
  },
  queries: {
    file: "attention_backward_queries_warpgroup.cu",
    name: "attention_backward_queries_warpgroup",
    parameters:
      "qkv:map douts:map dq:ptr stats:ptr segments:ptr next:ptr S:i32 T:i32 H:i32 group:i32 k_column:i32 v_column:i32 " +
      "window:i32 ldd:i64 scale:f32",
    threads: WARPGROUP_THREADS,
    only: WARPGROUP_CAPABILITY,
    sizes: ({ HEAD_DIM }: Defines) => ({ THREADS: WARPGROUP_THREADS, ...queriesTile(Number(HEAD_DIM)) }),
    variants,
  },
} as const satisfies Record<string, KernelDefinition>;

/** Rows of a tile in the work list of these kernels. */
export const WARPGROUP_TILE = ROWS;

/** What attention_backward_prepare has left: addresses, and the most units of the list. */
export interface PreparedWork {
  readonly stats: number;
  readonly units: number;
  readonly slots: number;
  readonly maxUnits: number;
}

/** Gradients of keys and values, or their parts in slots, then those of queries; operands checked. */
export function warpgroupBackward(
  runtime: CudaRuntime,
  dqkv: Tensor,
  dout: Tensor,
  qkv: Tensor,
  segments: Tensor,
  work: PreparedWork,
  shape: AttentionShape,
): void {
  const { heads, kvHeads, headDim, scale, window = 0 } = shape;
  const [T, S] = [dim(qkv, 0), dim(segments, 0)];
  const [dq, dk, dv] = qkvAddresses(dqkv, shape);
  const variant = { HEAD_DIM: headDim, WINDOWED: window > 0 ? 1 : 0 };
  const maps = [runtime.tensorMap(qkv, BOX, 0), runtime.tensorMap(dout, BOX, 1)];
  const columns = [heads * headDim, (heads + kvHeads) * headDim];
  const last = [heads / kvHeads, ...columns, window, dqkv.rowStride, scale];
  // Each block takes work until there is none; more blocks than work would find none at all.
  const blocks = (most: number) => [Math.min(runtime.limits.multiprocessors, most), 1, 1] as const;

  const { keys, queries } = attentionBackwardWarpgroupKernels;
  const keyArgs = [dk, dv, work.slots, work.stats, work.units, segments.address, runtime.counters];
  const keyBytes = keysTile(headDim).SHARED_BYTES;
  const keyKernel = runtime.kernel(keys, variant);
  const keySizes = [work.maxUnits, T, kvHeads];
  runtime.launch(
    keyKernel,
    blocks(work.maxUnits * kvHeads),
    WARPGROUP_THREADS,
    keyBytes,
    ...maps,
    ...keyArgs,
    ...keySizes,
    ...last,
  );
  const queryArgs = [dq, work.stats, segments.address, runtime.counters, S, T, heads];
  const queryBytes = queriesTile(headDim).SHARED_BYTES;
  const most = (ceilDiv(T, ROWS) + S) * heads;
  const queryKernel = runtime.kernel(queries, variant);
  runtime.launch(queryKernel, blocks(most), WARPGROUP_THREADS, queryBytes, ...maps, ...queryArgs, ...last);
}
