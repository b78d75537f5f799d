/**
 * The interface between the model and the hardware: memory, parameters and ops. `cpu/device.ts` and `cuda/device.ts`
 * implement it.
 *
 * Legend of shapes, here and in every file that passes tensors:
 *   T tokens of a packed batch   S segments        D hidden size     F intermediate size
 *   H query heads                Hkv key heads     Dh head size      V vocabulary
 *   B sequences being decoded    N rows, outputs   K inputs of a product
 *
 * Argument order: outputs, inputs, saved statistics, sizes, scalars. A gradient has the forward name with the prefix
 * `d`. Gradients of parameters are accumulated (+=), gradients of activations are written (=). Gradients of parameters
 * and of the residual stream are float32, like the stream itself; "act" below is the type of activations
 * (Device.activationDType), "grad" that of their gradients (Device.gradientDType).
 */

import type { ComputeDType, DType } from "../tensor/dtype.ts";
import type { Nf4Layout } from "../tensor/nf4.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Pieces } from "./breathe.ts";

/**
 * A parameter in the backend's own layout. A matrix (N, K) may be permuted and padded; `elements` counts the padding.
 * Gradient, master weights and Adam moments of a parameter are flat tensors of `elements` in the same order, float32 but
 * for masters of some devices (Device.masterDType), and padding stays zero in all of them.
 */
export interface Weight {
  readonly name: string;
  readonly address: number;
  readonly dtype: ComputeDType;
  /** [N, K] for a matrix, [N] for a norm's weight or a bias. */
  readonly shape: readonly number[];
  readonly elements: number;
  /** A matrix in NF4: one buffer of `elements` bytes (Device.nf4Layout), whose numbers and what belongs to them are `dtype`. */
  readonly quantized?: "nf4";
  /** Of a norm: what is added to the weight before it multiplies; 0 by default, 1 in Gemma's models. */
  readonly offset?: number;
  /** If this is a master or moment in the layout of a parameter of another type: that type, which decides the layout. */
  readonly layoutOf?: ComputeDType;
  /** If these are masters in two halves (Device.masterDType): where the upper ones are, which are the parameter itself. */
  readonly upper?: number;
}

/** Weights of one shape, one for each expert, in memory at equal distances. */
export interface ExpertWeights {
  /** Of the first one. */
  readonly first: Weight; // (N, K)
  readonly count: number; // E
}

/** Where the pairs of a token and one of its k experts are, when they lie side by side by expert. */
export interface PairPlaces {
  /** Where an expert's pairs begin, and the number of all. */
  readonly offsets: Tensor; // int32 (E + 1)
  /** t · k + i of each pair of token t and its i-th expert, by expert and then by token. */
  readonly order: Tensor; // int32 (T · k)
  /** The place of each pair in that order. */
  readonly places: Tensor; // int32 (T, k)
}

/** A router's choice for each token. */
export interface Routes {
  readonly weights: Tensor; // float32 (T, k)
  readonly experts: Tensor; // int32 (T, k)
  readonly probabilities: Tensor; // float32 (T, E)
}

/** Memory that the device owns. */
export interface DeviceMemory {
  readonly address: number;
  readonly byteLength: number;
  free(): void;
}

export type NumberArray = Float32Array | Float64Array | Int32Array | Uint32Array | Uint16Array | Uint8Array;

/** Paged keys and values of one layer; a page is a block of 64 tokens. */
export interface KeyValuePages {
  readonly keys: Tensor; // act (pages, pageElements.keys)
  readonly values: Tensor; // act (pages, pageElements.values)
}

export interface AttentionShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Multiplies q·k, usually 1/√Dh. */
  readonly scale: number;
  /** A token attends to itself and to the window − 1 tokens before it, counted through its prompt; all by default. */
  readonly window?: number;
}

/** What q and k go through between their products and attention. */
export interface HeadTransform {
  /** RMS norms over each head; null if the layer has none. */
  readonly norms: HeadNorms | null;
  readonly positions: Tensor; // (T)
  readonly cos: Tensor; // (positions, Dh/2) float32, as sin
  readonly sin: Tensor;
}

export interface HeadNorms {
  readonly q: Weight; // (Dh)
  readonly k: Weight; // (Dh)
  readonly epsilon: number;
}

/** Where the key and the value of each new token are stored. */
export interface CachePlace {
  readonly pages: KeyValuePages;
  readonly page: Tensor; // (T)
  readonly offset: Tensor; // (T)
}

export interface SamplingSettings {
  /** Key of the random numbers: the run's seed, and a stream (one for training, one for evaluation). */
  readonly seed: number;
  readonly stream: number;
  /** 0 is greedy. */
  readonly temperature: number;
  /** 0 keeps all. */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
}

export interface AdamWSettings {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  /** 1-based step, for the bias correction. */
  readonly step: number;
  /** Factor on the gradient: the clipping coefficient. */
  readonly gradientScale: number;
  /** Whose random numbers round a bfloat16 parameter that has no master; left out, all are 0. */
  readonly rounding?: RandomRounding;
}

/**
 * Random numbers for stochastic rounding: Philox4x32-10 under the key (seed, stream), counted by (element ÷ 8, step,
 * parameter), 16 bits for each element in the order in which the parameter lies.
 */
export interface RandomRounding {
  readonly seed: number;
  readonly stream: number;
  /** Its number among the optimizer's parameters. */
  readonly parameter: number;
  /** The parameter's element with which the tensors begin, a multiple of 8; 0 by default. */
  readonly first?: number;
}

/** A moment in 8 bits: codes of a dynamic map, and for every 256 elements in the order in which they lie the largest magnitude. */
export interface QuantizedMoment {
  readonly codes: Tensor; // uint8 (elements)
  readonly absmax: Tensor; // float32 (⌈elements ÷ 256⌉)
}

/** The dynamic maps of both moments, m's (signed) first, and the codes of evenly spread numbers in [−1, 1]. */
export interface MomentMaps {
  readonly numbers: Tensor; // float32 (2, 256)
  readonly nearest: Tensor; // uint8 (2, 65536)
}

/** A soft cap on logits: they are cap · tanh(logits / cap) (Gemma Team 2024, arXiv 2408.00118). */
export interface LogitCap {
  readonly cap: number;
  /** Room for the gradient of a chunk of capped logits, (N, V) float32; null in forward passes. */
  readonly dlogits: Tensor | null;
}

/** Columns of `counters` in `sample`: position, sample, prompt, step, slot. */
export const SAMPLE_COUNTERS = 5;
/** Tokens in a page of the key-value cache, and keys in a block of every attention op. */
export const PAGE_TOKENS = 64;

/** What an adapter adds to some columns of a product. */
export interface AdapterTerm {
  readonly down: Tensor; // act (M, r)
  readonly b: Weight; // (columns, r)
  /** The first column: a multiple of `Device.rowBlock`. No two terms share columns. */
  readonly from: number;
}

export interface Ops {
  /** y (M, N) = factor · x (M, K) · wᵀ + bias; `accumulate`: y += … (the residual add). y: act or float32. */
  matmulForward(y: Tensor, x: Tensor, w: Weight, bias: Weight | null, accumulate?: boolean, factor?: number): void;
  /**
   * y (M, N) = x · wᵀ + bias, + down · bᵀ in the columns of each term (the outputs of low-rank adapters); `accumulate`:
   * y += … Sums of a term go on with those of x · wᵀ where the device fuses them.
   */
  adaptedForward(
    y: Tensor,
    x: Tensor,
    w: Weight,
    bias: Weight | null,
    terms: readonly AdapterTerm[],
    accumulate?: boolean,
  ): void;
  /** dx (M, K) = factor · dy (M, N) · w; `accumulate`: dx += …, for an input that feeds several products. */
  matmulBackwardInput(dx: Tensor, dy: Tensor, w: Weight, accumulate?: boolean, factor?: number): void;
  /** dw += dyᵀ · x */
  matmulBackwardWeight(dw: Tensor, dy: Tensor, x: Tensor, w: Weight): void;
  /** dbias (N) += column sums of dy (M, N) */
  biasBackward(dbias: Tensor, dy: Tensor): void;

  /** tokens (B) = ids[from] where from (B) ≥ 0, and 0 where that id is −1; the others stay as they are. */
  nextTokens(tokens: Tensor, ids: Tensor, from: Tensor): void;
  /** x (T, D) float32 = rows `ids` of w (V, D) */
  embeddingForward(x: Tensor, ids: Tensor, w: Weight): void;
  /** dw (V, D) += dx (T, D) at those rows, tokens in order */
  embeddingBackward(dw: Tensor, dx: Tensor, ids: Tensor, w: Weight): void;

  /** y = x / rms(x) · (offset + weight), over the last dimension: x is (T, D) or (T, H·D) with `heads` H; rstd (T, H) is saved. */
  rmsnormForward(y: Tensor, rstd: Tensor | null, x: Tensor, weight: Weight, epsilon: number, heads?: number): void;
  /** dx = gradient through the norm + dresidual (null: 0; it may be dx itself); dweight += (null: not wanted) */
  rmsnormBackward(
    dx: Tensor,
    dweight: Tensor | null,
    dy: Tensor,
    x: Tensor,
    weight: Weight,
    rstd: Tensor,
    dresidual: Tensor | null,
    heads?: number,
  ): void;

  /** Rotates x (T, H·Dh) in place by its tokens' positions; cos, sin (positions, Dh/2) float32 */
  ropeForward(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, headDim: number): void;
  /** Rotates dx (T, H·Dh) grad back, in place */
  ropeBackward(dx: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, headDim: number): void;

  /**
   * qkv (T, (H + 2·Hkv)·Dh) = raw with the heads of q and k normalized, then rotated as by ropeForward; rstdQ (T, H) and
   * rstdK (T, Hkv) are saved.
   */
  headsForward(
    qkv: Tensor,
    rstdQ: Tensor | null,
    rstdK: Tensor | null,
    raw: Tensor,
    norms: HeadNorms,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    shape: AttentionShape,
  ): void;

  /**
   * out (T, H·Dh), lse (T, H) = causal attention over packed segments. `segments` (S, 4): start, length, prefix start,
   * prefix length, in rows; a segment attends to its whole prefix, which is exactly one earlier segment, and its own
   * past. Segments with the same prefix follow it one after the other. qkv (T, (H + 2·Hkv)·Dh) has q, k, v side by side.
   */
  attentionForward(out: Tensor, lse: Tensor | null, qkv: Tensor, segments: Tensor, shape: AttentionShape): void;
  /**
   * dqkv = …; `scratch` (rows, Device.attentionScratchElements) holds what completions add to their prompts: rows for at least the
   * longest prefix.
   */
  attentionBackward(
    dqkv: Tensor,
    dout: Tensor,
    qkv: Tensor,
    out: Tensor,
    lse: Tensor,
    segments: Tensor,
    scratch: Tensor,
    shape: AttentionShape,
  ): void;
  /** Stores the keys and values of qkv's T tokens at (page (T), offset (T)). */
  kvStore(pages: KeyValuePages, qkv: Tensor, page: Tensor, offset: Tensor, shape: AttentionShape): void;
  /**
   * out (B, H·Dh) = attention of one new token per sequence, whose key and value it first stores. raw (B, (H + 2·Hkv)·Dh)
   * has the products, which `transform` describes the way of; `qkv` is room for as much, raw itself without norms.
   * pageTable (B, width): the prompt's pages, then the completion's; lengths (B) count the tokens in the cache, the new
   * one included, which is the last. Rows are of different sequences: none reads what another one stores.
   */
  attentionDecode(
    out: Tensor,
    qkv: Tensor,
    raw: Tensor,
    transform: HeadTransform,
    place: CachePlace,
    pageTable: Tensor,
    promptLengths: Tensor,
    completionLengths: Tensor,
    shape: AttentionShape,
  ): void;

  /** y (T, F) = act(gate) · up, with x (T, 2F) = gate beside up. `gelu`: tanh-approximated GELU, else SiLU. */
  gluForward(y: Tensor, x: Tensor, gelu: boolean): void;
  /** dx may be x itself. y = what gluForward gives, if wanted; it may be dy itself. */
  gluBackward(dx: Tensor, dy: Tensor, x: Tensor, gelu: boolean, y: Tensor | null): void;

  /**
   * probabilities = softmax(logits (T, E) float32); experts = the k most probable of each token, the first of equal ones,
   * or as they are if `given`; weights = their probabilities, `normalized`: divided by their sum.
   */
  routeForward(routes: Routes, logits: Tensor, normalized: boolean, given?: boolean): void;
  /** dlogits (T, E) float32 = from dweights (T, k) float32 */
  routeBackward(dlogits: Tensor, dweights: Tensor, routes: Routes, normalized: boolean): void;
  /** load (E) float32 += Σ rowWeights (T) · probabilities (T, E) */
  balanceForward(load: Tensor, probabilities: Tensor, rowWeights: Tensor): void;
  /** dlogits (T, E) float32 += from `slopes` (E), the derivatives in balanceForward's `load` */
  balanceBackward(dlogits: Tensor, probabilities: Tensor, slopes: Tensor, rowWeights: Tensor): void;
  /** places = those of the pairs of experts (T, k) */
  dispatch(places: PairPlaces, experts: Tensor): void;
  /** y (T · k, D) = the token's row of x (T, D) for each pair, in order */
  gatherPairs(y: Tensor, x: Tensor, places: PairPlaces): void;
  /** dx (T, D) grad = the sum of dy (T · k, D) over a token's pairs */
  scatterPairs(dx: Tensor, dy: Tensor, places: PairPlaces): void;
  /** x (T, D) float32 += the sum of weight · y (T · k, D) over a token's pairs */
  combineForward(x: Tensor, y: Tensor, places: PairPlaces, weights: Tensor): void;
  /** dy (T · k, D) grad = weight · dx, dweights (T, k) = y · dx */
  combineBackward(dy: Tensor, dweights: Tensor, dx: Tensor, y: Tensor, places: PairPlaces, weights: Tensor): void;
  /** y (P, N) = x (P, K) · wᵀ of each pair's expert */
  expertsForward(y: Tensor, x: Tensor, w: ExpertWeights, places: PairPlaces): void;
  /** dx (P, K) = or += dy (P, N) · w of each pair's expert */
  expertsBackwardInput(dx: Tensor, dy: Tensor, w: ExpertWeights, places: PairPlaces, accumulate?: boolean): void;
  /** dw of each expert += dyᵀ · x over its pairs; `dw` is the first one's, and the others follow it */
  expertsBackwardWeight(dw: Tensor, dy: Tensor, x: Tensor, w: ExpertWeights, places: PairPlaces): void;

  /**
   * The LM head on a chunk of rows: logits (N, V) float32 = hidden · wᵀ, then logprob (entries), entropy (N), lse (N)
   * of softmax(logits / temperature). Row r's targets are the entries entryStart[r] … entryStart[r + 1] − 1; entry
   * indices are absolute, so `logprob` and `targets` cover all rows, not only the chunk's.
   */
  lmHeadForward(
    logprob: Tensor,
    entropy: Tensor,
    lse: Tensor,
    logits: Tensor,
    hidden: Tensor,
    w: Weight,
    entryStart: Tensor,
    targets: Tensor,
    temperature: number,
    cap?: LogitCap | null,
  ): void;
  /**
   * dhidden (N, D) =, dw += (null: not wanted), from dlogprob (entries) and dentropy (N). `logits` are overwritten;
   * they are what lmHeadForward left there, or with `recompute` computed again.
   */
  lmHeadBackward(
    dhidden: Tensor,
    dw: Tensor | null,
    logits: Tensor,
    dlogprob: Tensor,
    dentropy: Tensor,
    hidden: Tensor,
    w: Weight,
    entryStart: Tensor,
    targets: Tensor,
    lse: Tensor,
    entropy: Tensor,
    temperature: number,
    recompute: boolean,
    cap?: LogitCap | null,
  ): void;

  /**
   * ids (B) = one token per sequence from logits row logitRow[b]. logprob (B) is of softmax(logits / temperature), as in
   * lmHeadForward; samplingLogprob (B) of the distribution sampled from. −1 where the logits are not finite, and neither are
   * the logprobs then; −1 with finite ones where the penalty makes logits infinite.
   * counters (B, 5); seen (slots, ⌈V/32⌉) bit sets, for the repetition penalty only.
   */
  sample(
    ids: Tensor,
    logprob: Tensor,
    samplingLogprob: Tensor,
    logits: Tensor,
    logitRow: Tensor,
    counters: Tensor,
    seen: Tensor | null,
    settings: SamplingSettings,
  ): void;

  /**
   * One AdamW step: updates w, master, m, v from the gradient g. For float32, master is w's own memory; null: w is bfloat16
   * without a master, and is rounded at random.
   */
  adamw(w: Weight, master: Tensor | null, m: Tensor, v: Tensor, g: Tensor, settings: AdamWSettings): void;
  /** The same with moments in 8 bits, which are decoded, moved, used, and coded again. A moment that is 0 stays 0. */
  adamw8bit(
    w: Weight,
    master: Tensor | null,
    m: QuantizedMoment,
    v: QuantizedMoment,
    maps: MomentMaps,
    g: Tensor,
    settings: AdamWSettings,
  ): void;
  /** y float32 += the masters of w, a bfloat16 parameter; null: w itself */
  addMasters(y: Tensor, w: Weight, master: Tensor | null): void;
  /** sum (1) float64 = Σ x², in fixed blocks added in order */
  sumSquares(sum: Tensor, x: Tensor): void;
  scale(x: Tensor, factor: number): void;
  /** x = cap · tanh(x / cap) */
  softcapForward(x: Tensor, cap: number): void;
  /** dx *= 1 − (y / cap)², where y is what softcapForward left; dx is float32 or grad */
  softcapBackward(dx: Tensor, y: Tensor, cap: number): void;
  /** y += x */
  add(y: Tensor, x: Tensor): void;
  fill(x: Tensor, value: number): void;
  /** y = x in y's type */
  cast(y: Tensor, x: Tensor): void;
  /** y (N, D) = rows `index` of x (T, D), float32 */
  gatherRows(y: Tensor, x: Tensor, index: Tensor): void;
  /** dx (T, D) float32 = 0, then rows `index` (all different) = dy (N, D) grad */
  scatterRows(dx: Tensor, dy: Tensor, index: Tensor): void;
}

/** The ops of a mixture of experts. */
export type ExpertOp =
  | "routeForward"
  | "routeBackward"
  | "balanceForward"
  | "balanceBackward"
  | "dispatch"
  | "gatherPairs"
  | "scatterPairs"
  | "combineForward"
  | "combineBackward"
  | "expertsForward"
  | "expertsBackwardInput"
  | "expertsBackwardWeight";

/** A tensor in host memory (Device.allocateHost), packed, and room for as much on the device. */
export interface Staged {
  readonly host: Tensor;
  readonly device: Tensor;
  /** The ways that it is copied: before the work, after it, or both. */
  readonly copies: "in" | "out" | "both";
}

/** The way of ops to tensors in host memory. Everything is queued, and nothing waits for it. */
export interface Staging {
  /**
   * Copies to the device, runs `work`, which queues ops, and copies back. Copies run beside the work of other slots; what
   * uses the same slot, one by one.
   *
   * @param slot number of the device's memory that `tensors` are copied to, from 0
   */
  through(slot: number, tensors: readonly Staged[], work: () => void): void;
  /** What is queued from now on comes after all copies: it may use the slots' memory otherwise, and read the host's. */
  join(): void;
}

/** Devices of several processes that exchange their memory directly. */
export interface PeerGroup {
  /**
   * Sends packed tensors to every process and receives as many as each sends, in order, after all queued work; entries of the
   * process itself are not used. Resolves when the tensors have arrived.
   *
   * @throws what `requireAll` throws, or RunError
   */
  exchange(send: readonly (readonly Tensor[])[], receive: readonly (readonly Tensor[])[]): Promise<void>;
}

/** The way to the devices of other processes. */
export interface PeerDevices {
  /** The group that was joined; null: none. */
  readonly group: PeerGroup | null;
  /** What they are reached by, which must be the same for all, and the name of this device; or why they cannot be reached. */
  survey(): { readonly library: string; readonly device: string } | { readonly missing: string };
  /** Names a new group; one process does it for all. */
  createId(): Uint8Array;
  /**
   * Joins a group; all its processes do.
   *
   * @param requireAll throws if a process has failed: called again and again while there is something to wait for
   */
  join(id: Uint8Array, rank: number, size: number, requireAll: () => void): Promise<void>;
}

export interface Device {
  readonly kind: "cpu" | "cuda";
  /** One line for logs: processor, instruction path, threads. */
  readonly description: string;
  /** Must be equal for identical bits: stored in checkpoints, compared on resume. */
  readonly numericsKey: string;
  /** A token's logprob recorded during sampling is bit-identical to the one that training computes (promise 2). */
  readonly exactlyOnPolicy: boolean;
  /** Ops return before their work is done, so the next step can be prepared and queued while one runs. */
  readonly queuesWork: boolean;
  readonly ops: Ops;
  /**
   * FLOP/s in products with weights of `dtype`, the base of MFU: the measured sustained rate of a CPU, the published
   * peak of a GPU.
   */
  peakFlops(dtype: ComputeDType): number;

  /** Calls and seconds per kernel, most first, as lines; empty unless tracing is on ($BUN_GRPO_TRACE). */
  traceLines(): string[];

  /** Tokens of a micro-batch worth computing at once, unless settings say how many. */
  readonly microBatchTokens: number;
  /** Bytes of logits worth computing at once: the head's weights are read once per chunk. */
  readonly headBytes: number;
  /** Rows of logits beyond which a chunk gains nothing. */
  readonly headRows: number;
  /** Bytes that can still be allocated on the device; null if it uses the host's memory. */
  freeBytes(): number | null;
  /** Bytes allocated on the device, scratch included; null if it uses the host's memory. */
  heldBytes(): number | null;
  /** @throws RunError if there is not enough memory, saying how much was requested */
  allocate(byteLength: number, what: string): DeviceMemory;
  /** Makes newly allocated memory zero, and resident: at once, or soon and while other work uses it. */
  populate(memory: DeviceMemory): void;
  /**
   * Host memory that the device can copy to and from; the address is the host's. Tensors in it are uploaded, read, loaded and
   * saved as others are; ops reach them through `staging`.
   */
  allocateHost(byteLength: number, what: string): DeviceMemory;
  /** Copies host data to a tensor (packed, at most its size). */
  upload(target: Tensor, data: NumberArray): void;
  /** Copies a packed tensor to a new array of its element type (bfloat16 as Uint16Array). */
  download(source: Tensor): NumberArray;
  /** The same without blocking the event loop while the device works. */
  read(source: Tensor): Promise<NumberArray>;
  /** The two parts of `read`: queues the copy, and returns what waits for it, to be called at most once. */
  queueRead(source: Tensor): () => Promise<NumberArray>;

  /**
   * The type of activations ("act"), keys and values included, for parameters of `dtype`: bfloat16 if the device
   * multiplies bfloat16 natively; float32 if products are float32 anyway, so that nothing is rounded in between.
   */
  activationDType(dtype: ComputeDType): ComputeDType;
  /** The type of gradients of activations ("grad") for parameters of `dtype`; dresidual is always float32. */
  gradientDType(dtype: ComputeDType): ComputeDType;
  /**
   * The type of the masters of bfloat16 parameters: float32, or uint16 for their lower halves alone. The parameter, which
   * is the rounded master, has the rest. A master in the middle of two bfloat16 numbers may lose its last bit to that.
   */
  readonly masterDType: "float32" | "uint16";
  /**
   * Rows that a recorded decode step computes for `sequences` sequences; launch sizes may depend only on this. The rows
   * beyond are padding, and their results are not read.
   */
  decodeBucket(sequences: number): number;
  /**
   * Matrices (N, K) whose rows are multiples of this are one matrix if they lie side by side, and biases likewise: the
   * rows of a block of the layout, or what keeps each part aligned.
   */
  readonly rowBlock: number;
  /** Elements that a parameter takes, padding included. */
  parameterElements(shape: readonly number[], dtype: ComputeDType): number;
  /** Names the order in which a parameter's elements lie: what is saved in that order can be loaded where it is the same. */
  parameterLayout(dtype: ComputeDType): string;
  /** Elements of a page of keys, and of values, of one layer. */
  pageElements(shape: AttentionShape): { keys: number; values: number };
  /** Floats per row of attentionBackward's scratch. */
  attentionScratchElements(shape: AttentionShape): number;
  /** Upper bound of the bytes that ops of these sizes, one after the other, need beyond the planned buffers. */
  scratchBytes(...sizes: readonly ScratchSizes[]): number;
  /** Prepares for ops of these sizes, so that none allocates later. @throws RunError as `allocate` does */
  prepare(...sizes: readonly ScratchSizes[]): void;

  /**
   * Loads rows [from, from + count) of a parameter, or of a float32 tensor in its layout, from row-major host memory at
   * `address`. Masters in two halves set both, and begin with a multiple of `rowBlock`.
   */
  loadParameter(w: Weight, address: number, dtype: DType, from: number, count: number): void;
  /** The parts of a matrix (N, K) in NF4, in bytes; the order of the codes is the device's. */
  nf4Layout(shape: readonly number[]): Nf4Layout;
  /** Loads the codes of rows [from, from + count), row-major, two to a byte, the first in the upper half. `from` is a multiple of 64. */
  loadCodes(w: Weight, codes: Uint8Array, from: number, count: number): void;
  /** Saves rows [from, from + count) of a parameter, or of a float32 tensor in its layout, to row-major host memory. */
  saveParameter(address: number, dtype: ComputeDType, w: Weight, from: number, count: number): void;

  /**
   * Runs `work` and records it under `key`; `replay` runs it again on the buffers' contents at that time. `work` only
   * calls ops, and may be called several times.
   */
  record(key: string, work: () => Pieces): Promise<void>;
  replay(key: string): Promise<void>;
  /** Drops recordings whose keys begin with `prefix`. */
  forget(prefix: string): void;
  /** null: it computes in the host's memory. */
  readonly staging: Staging | null;
  /** null: it computes in the host's memory, which other ways lead to. */
  readonly peers: PeerDevices | null;
  /** Frees everything that the device holds; it cannot be used afterwards. */
  close(): void;
}

export interface ScratchSizes {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly attention: AttentionShape;
  /** Of the operands of products; bfloat16 also where weights in NF4 are widened to it. */
  readonly dtype: ComputeDType;
  /** Longest prompt + completion. */
  readonly longest: number;
  /** Rows in the largest product. */
  readonly tokens: number;
  /** Rows of logits computed at once; a scalar head computes all of its own. */
  readonly headRows: number;
  /** Elements of the largest matrix in NF4; left out, there is none. */
  readonly quantizedElements?: number;
  /** Sequences decoded at once, padding included. */
  readonly sequences: number;
}
