/**
 * Launches of ffi/cuda/attention_backward*.cu: row statistics and the work list, then gradients of keys and values,
 * then those of queries, then sums of partial results. Intermediate results are in scratch.
 */
import { InputError } from "../../../errors.ts";
import { bytesPerElement } from "../../../tensor/dtype.ts";
import type { Tensor } from "../../../tensor/tensor.ts";
import type { AttentionShape, Ops } from "../../device.ts";
import { dim, expectShape, headAddresses, qkvAddresses } from "../../operands.ts";
import { type CudaRuntime, type Defines, type KernelDefinition, macroType, type ScratchBound } from "../runtime.ts";
import { WARPGROUP_CAPABILITY } from "../tensor-maps.ts";
import { ceilDiv } from "../threads.ts";
import { LARGEST_HEAD, windowed } from "./attention.ts";
import { WARPGROUP_TILE, warpgroupBackward } from "./attention-backward-warpgroup.ts";
import { takesWarpgroups } from "./attention-warpgroup.ts";

/** Rows in a tile of keys or queries; WARPGROUP_TILE on Hopper GPUs. */
const TILE = 64;
const THREADS = 128;
const WIDE_THREADS = 256;
/** Rows, and heads, whose statistics a block of attention_backward_prepare computes. */
const STAT_BLOCK = 8;

function variants(
  types: readonly string[],
  roles: readonly string[],
  headDims: readonly number[] = [64, 128],
): Defines[] {
  const macros = (type: string) => Object.fromEntries(roles.map((role) => [role, type]));
  if (headDims.length === 0) return types.map(macros);
  return types.flatMap((type) => headDims.map((HEAD_DIM) => ({ HEAD_DIM, ...macros(type) })));
}

/** How the kernels divide their work, by type and head size. */
interface Tiling {
  /** Padded head size. */
  readonly Dp: number;
  /** Blocks that share a tile of keys, and one of queries. */
  readonly keyParts: number;
  readonly queryParts: number;
  /** Bytes of shared memory. */
  readonly keyBytes: number;
  readonly queryBytes: number;
  /** Macros. */
  readonly sizes: Defines;
}

function tiling(bfloat16: boolean, headDim: number): Tiling {
  if (!bfloat16) {
    const Dp = ceilDiv(headDim, 16) * 16;
    const ROWS = Dp <= 160 ? 32 : 16; // the most that fits 99 KiB of shared memory
    const bytes = 4 * (4 * ROWS * (Dp + 4) + 2 * ROWS * (ROWS + 8) + 2 * ROWS);
    const sizes = { THREADS, TILE, DP: Dp, ROWS, SHARED_BYTES: bytes };
    return { Dp, keyParts: TILE / ROWS, queryParts: TILE / ROWS, keyBytes: bytes, queryBytes: bytes, sizes };
  }
  const Dp = headDim <= 128 ? ceilDiv(headDim, 16) * 16 : ceilDiv(headDim, 32) * 32;
  const STEP = Dp <= 64 ? 64 : Dp <= 128 ? 32 : 16; // rows streamed at a time
  const keyParts = Dp <= 128 ? 1 : 2;
  const QUERY_ROW_TILES = Dp > 64 && Dp <= 128 ? 2 : 1; // tiles of 16 rows per warp
  const operands = 2 * Dp * (2 * TILE + 4 * STEP);
  // The same memory later holds the sums; those of queries come from two warps if rows are shared.
  const sums = (columns: number) => 4 * TILE * (columns + 8);
  const keyBytes = Math.max(operands + 16 * STEP, sums(Dp / keyParts));
  const queryBytes = Math.max(operands, QUERY_ROW_TILES * sums(Dp));
  const cut = { THREADS, TILE, DP: Dp, STEP, KEY_PARTS: keyParts, QUERY_ROW_TILES };
  const sizes = { ...cut, KEY_SHARED_BYTES: keyBytes, QUERY_SHARED_BYTES: queryBytes };
  return { Dp, keyParts, queryParts: 1, keyBytes, queryBytes, sizes };
}

const tilingSizes =
  (bfloat16: boolean) =>
  ({ HEAD_DIM }: Defines) =>
    tiling(bfloat16, Number(HEAD_DIM)).sizes;

/** Of kernels that serve both tilings of the others. */
function tiled(roles: readonly string[]): Defines[] {
  const plain = variants(["float", "bf16"], roles, []).map((variant) => ({ ...variant, TILE }));
  return [...plain, ...variants(["bf16"], roles, []).map((variant) => ({ ...variant, TILE: WARPGROUP_TILE }))];
}

const keys =
  "dk:ptr dv:ptr slots:ptr dout:ptr q:ptr k:ptr v:ptr stats:ptr units:ptr segments:ptr " +
  "T:i32 H:i32 Hkv:i32 window:i32 ldd:i32 ldo:i32 ldq:i32";
const queries =
  "dq:ptr dout:ptr q:ptr k:ptr v:ptr stats:ptr tiles:ptr segments:ptr T:i32 H:i32 Hkv:i32 window:i32 ldd:i32 ldo:i32 ldq:i32";

export const attentionBackwardKernels = {
  prepare: {
    file: "attention_backward_prepare.cu",
    name: "attention_backward_prepare",
    parameters:
      "stats:ptr tiles:ptr units:ptr lists:ptr dout:ptr out:ptr lse:ptr segments:ptr " +
      "S:i32 T:i32 H:i32 Dh:i32 lddout:i32 ldout:i32 max_tiles:i32 max_slots:i32",
    threads: WIDE_THREADS,
    sizes: () => ({ THREADS: WIDE_THREADS, STAT_BLOCK }),
    variants: tiled(["DOUT_TYPE", "OUT_TYPE", "X_TYPE"]),
  },
  /** Launched if the head size is not a multiple of 8, and for mixed types. */
  pack: {
    file: "attention_backward_pack.cu",
    name: "attention_backward_pack",
    parameters: "y:ptr x:ptr heads:i32 Dh:i32 Dp:i32 ldx:i32",
    threads: WIDE_THREADS,
    sizes: () => ({ THREADS: WIDE_THREADS }),
    variants: variants(["float", "bf16"], ["X_TYPE"], []),
  },
  keys: {
    file: "attention_backward.cu",
    name: "attention_backward_keys",
    parameters: `${keys} head_o:i32 head_q:i32 scale:f32`,
    threads: THREADS,
    sizes: tilingSizes(true),
    variants: windowed(variants(["bf16"], ["DQKV_TYPE"])),
  },
  queries: {
    file: "attention_backward.cu",
    name: "attention_backward_queries",
    parameters: `${queries} head_o:i32 head_q:i32 scale:f32`,
    threads: THREADS,
    sizes: tilingSizes(true),
    variants: windowed(variants(["bf16"], ["DQKV_TYPE"])),
  },
  keysFloat32: {
    file: "attention_backward_float32.cu",
    name: "attention_backward_keys_float32",
    parameters: `${keys} scale:f32`,
    threads: THREADS,
    sizes: tilingSizes(false),
    variants: windowed(variants(["float"], ["DOUT_TYPE", "DQKV_TYPE"])),
  },
  queriesFloat32: {
    file: "attention_backward_float32.cu",
    name: "attention_backward_queries_float32",
    parameters: `${queries} scale:f32`,
    threads: THREADS,
    sizes: tilingSizes(false),
    variants: windowed(variants(["float"], ["DOUT_TYPE", "DQKV_TYPE"])),
  },
  sum: {
    file: "attention_backward_sum.cu",
    name: "attention_backward_sum",
    parameters: "dk:ptr dv:ptr slots:ptr tiles:ptr segments:ptr Hkv:i32 Dh:i32 Dp:i32 ldd:i32",
    threads: WIDE_THREADS,
    sizes: () => ({ THREADS: WIDE_THREADS }),
    variants: tiled(["DQKV_TYPE"]),
  },
} as const satisfies Record<string, KernelDefinition>;

/** Upper bounds for T tokens in S segments: tiles of `tile` rows, and slots for partial sums. */
function workSizes(T: number, S: number, tile: number): { tiles: number; slots: number } {
  return { tiles: ceilDiv(T, tile) + S, slots: ceilDiv(T, 2 * tile) + 8 };
}

/** Bytes of each part of the scratch memory. `packed`: heads of operands that must be copied first. */
function scratchParts(
  T: number,
  S: number,
  packed: number,
  { Dp, tile }: { readonly Dp: number; readonly tile: number },
  { heads, kvHeads }: AttentionShape,
) {
  const { tiles, slots } = workSizes(T, S, tile);
  return {
    stats: heads * T * 8,
    tiles: tiles * 16,
    units: (tiles + slots) * 32,
    lists: S * 32,
    packed: T * packed * Dp * 2,
    slots: slots * kvHeads * 2 * tile * Dp * 4,
  };
}

const ALIGNMENT = 256;

function total(parts: ReturnType<typeof scratchParts>): number {
  return Object.values(parts).reduce((sum, bytes) => sum + ceilDiv(bytes, ALIGNMENT) * ALIGNMENT, 0);
}

/**
 * A micro-batch has at most as many segments as tokens. A model's operands are packed only because of their head size.
 */
export const attentionBackwardScratch: ScratchBound = ({ tokens, attention }, { computeCapability }) => {
  const packed = attention.headDim % 8 === 0 ? 0 : 2 * (attention.heads + attention.kvHeads);
  const { Dp } = tiling(true, attention.headDim);
  const tiles = computeCapability === WARPGROUP_CAPABILITY ? [TILE, WARPGROUP_TILE] : [TILE];
  return Math.max(...tiles.map((tile) => total(scratchParts(tokens, tokens, packed, { Dp, tile }, attention))));
};

/** The planned scratch is unused: prompts' sums are in the device's own scratch, whose size is bounded by T. */
export function attentionScratchElements(_: AttentionShape): number {
  return 1;
}

/** An operand of the tensor-core kernels: address of its first head, strides of rows and of heads in elements. */
interface Operand {
  readonly address: number;
  readonly ld: number;
  readonly head: number;
}

/** Whether each head of each row can be copied 16 bytes at a time. */
function copies(t: Tensor, headDim: number): boolean {
  return t.dtype === "bfloat16" && headDim % 8 === 0 && t.rowStride % 8 === 0 && t.address % 16 === 0;
}

export function attentionBackwardOps(runtime: CudaRuntime): Pick<Ops, "attentionBackward"> {
  return {
    attentionBackward(dqkv, dout, qkv, out, lse, segments, _scratch, shape) {
      const { heads, kvHeads, headDim, scale, window = 0 } = shape;
      const [T, S] = [dim(qkv, 0), dim(segments, 0)];
      checkOperands(dqkv, dout, qkv, out, lse, shape);
      if (T === 0 || S === 0) return;
      const bfloat16 = qkv.dtype === "bfloat16";
      const { Dp, keyParts, queryParts, keyBytes, queryBytes } = tiling(bfloat16, headDim);
      const warpgroups = takesWarpgroups(runtime, [dqkv, dout, qkv], headDim);
      const tile = warpgroups ? WARPGROUP_TILE : TILE;
      const { tiles, slots } = workSizes(T, S, tile);
      const [packQkv, packDout] = [bfloat16 && !copies(qkv, headDim), bfloat16 && !copies(dout, headDim)];
      const packedHeads = (packQkv ? heads + 2 * kvHeads : 0) + (packDout ? heads : 0);
      const parts = scratchParts(T, S, packedHeads, { Dp, tile }, shape);
      const at = addresses(runtime.scratch(0, total(parts)), parts);

      const types = { DOUT_TYPE: macroType(dout.dtype), OUT_TYPE: macroType(out.dtype), X_TYPE: macroType(qkv.dtype) };
      const blocks = 1 + ceilDiv(T, STAT_BLOCK) * ceilDiv(heads, STAT_BLOCK);
      const lists = [at.stats, at.tiles, at.units, at.lists];
      const inputs = [dout.address, out.address, lse.address, segments.address, S, T, heads, headDim];
      const prepare = runtime.kernel(attentionBackwardKernels.prepare, { ...types, TILE: tile });
      const strides = [dout.rowStride, out.rowStride, tiles, slots];
      runtime.launch(prepare, [blocks, 1, 1], WIDE_THREADS, 0, ...lists, ...inputs, ...strides);

      const [dq, dk, dv] = qkvAddresses(dqkv, shape);
      const sumParts = () => {
        const kernel = runtime.kernel(attentionBackwardKernels.sum, { DQKV_TYPE: macroType(dqkv.dtype), TILE: tile });
        const args = [dk, dv, at.slots, at.tiles, segments.address, kvHeads, headDim, Dp, dqkv.rowStride];
        runtime.launch(kernel, [tiles, kvHeads, 2], WIDE_THREADS, 0, ...args);
      };
      if (warpgroups) {
        const work = { stats: at.stats, units: at.units, slots: at.slots, maxUnits: tiles + slots };
        warpgroupBackward(runtime, dqkv, dout, qkv, segments, work, shape);
        sumParts();
        return;
      }

      const pack = (x: Tensor, count: number, y: number): Operand => {
        const kernel = runtime.kernel(attentionBackwardKernels.pack, { X_TYPE: macroType(x.dtype) });
        runtime.launch(kernel, [T, 1, 1], WIDE_THREADS, 0, y, x.address, count, headDim, Dp, x.rowStride);
        return { address: y, ld: count * Dp, head: Dp };
      };
      const direct = (x: Tensor): Operand => ({ address: x.address, ld: x.rowStride, head: headDim });
      const x = packQkv ? pack(qkv, heads + 2 * kvHeads, at.packed) : direct(qkv);
      const behind = at.packed + (packQkv ? T * (heads + 2 * kvHeads) * Dp * 2 : 0);
      const dy = packDout ? pack(dout, heads, behind) : direct(dout);

      const operands = [dy.address, ...headAddresses(x.address, x.head * bytesPerElement(qkv.dtype), shape)];
      const sizes = [T, heads, kvHeads, window, dqkv.rowStride, dy.ld, x.ld];
      const last = bfloat16 ? [dy.head, x.head, scale] : [scale];
      const macros = { HEAD_DIM: headDim, WINDOWED: window > 0 ? 1 : 0, DQKV_TYPE: macroType(dqkv.dtype) };
      const defines = bfloat16 ? macros : { ...macros, DOUT_TYPE: types.DOUT_TYPE };
      const { keys, queries, keysFloat32, queriesFloat32 } = attentionBackwardKernels;
      const keyKernel = runtime.kernel(bfloat16 ? keys : keysFloat32, defines);
      const keyArgs = [dk, dv, at.slots, ...operands, at.stats, at.units, segments.address, ...sizes, ...last];
      runtime.launch(keyKernel, [tiles + slots, kvHeads, keyParts], THREADS, keyBytes, ...keyArgs);
      const queryKernel = runtime.kernel(bfloat16 ? queries : queriesFloat32, defines);
      const queryArgs = [dq, ...operands, at.stats, at.tiles, segments.address, ...sizes, ...last];
      runtime.launch(queryKernel, [tiles, heads, queryParts], THREADS, queryBytes, ...queryArgs);
      sumParts();
    },
  };
}

function checkOperands(
  dqkv: Tensor,
  dout: Tensor,
  qkv: Tensor,
  out: Tensor,
  lse: Tensor,
  { heads, kvHeads, headDim }: AttentionShape,
): void {
  if (headDim > LARGEST_HEAD || headDim % 2 !== 0)
    throw new InputError(
      `head_dim ${headDim}: attention on CUDA takes even sizes up to ${LARGEST_HEAD}; use --device cpu for this model`,
    );
  const [T, width] = [dim(qkv, 0), (heads + 2 * kvHeads) * headDim];
  expectShape(heads % kvHeads === 0, `attention: ${heads} query heads for ${kvHeads} key heads`);
  for (const t of [dqkv, qkv])
    expectShape(dim(t, 0) === T && dim(t, 1) === width, `${t.name}: ${t.shape} is not q, k and v of ${T} tokens`);
  for (const t of [dout, out])
    expectShape(dim(t, 0) === T && dim(t, 1) === heads * headDim, `${t.name}: ${t.shape} for ${qkv.shape}`);
  expectShape(dim(lse, 0) === T && dim(lse, 1) === heads && lse.rowStride === heads, `${lse.name}: ${lse.shape}`);
}

/** The address of each part, one after the other. */
function addresses<Parts extends Record<string, number>>(start: number, parts: Parts): Record<keyof Parts, number> {
  const found = {} as Record<keyof Parts, number>;
  let next = start;
  for (const name in parts) {
    found[name] = next;
    next += ceilDiv(parts[name] ?? 0, ALIGNMENT) * ALIGNMENT;
  }
  return found;
}
