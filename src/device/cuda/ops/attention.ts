/**
 * Launches of ffi/cuda/heads.cu, attention_forward.cu, attention_forward_float32.cu, kv_store.cu and
 * attention_decode.cu, and the page size of the key-value cache. The backward pass is in attention-backward.ts.
 */
import { InputError } from "../../../errors.ts";
import { bytesPerElement } from "../../../tensor/dtype.ts";
import type { Tensor } from "../../../tensor/tensor.ts";
import { type AttentionShape, type KeyValuePages, type Ops, PAGE_TOKENS } from "../../device.ts";
import { dim, expectShape, headsArguments, qkvAddresses } from "../../operands.ts";
import { COUNTERS } from "../counters.ts";
import { type CudaRuntime, type Defines, type KernelDefinition, macroType, type ScratchBound } from "../runtime.ts";
import { ceilDiv, powerOfTwo, unitElements } from "../threads.ts";
import { takesWarpgroups, warpgroupForward } from "./attention-warpgroup.ts";

/** The largest head size whose tiles fit shared memory and registers. */
export const LARGEST_HEAD = 256;
const THREADS = 128;
const STORE_THREADS = 256;
/** Most query heads of one key head that a block of attention_decode takes at once, and its warps, which share the pages. */
const DECODE_HEADS = 8;
const DECODE_WARPS = THREADS / 32;
/** With fewer blocks of attention_decode per multiprocessor, the pages of a sequence are split. */
const DECODE_BLOCKS = 3;

function variants(types: readonly string[], roles: readonly string[]): Defines[] {
  return types.flatMap((type) =>
    [64, 128].map((HEAD_DIM) => ({ HEAD_DIM, ...Object.fromEntries(roles.map((role) => [role, type])) })),
  );
}

/** The same variants for layers with a window, of one head size. */
export const windowed = (plain: readonly Defines[]): Defines[] => [
  ...plain.map((variant) => ({ ...variant, WINDOWED: 0 })),
  ...plain.slice(0, 1).map((variant) => ({ ...variant, WINDOWED: 1 })),
];
const isWindowed = ({ window }: AttentionShape): Defines => ({ WINDOWED: window === undefined ? 0 : 1 });

/** Elements of a page's row: a multiple of 16 bytes in either type. */
function paddedRow(headDim: number): number {
  return ceilDiv(headDim, 8) * 8;
}

const pageSizes = ({ HEAD_DIM }: Defines) => ({ PAGE_TOKENS, PADDED: paddedRow(Number(HEAD_DIM)) });
/**
 * Blocks of attention_decode that fit a multiprocessor, from which the registers that a thread may take follow. A GPU's
 * memory is busy with some 25 KB a multiprocessor under way; a warp has 4 KB, or with 8 heads 2.
 */
const decodeResident = ({ HEAD_DIM, HEADS, MANY }: Defines) =>
  Number(HEAD_DIM) > 128 || MANY ? 2 : Number(HEADS) <= 2 ? 4 : 3;
const decodeSizes = (variant: Defines) => ({ THREADS, BLOCKS: decodeResident(variant), ...pageSizes(variant) });
/** Groups of query heads of usual models: 2 (Qwen3-0.6B), 3 and 4, 7 (Qwen2.5-0.5B), and more; in float32 one of them. */
const decodeTypes = ["O_TYPE", "X_TYPE", "W_TYPE"];
const decodeVariants = windowed([
  ...variants(["float"], decodeTypes).map((variant) => ({ ...variant, HEADS: 4, MANY: 0 })),
  ...variants(["bf16"], decodeTypes).flatMap((variant) => [
    ...[2, 4, DECODE_HEADS].map((HEADS) => ({ ...variant, HEADS, MANY: 0 })),
    { ...variant, HEADS: DECODE_HEADS, MANY: 1 },
  ]),
]);

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
      "qkv:ptr rstd_q:ptr rstd_k:ptr raw:ptr weight_q:ptr weight_k:ptr positions:ptr cos:ptr sin:ptr T:i32 H:i32 Hkv:i32 " +
      "ldqkv:i64 ldraw:i64 eps:f32 norm_offset:f32",
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
      "out:ptr sums:ptr stats:ptr arrived:ptr key_pages:ptr value_pages:ptr raw:ptr weight_q:ptr weight_k:ptr positions:ptr " +
      "cos:ptr sin:ptr page:ptr offset:ptr page_table:ptr prompt_lengths:ptr completion_lengths:ptr table_width:i32 H:i32 " +
      "Hkv:i32 window:i32 ldo:i64 ldraw:i64 eps:f32 norm_offset:f32 scale:f32",
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

/** Query heads that a block of attention_decode takes at once: the smallest power of two that holds a group, or else the most. */
function decodeHeads({ heads, kvHeads }: AttentionShape): Defines {
  const group = heads / kvHeads;
  return { HEADS: powerOfTwo(group, 1, DECODE_HEADS), MANY: Number(group > DECODE_HEADS) };
}

/**
 * Splits of each sequence's pages. Depends only on buffer sizes, since a recorded launch serves any lengths. Blocks of a
 * sequence's key head count themselves, so there is a counter for each.
 */
function decodeSplits(B: number, tableWidth: number, { kvHeads }: AttentionShape, multiprocessors: number): number {
  const blocks = Math.max(B, 1) * kvHeads;
  if (blocks > COUNTERS) return 1;
  const wanted = ceilDiv(DECODE_BLOCKS * multiprocessors, blocks);
  return Math.max(1, Math.min(wanted, ceilDiv(tableWidth, DECODE_WARPS)));
}

/** If pages are split, there are fewer than twice the wanted number of blocks. */
export const attentionScratch: ScratchBound = ({ attention }, { multiprocessors }) => {
  const parts = (2 * DECODE_BLOCKS * multiprocessors * attention.heads) / attention.kvHeads;
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
  return {
    headsForward(qkv, rstdQ, rstdK, raw, norms, positions, cos, sin, shape) {
      const { buffers, sizes, strides } = headsArguments(qkv, raw, { norms, positions, cos, sin }, shape);
      const [T = 0, H = 0, Hkv = 0] = sizes;
      expectShape(qkv.dtype === raw.dtype, `${qkv.name}: ${qkv.dtype} from ${raw.dtype}`);
      const types = { X_TYPE: macroType(qkv.dtype), W_TYPE: macroType(norms.q.dtype) };
      const kernel = runtime.kernel(attentionKernels.heads, { HEAD_DIM: shape.headDim, ...types });
      const outputs = [qkv.address, rstdQ?.address ?? 0, rstdK?.address ?? 0];
      const lanes = powerOfTwo(ceilDiv(shape.headDim / 2, unitElements(qkv, norms.q)), 1, 32);
      const grid = [ceilDiv(T * (H + 2 * Hkv), THREADS / lanes), 1, 1] as const;
      runtime.launch(
        kernel,
        grid,
        THREADS,
        0,
        ...outputs,
        ...buffers,
        T,
        H,
        Hkv,
        ...strides,
        norms.epsilon,
        norms.q.offset ?? 0,
      );
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
      if (shape.window === undefined && takesWarpgroups(runtime, [out, qkv], headDim)) {
        warpgroupForward(runtime, out, lse, qkv, segments, shape);
        return;
      }
      const bfloat16 = qkv.dtype === "bfloat16";
      const definition = bfloat16 ? attentionKernels.forward : attentionKernels.forwardFloat32;
      const defines = { HEAD_DIM: headDim, O_TYPE: macroType(out.dtype), ...isWindowed(shape) };
      const kernel = runtime.kernel(definition, defines);
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
      const { norms } = transform;
      const { pages, page, offset } = place;
      const { heads, kvHeads, headDim, scale, window = 0 } = shape;
      const { buffers } = headsArguments(qkv, raw, transform, shape);
      checkHeads(shape);
      checkOut(out, raw, shape);
      checkPages(pages, raw, shape);
      const [B, width] = [dim(raw, 0), dim(pageTable, 1)];
      expectShape(
        dim(pageTable, 0) === B && pageTable.rowStride === width,
        `${pageTable.name}: ${pageTable.shape} for ${B} sequences`,
      );
      const types = [out.dtype, raw.dtype, (norms?.q ?? raw).dtype].map(macroType);
      const [O_TYPE = "", X_TYPE = "", W_TYPE = ""] = types;
      const kernel = runtime.kernel(attentionKernels.decode, {
        ...{ HEAD_DIM: headDim, O_TYPE, X_TYPE, W_TYPE },
        ...decodeHeads(shape),
        ...isWindowed(shape),
      });
      const splits = decodeSplits(B, width, shape, runtime.limits.multiprocessors);
      const partCount = splits > 1 ? B * heads * splits : 0;
      const sums = splits > 1 ? runtime.scratch(0, partCount * (paddedRow(headDim) + 2) * 4) : 0;
      const stats = sums + partCount * paddedRow(headDim) * 4;
      const outputs = [out.address, sums, stats, runtime.counters, pages.keys.address, pages.values.address];
      const tables = [page, offset, pageTable, promptLengths, completionLengths].map(({ address }) => address);
      const sizes = [width, heads, kvHeads, window, out.rowStride, raw.rowStride];
      const scalars = [norms?.epsilon ?? 0, norms?.q.offset ?? 0, scale];
      const args = [...outputs, ...buffers, ...tables, ...sizes, ...scalars];
      runtime.launch(kernel, [kvHeads, B, splits], THREADS, 0, ...args);
    },
  };
}
