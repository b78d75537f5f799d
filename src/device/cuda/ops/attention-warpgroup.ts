/**
 * Launches of ffi/cuda/attention_forward_warpgroup.cu, the attention of Hopper GPUs. attention.ts falls back on its own
 * kernel where this one does not apply.
 */
import type { Tensor } from "../../../tensor/tensor.ts";
import type { AttentionShape } from "../../device.ts";
import { dim } from "../../operands.ts";
import type { CudaRuntime, Defines, KernelDefinition } from "../runtime.ts";
import { WARPGROUP_CAPABILITY } from "../tensor-maps.ts";
import { ceilDiv } from "../threads.ts";

/** Two warpgroups compute, one copies. */
export const WARPGROUP_THREADS = 384;
/** Rows of queries and of keys of a tile. */
export const WARPGROUP_ROWS = 128;
/** Head sizes that panels of 64 columns make up and whose sums fit the registers. */
export const WARPGROUP_HEADS: readonly number[] = [64, 128];
/** Bytes of barriers and of the description of the tile, behind the tiles. */
const CONTROL_BYTES = 256;

function forwardTile(headDim: number) {
  const STAGES = headDim === 64 ? 4 : 2;
  const [THREADS, ROWS] = [WARPGROUP_THREADS, WARPGROUP_ROWS];
  const SHARED_BYTES = 2 * headDim * ROWS * (2 + 2 * STAGES) + CONTROL_BYTES;
  return { THREADS, ROWS, KEYS: ROWS, BOX: ROWS, STAGES, SHARED_BYTES };
}

export const attentionWarpgroupKernels = {
  forward: {
    file: "attention_forward_warpgroup.cu",
    name: "attention_forward_warpgroup",
    parameters:
      "qkv:map out:ptr lse:ptr segments:ptr next:ptr S:i32 H:i32 Hkv:i32 k_column:i32 v_column:i32 ldo:i64 scale:f32",
    threads: WARPGROUP_THREADS,
    only: WARPGROUP_CAPABILITY,
    sizes: ({ HEAD_DIM }: Defines) => forwardTile(Number(HEAD_DIM)),
    variants: WARPGROUP_HEADS.map((HEAD_DIM) => ({ HEAD_DIM })),
  },
} as const satisfies Record<string, KernelDefinition>;

/** Whether 16-byte accesses reach all rows. */
function reachable(tensor: Tensor): boolean {
  return tensor.address % 16 === 0 && (2 * tensor.rowStride) % 16 === 0;
}

/** Whether kernels of sm_90a take these operands; BUN_GRPO_WARPGROUPS=0 refuses all, to compare with the other kernels. */
export function takesWarpgroups(runtime: CudaRuntime, operands: readonly Tensor[], headDim: number): boolean {
  return (
    runtime.limits.computeCapability === WARPGROUP_CAPABILITY &&
    process.env.BUN_GRPO_WARPGROUPS !== "0" &&
    WARPGROUP_HEADS.includes(headDim) &&
    operands.every((tensor) => tensor.dtype === "bfloat16" && reachable(tensor))
  );
}

/** attentionForward, its operands checked. */
export function warpgroupForward(
  runtime: CudaRuntime,
  out: Tensor,
  lse: Tensor | null,
  qkv: Tensor,
  segments: Tensor,
  { heads, kvHeads, headDim, scale }: AttentionShape,
): void {
  const [T, S] = [dim(qkv, 0), dim(segments, 0)];
  if (T === 0 || S === 0) return;
  const kernel = runtime.kernel(attentionWarpgroupKernels.forward, { HEAD_DIM: headDim });
  // Each block takes tiles until there are none; more blocks than there can be tiles would find none at all.
  const blocks = Math.min(runtime.limits.multiprocessors, heads * (ceilDiv(T, WARPGROUP_ROWS) + S));
  const columns = [heads * headDim, (heads + kvHeads) * headDim];
  const pointers = [out.address, lse?.address ?? 0, segments.address, runtime.counters];
  const args = [
    runtime.tensorMap(qkv, WARPGROUP_ROWS),
    ...pointers,
    S,
    heads,
    kvHeads,
    ...columns,
    out.rowStride,
    scale,
  ];
  runtime.launch(kernel, [blocks, 1, 1], WARPGROUP_THREADS, forwardTile(headDim).SHARED_BYTES, ...args);
}
