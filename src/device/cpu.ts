/**
 * The CPU device: the interface of device.ts on the kernels of ffi/cpu. Ops check shapes, pass addresses on, and run to
 * their end on all threads before they return.
 */
import { existsSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import { buildKernels, type CpuLibrary, openCpuLibrary } from "../../ffi/bindings/cpu.ts";
import { bytesAt, mapAnonymous } from "../../ffi/bindings/libc.ts";
import { InputError, RunError } from "../errors.ts";
import { bytesPerElement, type ComputeDType, type DType } from "../tensor/dtype.ts";
import { byteLength, elementCount, rowElements, type Tensor } from "../tensor/tensor.ts";
import { doPieces, type Pieces } from "./breathe.ts";
import {
  type AttentionShape,
  type Device,
  type NumberArray,
  type Ops,
  PAGE_TOKENS,
  SAMPLE_COUNTERS,
  type ScratchSizes,
  type Weight,
} from "./device.ts";

/** Columns of a weight panel, as in ffi/cpu/simd.h. */
const PANEL = 16;

/**
 * Instruction paths that have run on real hardware and passed the op suite there (docs/log.md has when and on what).
 * Only these are chosen unasked; the others wait for BUN_GRPO_CPU_PATH.
 */
export const provenPaths: readonly string[] = ["portable", "avx2", "avx512", "avx512bf16", "amx"];

/**
 * Paths whose products take bfloat16 operands when the weight is bfloat16, so that activations may be stored as such.
 * The others widen weights and multiply in float32.
 */
export const bfloat16Paths: readonly string[] = ["avx512bf16", "amx"];

export interface CpuOptions {
  /** Threads of the kernels; by default as many as this process may run. */
  readonly threads?: number | null;
  /** Instruction path; by default $BUN_GRPO_CPU_PATH, else the fastest proven one. */
  readonly path?: string;
  /** Counts calls and time per kernel; by default where $BUN_GRPO_TRACE is set. */
  readonly trace?: boolean;
  /** Called when the kernels are not in the cache and are compiled first. */
  readonly onBuild?: () => void;
  /** A kernel library to use as it is, instead of the one built from ffi/cpu. */
  readonly libraryFile?: string;
}

export interface CpuDevice extends Device {
  readonly kind: "cpu";
  readonly library: CpuLibrary;
  readonly path: string;
  readonly threads: number;
}

/** Cores by affinity mask and by the control group's quota, whichever is less. */
function usableThreads(library: CpuLibrary): number {
  const cores = library.availableThreads();
  const quotaFile = "/sys/fs/cgroup/cpu.max";
  if (!existsSync(quotaFile)) return cores;
  const [quota, period] = readFileSync(quotaFile, "utf8").trim().split(" ").map(Number);
  if (!quota || !period) return cores;
  return Math.max(1, Math.min(cores, Math.floor(quota / period)));
}

/** Uses the path from now on; false where the system refuses what it needs (AMX: the tile registers). */
function takesPath(library: Pick<CpuLibrary, "selectPath">, name: string): boolean {
  try {
    library.selectPath(name);
    return true;
  } catch (error) {
    if (error instanceof RunError) return false;
    throw error;
  }
}

/**
 * Uses the instruction path `asked` for, else the fastest proven one that the processor runs and the system permits.
 * Fastest for either number format: where a bfloat16 path is given float32 weights, its products are those of `avx512`.
 *
 * @throws InputError for one that is not compiled in, that the processor lacks, or that the system refuses.
 */
export function choosePath(library: Pick<CpuLibrary, "paths" | "selectPath">, asked: string | undefined): string {
  const names = library.paths.map((p) => p.name);
  if (asked) {
    const found = library.paths.find((p) => p.name === asked);
    if (!found)
      throw new InputError(`BUN_GRPO_CPU_PATH=${asked}: unknown instruction path; one of ${names.join(", ")}`);
    if (!found.supported)
      throw new InputError(`BUN_GRPO_CPU_PATH=${asked}: this processor has no such instructions; leave it unset`);
    if (!takesPath(library, asked))
      throw new InputError(
        `BUN_GRPO_CPU_PATH=${asked}: the system does not let this process use such registers; leave it unset`,
      );
    return asked;
  }
  const usable = library.paths.filter((p) => p.supported && provenPaths.includes(p.name));
  const chosen = usable.findLast(({ name }) => takesPath(library, name));
  if (!chosen) throw new RunError("the kernels have no instruction path that this machine runs");
  return chosen.name;
}

/**
 * Opens the CPU device, building its kernels at first use.
 *
 * @throws RunError when the kernels cannot be built or loaded; InputError for a path that is not there.
 */
export async function openCpuDevice(options: CpuOptions = {}): Promise<CpuDevice> {
  const libraryFile = options.libraryFile ?? (await buildKernels(options.onBuild)).library;
  const library = openCpuLibrary(libraryFile, { trace: options.trace ?? !!process.env.BUN_GRPO_TRACE });
  const path = choosePath(library, options.path ?? process.env.BUN_GRPO_CPU_PATH);
  const threads = library.setThreads(options.threads ?? usableThreads(library));
  const recorded = new Map<string, () => Pieces>();
  const peaks = new Map<ComputeDType, number>();
  const allocate = (bytes: number, what: string) => {
    try {
      return mapAnonymous(Math.max(bytes, 1));
    } catch {
      throw new RunError(
        `${what}: the system refused ${(bytes / 2 ** 20).toFixed(0)} MiB; lower micro_batch_tokens, max_completion_length or max_concurrent_sequences (grpo plan shows what each takes)`,
      );
    }
  };
  const device: CpuDevice = {
    kind: "cpu",
    library,
    path,
    threads,
    description: `CPU ${cpus()[0]?.model.trim() ?? process.arch}, ${path}, ${threads} thread${threads === 1 ? "" : "s"}`,
    numericsKey: `cpu ${process.arch} ${path}`,
    exactlyOnPolicy: true,
    ops: cpuOps(library),
    peakFlops(dtype) {
      const peak = peaks.get(dtype) ?? library.peakGflops(30, dtype) * 1e9;
      peaks.set(dtype, peak);
      return peak;
    },
    headBytes: 48 * 2 ** 20,
    freeBytes: () => null,
    heldBytes: () => null,
    allocate,
    allocateHost: allocate,
    upload(target, data) {
      const bytes = byteLength(target);
      if (data.byteLength > bytes) throw new RangeError(`${target.name}: ${data.byteLength} bytes into ${bytes}`);
      const source = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      if (source.length > 0) new Uint8Array(bytesAt(target.address, source.length)).set(source);
    },
    download: (source) => copyOut(source),
    read: async (source) => copyOut(source),
    traceLines() {
      const entries = [...library.trace]
        .filter(([, { calls }]) => calls > 0)
        .sort((a, b) => b[1].seconds - a[1].seconds);
      return entries.map(
        ([name, { calls, seconds }]) =>
          `${name.padEnd(26)} ${String(calls).padStart(10)} calls ${seconds.toFixed(3).padStart(10)} s`,
      );
    },
    activationDType: (dtype) => (bfloat16Paths.includes(path) ? dtype : "float32"),
    gradientDType: () => "float32",
    decodeBucket: (sequences) => sequences,
    parameterElements(shape) {
      if (shape.length !== 2) return elementCount(shape);
      const [n = 0, k = 0] = shape;
      return Math.ceil(n / PANEL) * PANEL * k;
    },
    pageElements({ kvHeads, headDim }) {
      return { keys: kvHeads * PAGE_TOKENS * headDim, values: kvHeads * PAGE_TOKENS * padded(headDim) };
    },
    attentionScratchElements: ({ kvHeads, headDim }) => kvHeads * 2 * padded(headDim),
    scratchBytes(...sizes) {
      const perThread = Math.max(...sizes.map(scratchPerThread));
      if (!bfloat16Paths.includes(path)) return threads * perThread;
      return threads * (perThread + PAIRED_BYTES) + Math.max(...sizes.map(convertedBytes));
    },
    prepare() {}, // threads hold scratch of their own and grow it
    loadParameter(w, address, dtype, from, count) {
      if (w.shape.length === 2) {
        const [n = 0, k = 0] = w.shape;
        library.kernels.weight_pack(w.address, address, from, count, n, k, code(w.dtype), code(dtype));
      } else {
        const target = w.address + from * bytesPerElement(w.dtype);
        library.kernels.cast(target, address, count, code(w.dtype), code(dtype));
      }
    },
    saveParameter(address, dtype, w, from, count) {
      if (w.shape.length === 2) {
        library.kernels.weight_unpack(address, w.address, from, count, w.shape[1] ?? 0, code(dtype), code(w.dtype));
      } else {
        const source = w.address + from * bytesPerElement(w.dtype);
        library.kernels.cast(address, source, count, code(dtype), code(w.dtype));
      }
    },
    record(key, work) {
      recorded.set(key, work);
      return doPieces(work());
    },
    replay(key) {
      const work = recorded.get(key);
      if (!work) throw new Error(`nothing recorded under ${key}`);
      return doPieces(work());
    },
    forget(prefix) {
      for (const key of [...recorded.keys()]) if (key.startsWith(prefix)) recorded.delete(key);
    },
    close() {}, // the kernels stay for the next device of this process
  };
  return device;
}

function padded(headDim: number): number {
  return Math.ceil(headDim / PANEL) * PANEL;
}

/** An upper bound of one thread's scratch memory over all kernels: the sum of its slots' largest uses. */
function scratchPerThread(s: ScratchSizes): number {
  const { heads, kvHeads, headDim } = s.attention;
  const group = heads / kvHeads;
  const keys = s.longest + 2 * PAGE_TOKENS;
  const deepest = Math.max(s.hiddenSize, s.intermediateSize, heads * headDim);
  const rowBlock = Math.min(s.tokens, 480);
  const activations = 4 * Math.max(384 * 1024, 96 * deepest);
  const attention = 4 * keys * (2 * headDim + 3 * padded(headDim));
  const queries = 4 * PAGE_TOKENS * group * (3 * padded(headDim) + 2 * PAGE_TOKENS + 64);
  const sums = 4 * rowBlock * Math.min(deepest, PANEL * Math.ceil((deepest * s.tokens) / (PANEL * 480 * 64) + 1));
  return Math.max(activations, attention, 4 * s.vocabSize) + Math.max(queries, sums, 4 * s.vocabSize) + 8 * s.vocabSize;
}

/** What a thread of a bfloat16 path holds beside: sums of 480 rows by 16 panels, and 512 rows of two panels. */
const PAIRED_BYTES = 4 * 480 * 16 * PANEL + 2 * 512 * 2 * PANEL;

/** An upper bound of the operand that such a path converts for all threads, as ffi/cpu/path_bf16.cpp cuts it. */
function convertedBytes(s: ScratchSizes): number {
  const { heads, kvHeads, headDim } = s.attention;
  const [limit, whole] = [32 * 2 ** 20, (n: number) => Math.ceil(n / 32) * 32];
  const outputs = whole(Math.max(s.vocabSize, 2 * s.intermediateSize, s.hiddenSize, (heads + 2 * kvHeads) * headDim));
  const inputs = whole(Math.max(s.hiddenSize, s.intermediateSize, heads * headDim));
  const gradient = 2 * outputs * Math.min(s.tokens, Math.max(limit / (2 * outputs), 96));
  const transposed = 2 * inputs * Math.min(whole(s.tokens), Math.max(limit / (2 * inputs), 512));
  return Math.ceil(Math.max(gradient, transposed) / 4096) * 4096;
}

function code(dtype: DType): number {
  if (dtype === "float32") return 0;
  if (dtype === "bfloat16") return 1;
  if (dtype === "float16") return 2;
  throw new TypeError(`kernels do not take ${dtype}`);
}

function copyOut(source: Tensor): NumberArray {
  if (source.rowStride !== rowElements(source)) throw new RangeError(`${source.name}: only packed tensors are read`);
  const bytes = byteLength(source);
  const copy = bytes > 0 ? bytesAt(source.address, bytes).slice(0) : new ArrayBuffer(0);
  switch (source.dtype) {
    case "float32":
      return new Float32Array(copy);
    case "float64":
      return new Float64Array(copy);
    case "int32":
      return new Int32Array(copy);
    case "uint32":
      return new Uint32Array(copy);
    default:
      return new Uint16Array(copy);
  }
}

function dim(t: Tensor | Weight, index: number): number {
  return t.shape[index] ?? 1;
}

/** @throws RangeError naming the op and what does not fit: always a bug of the caller, never of the input. */
function require(condition: boolean, what: string): void {
  if (!condition) throw new RangeError(what);
}

/** What logits are multiplied by: rounded as `sample` rounds it, or the two would differ in their last bits. */
function inverseTemperature(temperature: number): number {
  return Math.fround(1 / Math.fround(temperature));
}

/** Extents of q, k and v inside a fused row. */
function qkvParts(qkv: Tensor, { heads, kvHeads, headDim }: AttentionShape) {
  const size = bytesPerElement(qkv.dtype);
  require(dim(qkv, 1) === (heads + 2 * kvHeads) * headDim, `${qkv.name}: ${qkv.shape} is not q, k and v side by side`);
  return {
    q: qkv.address,
    k: qkv.address + heads * headDim * size,
    v: qkv.address + (heads + kvHeads) * headDim * size,
  };
}

function cpuOps({ kernels }: CpuLibrary): Ops {
  const ops: Ops = {
    matmulForward(y, x, w, bias, accumulate = false) {
      const [m, n, k] = [dim(x, 0), dim(w, 0), dim(w, 1)];
      require(dim(x, 1) === k &&
        dim(y, 0) === m &&
        dim(y, 1) === n, `${w.name}: ${y.shape} = ${x.shape} · ${w.shape}ᵀ`);
      const types = [code(y.dtype), code(x.dtype), code(w.dtype)] as const;
      kernels.matmul_forward(
        y.address,
        x.address,
        w.address,
        bias?.address ?? 0,
        m,
        n,
        k,
        y.rowStride,
        x.rowStride,
        ...types,
        accumulate ? 1 : 0,
      );
    },
    matmulBackwardInput(dx, dy, w, accumulate = false) {
      const [m, n, k] = [dim(dy, 0), dim(w, 0), dim(w, 1)];
      require(dim(dx, 0) === m &&
        dim(dx, 1) === k &&
        dim(dy, 1) === n, `${w.name}: ${dx.shape} = ${dy.shape} · ${w.shape}`);
      const types = [code(dx.dtype), code(dy.dtype), code(w.dtype)] as const;
      kernels.matmul_backward_input(
        dx.address,
        dy.address,
        w.address,
        m,
        n,
        k,
        dx.rowStride,
        dy.rowStride,
        ...types,
        accumulate ? 1 : 0,
      );
    },
    matmulBackwardWeight(dw, dy, x, w) {
      const [m, n, k] = [dim(dy, 0), dim(w, 0), dim(w, 1)];
      require(dim(x, 0) === m &&
        dim(x, 1) === k &&
        dim(dy, 1) === n, `${w.name}: ${w.shape} += ${dy.shape}ᵀ · ${x.shape}`);
      const types = [code(dy.dtype), code(x.dtype)] as const;
      kernels.matmul_backward_weight(dw.address, dy.address, x.address, m, n, k, dy.rowStride, x.rowStride, ...types);
    },
    biasBackward(dbias, dy) {
      kernels.bias_backward(dbias.address, dy.address, dim(dy, 0), dim(dy, 1), dy.rowStride, code(dy.dtype));
    },
    embeddingForward(x, ids, w) {
      kernels.embedding_forward(x.address, ids.address, w.address, dim(x, 0), dim(w, 1), code(w.dtype));
    },
    embeddingBackward(dw, dx, ids, w) {
      kernels.embedding_backward(dw.address, dx.address, ids.address, dim(dx, 0), dim(w, 1));
    },
    rmsnormForward(y, rstd, x, weight, epsilon, heads = 1) {
      const d = dim(weight, 0);
      require(dim(x, 1) === heads * d && dim(y, 0) === dim(x, 0), `${weight.name}: ${y.shape} from ${x.shape} by ${d}`);
      const types = [code(y.dtype), code(x.dtype), code(weight.dtype)] as const;
      kernels.rmsnorm_forward(
        y.address,
        rstd?.address ?? 0,
        x.address,
        weight.address,
        dim(x, 0),
        heads,
        d,
        y.rowStride,
        x.rowStride,
        epsilon,
        ...types,
      );
    },
    rmsnormBackward(dx, dweight, dy, x, weight, rstd, dresidual, heads = 1) {
      require(dresidual === null || dresidual.rowStride === dx.rowStride, `${weight.name}: dresidual and dx differ`);
      kernels.rmsnorm_backward(
        dx.address,
        dweight?.address ?? 0,
        dy.address,
        x.address,
        weight.address,
        rstd.address,
        dresidual?.address ?? 0,
        dim(x, 0),
        heads,
        dim(weight, 0),
        dx.rowStride,
        dy.rowStride,
        x.rowStride,
        code(x.dtype),
        code(weight.dtype),
      );
    },
    ropeForward(x, positions, cos, sin, headDim) {
      const [t, h] = [dim(x, 0), dim(x, 1) / headDim];
      kernels.rope_forward(
        x.address,
        positions.address,
        cos.address,
        sin.address,
        t,
        h,
        headDim,
        x.rowStride,
        code(x.dtype),
      );
    },
    ropeBackward(dx, positions, cos, sin, headDim) {
      const [t, h] = [dim(dx, 0), dim(dx, 1) / headDim];
      kernels.rope_backward(dx.address, positions.address, cos.address, sin.address, t, h, headDim, dx.rowStride);
    },
    attentionForward(out, lse, qkv, segments, shape) {
      const { q, k, v } = qkvParts(qkv, shape);
      kernels.attention_forward(
        out.address,
        lse?.address ?? 0,
        q,
        k,
        v,
        segments.address,
        dim(segments, 0),
        dim(qkv, 0),
        shape.heads,
        shape.kvHeads,
        shape.headDim,
        out.rowStride,
        qkv.rowStride,
        shape.scale,
        code(qkv.dtype),
      );
    },
    attentionBackward(dqkv, dout, qkv, out, lse, segments, scratch, shape) {
      const { q, k, v } = qkvParts(qkv, shape);
      const d = qkvParts(dqkv, shape);
      require(dqkv.rowStride === qkv.rowStride && dout.rowStride === out.rowStride, "attention: row strides differ");
      kernels.attention_backward(
        d.q,
        d.k,
        d.v,
        dout.address,
        q,
        k,
        v,
        out.address,
        lse.address,
        segments.address,
        scratch.address,
        dim(scratch, 0),
        dim(segments, 0),
        dim(qkv, 0),
        shape.heads,
        shape.kvHeads,
        shape.headDim,
        qkv.rowStride,
        out.rowStride,
        shape.scale,
        code(qkv.dtype),
      );
    },
    kvStore(pages, qkv, page, offset, shape) {
      const { k, v } = qkvParts(qkv, shape);
      kernels.kv_store(
        pages.keys.address,
        pages.values.address,
        k,
        v,
        page.address,
        offset.address,
        dim(qkv, 0),
        shape.kvHeads,
        shape.headDim,
        qkv.rowStride,
        code(qkv.dtype),
      );
    },
    attentionDecode(out, qkv, pages, pageTable, promptLengths, completionLengths, shape) {
      const { q } = qkvParts(qkv, shape);
      kernels.attention_decode(
        out.address,
        q,
        pages.keys.address,
        pages.values.address,
        pageTable.address,
        promptLengths.address,
        completionLengths.address,
        dim(qkv, 0),
        pageTable.rowStride,
        shape.heads,
        shape.kvHeads,
        shape.headDim,
        out.rowStride,
        qkv.rowStride,
        shape.scale,
        code(qkv.dtype),
      );
    },
    gluForward(y, x, gelu) {
      kernels.glu_forward(y.address, x.address, dim(y, 0), dim(y, 1), gelu ? 1 : 0, code(x.dtype));
    },
    gluBackward(dx, dy, x, gelu) {
      kernels.glu_backward(dx.address, dy.address, x.address, dim(dy, 0), dim(dy, 1), gelu ? 1 : 0, code(x.dtype));
    },
    lmHeadForward(logprob, entropy, lse, logits, hidden, w, entryStart, targets, temperature) {
      ops.matmulForward(logits, hidden, w, null);
      kernels.log_softmax_forward(
        logprob.address,
        entropy.address,
        lse.address,
        logits.address,
        entryStart.address,
        targets.address,
        dim(hidden, 0),
        dim(w, 0),
        inverseTemperature(temperature),
      );
    },
    lmHeadBackward(dhidden, dw, logits, dlogprob, dentropy, hidden, w, entryStart, targets, lse, entropy, temperature) {
      ops.matmulForward(logits, hidden, w, null);
      kernels.log_softmax_backward(
        logits.address,
        logits.address,
        dlogprob.address,
        dentropy.address,
        entryStart.address,
        targets.address,
        lse.address,
        entropy.address,
        dim(hidden, 0),
        dim(w, 0),
        inverseTemperature(temperature),
      );
      ops.matmulBackwardInput(dhidden, logits, w);
      if (dw) ops.matmulBackwardWeight(dw, logits, hidden, w);
    },
    sample(ids, logprob, samplingLogprob, logits, logitRow, counters, seen, settings) {
      require(counters.rowStride === SAMPLE_COUNTERS, `${counters.name}: rows of ${SAMPLE_COUNTERS}`);
      kernels.sample(
        ids.address,
        logprob.address,
        samplingLogprob.address,
        logits.address,
        logitRow.address,
        counters.address,
        seen?.address ?? 0,
        dim(ids, 0),
        dim(logits, 1),
        settings.seed >>> 0,
        settings.stream >>> 0,
        settings.temperature,
        settings.topK,
        settings.topP,
        settings.minP,
        seen ? settings.repetitionPenalty : 1,
      );
    },
    adamw(w, master, m, v, g, settings) {
      // The corrections are of the betas that the kernel works with: 1 − 0.999 differs by 1e-5 in float32.
      const [beta1, beta2, step] = [Math.fround(settings.beta1), Math.fround(settings.beta2), settings.step];
      kernels.adamw(
        w.address,
        master.address,
        m.address,
        v.address,
        g.address,
        w.elements,
        settings.learningRate,
        beta1,
        beta2,
        settings.epsilon,
        settings.weightDecay,
        1 - beta1 ** step,
        1 - beta2 ** step,
        settings.gradientScale,
        code(w.dtype),
      );
    },
    sumSquares: (sum, x) => kernels.sum_squares(sum.address, x.address, elementCount(x.shape)),
    scale: (x, factor) => kernels.scale(x.address, elementCount(x.shape), factor),
    add: (y, x) => kernels.add(y.address, x.address, elementCount(x.shape)),
    fill: (x, value) => kernels.fill(x.address, elementCount(x.shape), value),
    cast: (y, x) => kernels.cast(y.address, x.address, elementCount(x.shape), code(y.dtype), code(x.dtype)),
    gatherRows: (y, x, index) => kernels.gather_rows(y.address, x.address, index.address, dim(y, 0), dim(y, 1)),
    scatterRows: (dx, dy, index) =>
      kernels.scatter_rows(dx.address, dy.address, index.address, dim(dy, 0), dim(dx, 0), dim(dx, 1)),
  };
  return ops;
}
