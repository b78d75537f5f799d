/**
 * Launches of ffi/cuda/heads.cu, attention_forward.cu, attention_forward_float32.cu, kv_store.cu and
 * attention_decode.cu, and the page size of the key-value cache. The backward pass is in attention-backward.ts.
 */
import { InputError } from "../../../errors.ts";
import { bytesPerElement } from "../../../tensor/dtype.ts";
import type { Tensor } from "../../../tensor/tensor.ts";
import {
  type AttentionShape,
  type CachePlace,
  type HeadTransform,
  type KeyValuePages,
  type Ops,
  PAGE_TOKENS,
} from "../../device.ts";
import { dim, expectShape, headsArguments, qkvAddresses } from "../../operands.ts";
import { type CudaRuntime, type Defines, type KernelDefinition, macroType, type ScratchBound } from "../runtime.ts";
import { ceilDiv, powerOfTwo, unitElements } from "../threads.ts";
import { takesWarpgroups, warpgroupForward } from "./attention-warpgroup.ts";

/** The largest head size whose tiles fit shared memory and registers. */
export const LARGEST_HEAD = 256;
const THREADS = 128;
const STORE_THREADS = 256;
/** Most query heads of one key head per block of attention_decode, and its warps, which share the pages. */
const DECODE_HEADS = 8;
const DECODE_WARPS = THREADS / 32;
/** With fewer blocks of attention_decode per multiprocessor, the pages of a sequence are split. */
const DECODE_BLOCKS = 3;

function variants(types: readonly string[], roles: readonly string[]): Defines[] {
  return types.flatMap((type) =>
    [64, 128].map((HEAD_DIM) => ({ HEAD_DIM, ...Object.fromEntries(roles.map((role) => [role, type])) })),
  );
}

/** The same for layers with a window, of one head size. */
const windowed = (plain: readonly Defines[]): Defines[] => [
  ...plain.map((variant) => ({ ...variant, WINDOWED: 0 })),
  ...plain.slice(0, 1).map((variant) => ({ ...variant, WINDOWED: 1 })),
];

/** Elements of a page's row: a multiple of 16 bytes in either type. */
function paddedRow(headDim: number): number {
  return ceilDiv(headDim, 8) * 8;
}

const pageSizes = ({ HEAD_DIM }: Defines) => ({ PAGE_TOKENS, PADDED: paddedRow(Number(HEAD_DIM)) });
/**
 * Blocks of attention_decode that fit a multiprocessor, from which the registers that a thread may take follow. A GPU's
 * memory is busy with some 25 KB a multiprocessor under way; a warp has 4 KB, or with 8 heads 2.
 */
const decodeResident = (heads: number, headDim: number) => (headDim > 128 ? 2 : heads <= 2 ? 4 : 3);
const decodeSizes = (variant: Defines) => ({
  ...{ THREADS, BLOCKS: decodeResident(Number(variant.HEADS), Number(variant.HEAD_DIM)) },
  ...pageSizes(variant),
});
/** Groups of query heads of usual models: 2 (Qwen3-0.6B), 3 and 4, 7 (Qwen2.5-0.5B); in float32 one of them. */
const decodeVariants = [
  ...variants(["float"], ["O_TYPE", "X_TYPE"]).map((variant) => ({ ...variant, HEADS: 4 })),
  ...variants(["bf16"], ["O_TYPE", "X_TYPE"]).flatMap((variant) => [2, 4, 8].map((HEADS) => ({ ...variant, HEADS }))),
].flatMap((variant) => [0, 1].map((WINDOWED) => ({ ...variant, WINDOWED })));

/** Tile of a forward kernel: padded head size, rows of queries and of keys, bytes of shared memory. */
function forwardTile(bfloat16: boolean, headDim: number) {
  if (bfloat16) {
    // limited by registers
    const PADDED = ceilDiv(headDim, 16) * 16;
    const ROWS = PADDED <= 64 ? 128 : 64;
    const KEYS = PADDED <= 128 ? 64 : 32;
    return { PADDED, ROWS, KEYS, SHARED_BYTES: 2 * PADDED * (ROWS + 4 * KEYS) };
  }
  // limited by 99 KiB of shared memory, the minimum, on sm_86, 89 and 120
  const PADDED = ceilDiv(headDim, 32) * 32;
  const ROWS = PADDED <= 128 ? 64 : 32;
  const KEYS = PADDED <= 64 ? 64 : PADDED <= 128 ? 32 : 16;
  return { PADDED, ROWS, KEYS, SHARED_BYTES: 4 * (PADDED * (ROWS + 2 * KEYS) + ROWS * (KEYS + 8)) };
}

const forwardParameters =
  "out:ptr lse:ptr q:ptr k:ptr v:ptr segments:ptr S:i32 H:i32 Hkv:i32 window:i32 ldo:i64 ldq:i64 scale:f32";

export const attentionKernels = {
  forward: {
    file: "attention_forward.cu",
    name: "attention_forward",
    parameters: forwardParameters,
    threads: THREADS,
    sizes: ({ HEAD_DIM }: Defines) => ({ THREADS, ...forwardTile(true, Number(HEAD_DIM)) }),
    variants: windowed(variants(["bf16"], ["O_TYPE"])),
  },
  forwardFloat32: {
    file: "attention_forward_float32.cu",
    name: "attention_forward_float32",
    parameters: forwardParameters,
    threads: THREADS,
    sizes: ({ HEAD_DIM }: Defines) => ({ THREADS, ...forwardTile(false, Number(HEAD_DIM)) }),
    variants: windowed(variants(["float"], ["O_TYPE"])),
  },
  heads: {
    file: "heads.cu",
    name: "heads_forward",
    parameters:
      "qkv:ptr rstd_q:ptr rstd_k:ptr key_pages:ptr value_pages:ptr raw:ptr weight_q:ptr weight_k:ptr positions:ptr " +
      "cos:ptr sin:ptr page:ptr offset:ptr T:i32 H:i32 Hkv:i32 ldqkv:i64 ldraw:i64 eps:f32 norm_offset:f32",
    threads: THREADS,
    sizes: (variant: Defines) => ({ THREADS, ...pageSizes(variant) }),
    variants: variants(["float", "bf16"], ["X_TYPE", "W_TYPE"]),
  },
  store: {
    file: "kv_store.cu",
    name: "kv_store",
    parameters: "key_pages:ptr value_pages:ptr k:ptr v:ptr page:ptr offset:ptr T:i32 Hkv:i32 ldkv:i64",
    threads: STORE_THREADS,
    sizes: (variant: Defines) => ({ THREADS: STORE_THREADS, ...pageSizes(variant) }),
    variants: variants(["float", "bf16"], ["X_TYPE"]),
  },
  decode: {
    file: "attention_decode.cu",
    name: "attention_decode",
    parameters:
      "out:ptr sums:ptr stats:ptr q:ptr key_pages:ptr value_pages:ptr page_table:ptr prompt_lengths:ptr " +
      "completion_lengths:ptr table_width:i32 H:i32 Hkv:i32 window:i32 ldo:i64 ldq:i64 scale:f32",
    threads: THREADS,
    sizes: decodeSizes,
    variants: decodeVariants,
  },
  decodeCombine: {
    file: "attention_decode.cu",
    name: "attention_decode_combine",
    parameters: "out:ptr sums:ptr stats:ptr H:i32 splits:i32 ldo:i64",
    threads: THREADS,
    sizes: decodeSizes,
    variants: decodeVariants,
  },
} as const satisfies Record<string, KernelDefinition>;

/** @throws InputError for a head size that the kernels do not support */
function checkHeads({ headDim }: AttentionShape): void {
  if (headDim > LARGEST_HEAD)
    throw new InputError(
      `head_dim ${headDim}: attention on CUDA takes heads of up to ${LARGEST_HEAD}; use --device cpu for this model`,
    );
}

/** @throws InputError for a head size that the kernels do not support */
export function pageElements(shape: AttentionShape): { keys: number; values: number } {
  checkHeads(shape);
  const elements = shape.kvHeads * PAGE_TOKENS * paddedRow(shape.headDim);
  return { keys: elements, values: elements };
}

/** Query heads that a block of attention_decode takes: the smallest power of two that holds a group. */
function decodeHeads({ heads, kvHeads }: AttentionShape): number {
  return powerOfTwo(heads / kvHeads, 1, DECODE_HEADS);
}

/** Blocks of attention_decode per sequence, before splitting. */
function decodeBlocks({ heads, kvHeads }: AttentionShape): number {
  return kvHeads * ceilDiv(heads / kvHeads, DECODE_HEADS);
}

/** Splits of each sequence's pages. Depends only on buffer sizes, since a recorded launch serves any lengths. */
function decodeSplits(B: number, tableWidth: number, shape: AttentionShape, multiprocessors: number): number {
  const wanted = ceilDiv(DECODE_BLOCKS * multiprocessors, Math.max(B, 1) * decodeBlocks(shape));
  return Math.max(1, Math.min(wanted, ceilDiv(tableWidth, DECODE_WARPS)));
}

/** If pages are split, there are fewer than twice the wanted number of blocks. */
export const attentionScratch: ScratchBound = ({ attention }, { multiprocessors }) => {
  const parts = (2 * DECODE_BLOCKS * multiprocessors * attention.heads) / decodeBlocks(attention);
  return Math.ceil(parts) * (paddedRow(attention.headDim) + 2) * 4;
};

function checkOut(out: Tensor, qkv: Tensor, { heads, headDim }: AttentionShape): void {
  expectShape(
    dim(out, 0) === dim(qkv, 0) && dim(out, 1) === heads * headDim,
    `${out.name}: ${out.shape} from ${qkv.shape}`,
  );
}

function checkPages(pages: KeyValuePages, qkv: Tensor, shape: AttentionShape): void {
  const { keys, values } = pageElements(shape);
  expectShape(
    dim(pages.keys, 1) === keys && dim(pages.values, 1) === values,
    `${pages.keys.name}: pages of ${pages.keys.shape}, not ${keys}`,
  );
  expectShape(
    pages.keys.dtype === qkv.dtype && pages.values.dtype === qkv.dtype,
    `${pages.keys.name}: ${pages.keys.dtype} for ${qkv.dtype}`,
  );
}

type AttentionOp = "headsForward" | "attentionForward" | "kvStore" | "attentionDecode";

export function attentionOps(runtime: CudaRuntime): Pick<Ops, AttentionOp> {
  /** qkv = raw transformed; keys and values are also stored if a place is given. */
  const transformHeads = (
    [qkv, rstdQ, rstdK]: readonly [Tensor, Tensor | null, Tensor | null],
    raw: Tensor,
    transform: HeadTransform,
    place: CachePlace | null,
    shape: AttentionShape,
  ) => {
    const { norms } = transform;
    const {
      buffers,
      sizes: [T = 0, H = 0, Hkv = 0],
      strides,
    } = headsArguments(qkv, raw, transform, shape);
    expectShape(qkv.dtype === raw.dtype, `${qkv.name}: ${qkv.dtype} from ${raw.dtype}`);
    const [X_TYPE, W_TYPE] = [macroType(qkv.dtype), macroType((norms?.q ?? qkv).dtype)];
    const kernel = runtime.kernel(attentionKernels.heads, { HEAD_DIM: shape.headDim, X_TYPE, W_TYPE });
    const outputs = [qkv, rstdQ, rstdK, place?.pages.keys, place?.pages.values].map((t) => t?.address ?? 0);
    const cells = [place?.page.address ?? 0, place?.offset.address ?? 0];
    const lanes = powerOfTwo(ceilDiv(shape.headDim / 2, unitElements(qkv, norms?.q ?? qkv)), 1, 32);
    const grid = [ceilDiv(T * (H + 2 * Hkv), THREADS / lanes), 1, 1] as const;
    const args = [...outputs, ...buffers, ...cells, T, H, Hkv, ...strides, norms?.epsilon ?? 0, norms?.q.offset ?? 0];
    runtime.launch(kernel, grid, THREADS, 0, ...args);
  };
  return {
    headsForward(qkv, rstdQ, rstdK, raw, norms, positions, cos, sin, shape) {
      transformHeads([qkv, rstdQ, rstdK], raw, { norms, positions, cos, sin }, null, shape);
    },

    attentionForward(out, lse, qkv, segments, shape) {
      checkHeads(shape);
      const [q, k, v] = qkvAddresses(qkv, shape);
      const { heads, kvHeads, headDim, scale, window = 0 } = shape;
      const [T, S] = [dim(qkv, 0), dim(segments, 0)];
      checkOut(out, qkv, shape);
      expectShape(
        lse === null || (dim(lse, 0) === T && dim(lse, 1) === heads && lse.rowStride === heads),
        `${lse?.name}: ${lse?.shape} for ${heads} heads`,
      );
      if (takesWarpgroups(runtime, out, qkv, shape)) {
        warpgroupForward(runtime, out, lse, qkv, segments, shape);
        return;
      }
      const bfloat16 = qkv.dtype === "bfloat16";
      const definition = bfloat16 ? attentionKernels.forward : attentionKernels.forwardFloat32;
      const kernel = runtime.kernel(definition, {
        ...{ HEAD_DIM: headDim, O_TYPE: macroType(out.dtype), WINDOWED: window > 0 ? 1 : 0 },
      });
      const { ROWS, SHARED_BYTES } = forwardTile(bfloat16, headDim);
      // Each segment adds at most one partial tile; blocks beyond the last tile return at once.
      const grid = [heads, ceilDiv(T, ROWS) + S, 1] as const;
      const args = [out.address, lse?.address ?? 0, q, k, v, segments.address, S, heads, kvHeads, window];
      runtime.launch(kernel, grid, THREADS, SHARED_BYTES, ...args, out.rowStride, qkv.rowStride, scale);
    },

    kvStore(pages, qkv, page, offset, shape) {
      const [, k, v] = qkvAddresses(qkv, shape);
      const { kvHeads, headDim } = shape;
      checkPages(pages, qkv, shape);
      const T = dim(qkv, 0);
      const kernel = runtime.kernel(attentionKernels.store, { HEAD_DIM: headDim, X_TYPE: macroType(qkv.dtype) });
      const pieces = (T * 2 * kvHeads * paddedRow(headDim) * bytesPerElement(qkv.dtype)) / 16;
      const args = [pages.keys.address, pages.values.address, k, v, page.address, offset.address];
      const grid = [ceilDiv(pieces, STORE_THREADS), 1, 1] as const;
      runtime.launch(kernel, grid, STORE_THREADS, 0, ...args, T, kvHeads, qkv.rowStride);
    },

    attentionDecode(out, qkv, raw, transform, place, pageTable, promptLengths, completionLengths, shape) {
      const { pages } = place;
      const [q] = qkvAddresses(qkv, shape);
      const { heads, kvHeads, headDim, scale, window = 0 } = shape;
      checkOut(out, qkv, shape);
      checkPages(pages, qkv, shape);
      const [B, width] = [dim(qkv, 0), dim(pageTable, 1)];
      expectShape(
        dim(pageTable, 0) === B && pageTable.rowStride === width,
        `${pageTable.name}: ${pageTable.shape} for ${B} sequences`,
      );
      const types = { O_TYPE: macroType(out.dtype), X_TYPE: macroType(qkv.dtype) };
      const defines = { HEAD_DIM: headDim, ...types, HEADS: decodeHeads(shape), WINDOWED: window > 0 ? 1 : 0 };
      const splits = decodeSplits(B, width, shape, runtime.limits.multiprocessors);
      const partCount = splits > 1 ? B * heads * splits : 0;
      const sums = splits > 1 ? runtime.scratch(0, partCount * (paddedRow(headDim) + 2) * 4) : 0;
      const stats = sums + partCount * paddedRow(headDim) * 4;
      const tables = [pageTable.address, promptLengths.address, completionLengths.address, width];
      const args = [
        out.address,
        sums,
        stats,
        q,
        pages.keys.address,
        pages.values.address,
        ...tables,
        heads,
        kvHeads,
        window,
      ];
      const grid = [decodeBlocks(shape), B, splits] as const;
      transformHeads([qkv, null, null], raw, transform, place, shape);
      const decode = runtime.kernel(attentionKernels.decode, defines);
      runtime.launch(decode, grid, THREADS, 0, ...args, out.rowStride, qkv.rowStride, scale);
      if (splits === 1) return;
      const combine = runtime.kernel(attentionKernels.decodeCombine, defines);
      const combined = [out.address, sums, stats, heads, splits, out.rowStride];
      runtime.launch(combine, [heads, B, 1], THREADS, 0, ...combined);
    },
  };
}
