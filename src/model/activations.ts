/**
 * The buffers of a forward and a backward pass, planned for a number of tokens. Legend of letters in device.ts.
 *
 * With gradient checkpointing by layer, training keeps each layer's input and recomputes the rest, so one layer's
 * worth of the others is enough.
 */

import type { Device, ScratchSizes } from "../device/device.ts";
import type { ModelConfig } from "../families/config.ts";
import type { Layer } from "../families/layer.ts";
import { layersOf } from "../families/parameters.ts";
import type { ComputeDType, DType } from "../tensor/dtype.ts";
import type { Phase, PlanBuilder } from "../tensor/plan.ts";
import { firstRows, reshape, rows, type Tensor } from "../tensor/tensor.ts";

/** What one layer computes on the way forward, for `tokens` rows. Layers of other widths use the same memory. */
export interface LayerBuffers {
  readonly residual: Tensor; // float32 (T, D): the stream, updated in place
  readonly normed: Tensor; // act (T, D)
  readonly rstd: Tensor; // float32 (T)
  readonly qkv: Tensor; // act (T, (H + 2·Hkv)·Dh)
  readonly qkvRaw: Tensor; // act, q and k before their norms; qkv itself in a layer without them
  readonly rstdQ: Tensor; // float32 (T, H)
  readonly rstdK: Tensor; // float32 (T, Hkv)
  readonly attention: Tensor; // act (T, H·Dh)
  readonly lse: Tensor; // float32 (T, H)
  readonly postNormed: Tensor; // act (T, D)
  readonly postRstd: Tensor; // float32 (T)
  readonly gateUp: Tensor; // act (T, 2F)
  readonly glu: Tensor; // act (T, F)
}

/** The rows that a head reads, normalized. */
export interface HiddenBuffers {
  readonly hidden: Tensor; // float32 (T, D): the rows that are needed
  readonly normed: Tensor; // act (T, D)
  readonly rstd: Tensor; // float32 (T)
  readonly headRows: Tensor; // int32 (T)
}

/** The LM head, for at most `tokens` rows and `entries` targets. */
export interface HeadBuffers extends HiddenBuffers {
  readonly logits: Tensor; // float32 (chunk, V)
  readonly lse: Tensor; // float32 (T)
  readonly entropy: Tensor; // float32 (T)
  readonly logprob: Tensor; // float32 (entries)
  readonly entryStart: Tensor; // int32 (T + 1)
  readonly targets: Tensor; // int32 (entries)
}

export interface InputBuffers {
  readonly tokens: Tensor; // int32 (T)
  readonly positions: Tensor; // int32 (T)
  readonly segments: Tensor; // int32 (T, 4)
}

/** The scalar head of a reward model or critic. */
export interface ScalarHeadBuffers extends HiddenBuffers {
  readonly values: Tensor; // float32 (T, 1)
}

/** Gradients of one layer's activations. */
export interface LayerGradientBuffers {
  readonly inputs: Tensor; // float32 (L, T, D): each layer's input, kept by the forward pass
  readonly dresidual: Tensor; // float32 (T, D)
  readonly dnormed: Tensor; // grad (T, D)
  readonly dglu: Tensor; // grad (T, F)
  readonly dgateUp: Tensor; // grad (T, 2F)
  readonly dattention: Tensor; // grad (T, H·Dh)
  readonly dqkv: Tensor; // grad (T, (H + 2·Hkv)·Dh)
  readonly attentionScratch: Tensor; // float32 (rows, …)
}

/** Gradients of a layer's activations, and of the LM head's. */
export interface GradientBuffers extends LayerGradientBuffers {
  readonly dlogprob: Tensor; // float32 (entries)
  readonly dentropy: Tensor; // float32 (T)
}

export interface ActivationSizes {
  /** Rows of the largest packed batch. */
  readonly tokens: number;
  /** Completion tokens of the largest packed batch. */
  readonly entries: number;
  /** Rows of logits computed at once. */
  readonly headChunk: number;
  /** Longest prompt: rows of the attention gradient's scratch are a multiple of it. */
  readonly longestPrompt: number;
}

/** Rows of logits in a chunk: enough to keep the product busy, few enough to stay small. */
function headChunk({ headBytes }: Pick<Device, "headBytes">, { vocabSize }: ModelConfig, tokens: number): number {
  const rows = Math.floor(headBytes / (4 * vocabSize));
  return Math.min(tokens, Math.max(16, Math.min(1024, rows)));
}

/** Buffers of packed passes over at most `tokens` tokens. */
export function packedSizes(
  device: Pick<Device, "headBytes">,
  config: ModelConfig,
  { tokens, longestPrompt }: ScalarSizes,
): ActivationSizes {
  return { tokens, entries: tokens, headChunk: headChunk(device, config, tokens), longestPrompt };
}

/** What the passes through the layers need, whatever the head. */
export interface LayerActivations {
  readonly input: InputBuffers;
  readonly layer: LayerBuffers;
  readonly head: HiddenBuffers;
  /** Null for a forward pass alone. */
  readonly gradient: LayerGradientBuffers | null;
}

export interface Activations extends LayerActivations {
  readonly sizes: ActivationSizes;
  readonly head: HeadBuffers;
  readonly gradient: GradientBuffers | null;
}

/** The buffers of a model with a scalar head: nothing in them grows with the vocabulary. */
export interface ScalarActivations extends LayerActivations {
  readonly sizes: ScalarSizes;
  readonly head: ScalarHeadBuffers;
  readonly gradient: ScalarGradientBuffers | null;
}

export type ScalarSizes = Pick<ActivationSizes, "tokens" | "longestPrompt">;

export interface ScalarGradientBuffers extends LayerGradientBuffers {
  readonly dvalues: Tensor; // float32 (T, 1)
}

type Add = (name: string, dtype: DType, shape: readonly number[]) => string;

/** Names of the planned buffers, by field. */
type Names<T> = { readonly [K in keyof T]: string };

interface ActivationOptions {
  readonly prefix: string;
  readonly training: boolean;
  readonly lifetime: readonly Phase[];
}

const addTo =
  (plan: PlanBuilder, { prefix, lifetime }: ActivationOptions): Add =>
  (name, type, shape) =>
    plan.add(`${prefix} activations`, `${prefix}/${name}`, type, shape, lifetime).name;

/**
 * Adds the buffers of a packed pass to the plan; the returned function finds them once they are allocated.
 */
export function planActivations(
  plan: PlanBuilder,
  device: Device,
  config: ModelConfig,
  dtype: ComputeDType, // of the parameters
  sizes: ActivationSizes,
  options: ActivationOptions,
): (tensors: ReadonlyMap<string, Tensor>) => Activations {
  const add = addTo(plan, options);
  const [act, grad] = [device.activationDType(dtype), device.gradientDType(dtype)];
  const input = planInput(add, sizes);
  const layer = planLayer(add, config, act, sizes.tokens);
  const head = planHead(add, config, act, sizes);
  const gradient = options.training ? planGradients(add, device, config, grad, sizes) : null;
  return (tensors) => ({
    sizes,
    input: bind(tensors, input),
    layer: bind(tensors, layer),
    head: bind(tensors, head),
    gradient: gradient && bind(tensors, gradient),
  });
}

/** The same for a model with a scalar head. */
export function planScalarActivations(
  plan: PlanBuilder,
  device: Device,
  config: ModelConfig,
  dtype: ComputeDType, // of the parameters
  sizes: ScalarSizes,
  options: ActivationOptions,
): (tensors: ReadonlyMap<string, Tensor>) => ScalarActivations {
  const add = addTo(plan, options);
  const act = device.activationDType(dtype);
  const input = planInput(add, sizes);
  const layer = planLayer(add, config, act, sizes.tokens);
  const head: Names<ScalarHeadBuffers> = {
    ...planHidden(add, config, act, sizes.tokens),
    values: add("values", "float32", [sizes.tokens, 1]),
  };
  const gradient: Names<ScalarGradientBuffers> | null = options.training
    ? {
        ...planLayerGradients(add, device, config, device.gradientDType(dtype), sizes),
        dvalues: add("dvalues", "float32", [sizes.tokens, 1]),
      }
    : null;
  return (tensors) => ({
    sizes,
    input: bind(tensors, input),
    layer: bind(tensors, layer),
    head: bind(tensors, head),
    gradient: gradient && bind(tensors, gradient),
  });
}

export function bind<T>(tensors: ReadonlyMap<string, Tensor>, names: Names<T>): { [K in keyof T]: Tensor } {
  const found = {} as { [K in keyof T]: Tensor };
  for (const key in names) {
    const buffer = tensors.get(names[key]);
    if (!buffer) throw new Error(`${names[key]} is not in the memory plan`);
    found[key] = buffer;
  }
  return found;
}

function planInput(add: Add, { tokens }: ScalarSizes): Names<InputBuffers> {
  return {
    tokens: add("tokens", "int32", [tokens]),
    positions: add("positions", "int32", [tokens]),
    segments: add("segments", "int32", [tokens, 4]),
  };
}

/** What a layer's own buffers take: elements of a row, and 1 where q and k have norms. */
interface LayerWidths {
  readonly heads: number; // H
  readonly kvHeads: number; // Hkv
  readonly qkv: number; // (H + 2·Hkv)·Dh
  readonly attention: number; // H·Dh
  readonly intermediate: number; // F
  readonly headNorms: number;
}

function widthsOf({ attention, mlp }: Layer<unknown>): LayerWidths {
  const { heads, kvHeads, headDim } = attention.shape;
  return {
    ...{ heads, kvHeads },
    qkv: (heads + 2 * kvHeads) * headDim,
    attention: heads * headDim,
    intermediate: mlp.intermediateSize,
    headNorms: attention.headNorms ? 1 : 0,
  };
}

/** The layers use the same buffers, one after the other, so each is as wide as the widest layer needs it. */
function widest(config: ModelConfig): LayerWidths {
  return layersOf(config)
    .map(widthsOf)
    .reduce((a, b) => ({
      heads: Math.max(a.heads, b.heads),
      kvHeads: Math.max(a.kvHeads, b.kvHeads),
      qkv: Math.max(a.qkv, b.qkv),
      attention: Math.max(a.attention, b.attention),
      intermediate: Math.max(a.intermediate, b.intermediate),
      headNorms: Math.max(a.headNorms, b.headNorms),
    }));
}

export function planLayer(add: Add, config: ModelConfig, dtype: ComputeDType, T: number): Names<LayerBuffers> {
  const { hiddenSize: D } = config;
  const { heads: H, kvHeads: Hkv, intermediate: F, ...width } = widest(config);
  const qkv = add("qkv", dtype, [T, width.qkv]);
  return {
    residual: add("residual", "float32", [T, D]),
    normed: add("normed", dtype, [T, D]),
    rstd: add("rstd", "float32", [T]),
    qkv,
    qkvRaw: width.headNorms ? add("qkv before norm", dtype, [T, width.qkv]) : qkv,
    rstdQ: add("rstd q", "float32", width.headNorms ? [T, H] : [1]),
    rstdK: add("rstd k", "float32", width.headNorms ? [T, Hkv] : [1]),
    attention: add("attention", dtype, [T, width.attention]),
    lse: add("attention lse", "float32", [T, H]),
    postNormed: add("normed before mlp", dtype, [T, D]),
    postRstd: add("rstd before mlp", "float32", [T]),
    gateUp: add("gate and up", dtype, [T, 2 * F]),
    glu: add("glu", dtype, [T, F]),
  };
}

/** The buffers as one layer uses them: T rows of its own widths. */
export function layerBuffers(b: LayerBuffers, layer: Layer<unknown>, T: number): LayerBuffers {
  const { heads: H, kvHeads: Hkv, intermediate: F, ...width } = widthsOf(layer);
  const qkv = reshape(b.qkv, [T, width.qkv]);
  return {
    residual: firstRows(b.residual, T),
    normed: firstRows(b.normed, T),
    rstd: firstRows(b.rstd, T),
    qkv,
    qkvRaw: width.headNorms ? reshape(b.qkvRaw, [T, width.qkv]) : qkv,
    rstdQ: width.headNorms ? reshape(b.rstdQ, [T, H]) : b.rstdQ,
    rstdK: width.headNorms ? reshape(b.rstdK, [T, Hkv]) : b.rstdK,
    attention: reshape(b.attention, [T, width.attention]),
    lse: reshape(b.lse, [T, H]),
    postNormed: firstRows(b.postNormed, T),
    postRstd: firstRows(b.postRstd, T),
    gateUp: reshape(b.gateUp, [T, 2 * F]),
    glu: reshape(b.glu, [T, F]),
  };
}

function planHidden(add: Add, { hiddenSize: D }: ModelConfig, dtype: ComputeDType, T: number): Names<HiddenBuffers> {
  return {
    hidden: add("head hidden", "float32", [T, D]),
    normed: add("head normed", dtype, [T, D]),
    rstd: add("head rstd", "float32", [T]),
    headRows: add("head rows", "int32", [T]),
  };
}

function planHead(add: Add, config: ModelConfig, dtype: ComputeDType, sizes: ActivationSizes): Names<HeadBuffers> {
  const { tokens: T, entries, headChunk } = sizes;
  return {
    ...planHidden(add, config, dtype, T),
    logits: add("logits", "float32", [headChunk, config.vocabSize]),
    lse: add("head lse", "float32", [T]),
    entropy: add("entropy", "float32", [T]),
    logprob: add("logprob", "float32", [entries]),
    entryStart: add("entry start", "int32", [T + 1]),
    targets: add("targets", "int32", [entries]),
  };
}

function planGradients(
  add: Add,
  device: Device,
  config: ModelConfig,
  grad: ComputeDType,
  sizes: ActivationSizes,
): Names<GradientBuffers> {
  return {
    ...planLayerGradients(add, device, config, grad, sizes),
    dlogprob: add("dlogprob", "float32", [sizes.entries]),
    dentropy: add("dentropy", "float32", [sizes.tokens]),
  };
}

function planLayerGradients(
  add: Add,
  device: Device,
  config: ModelConfig,
  grad: ComputeDType,
  { tokens: T, longestPrompt }: ScalarSizes,
): Names<LayerGradientBuffers> {
  const { hiddenSize: D } = config;
  const { intermediate: F, ...width } = widest(config);
  const scratch = Math.max(
    ...layersOf(config).map(({ attention }) => device.attentionScratchElements(attention.shape)),
  );
  return {
    inputs: add("layer inputs", "float32", [config.numLayers, T, D]),
    dresidual: add("dresidual", "float32", [T, D]),
    dnormed: add("dnormed", grad, [T, D]),
    dglu: add("dglu", grad, [T, F]),
    dgateUp: add("dgate and dup", grad, [T, 2 * F]),
    dattention: add("dattention", grad, [T, width.attention]),
    dqkv: add("dqkv", grad, [T, width.qkv]),
    attentionScratch: add("prompt gradients by completion", "float32", [Math.max(longestPrompt, T), scratch]),
  };
}

/** The gradients as one layer uses them: T rows of its own widths. Its kept input is `layerInput`. */
export function layerGradientBuffers(
  device: Device,
  g: LayerGradientBuffers,
  layer: Layer<unknown>,
  T: number,
): Omit<LayerGradientBuffers, "inputs"> {
  const { intermediate: F, ...width } = widthsOf(layer);
  const scratch = device.attentionScratchElements(layer.attention.shape);
  return {
    dresidual: firstRows(g.dresidual, T),
    dnormed: firstRows(g.dnormed, T),
    dglu: reshape(g.dglu, [T, F]),
    dgateUp: reshape(g.dgateUp, [T, 2 * F]),
    dattention: reshape(g.dattention, [T, width.attention]),
    dqkv: reshape(g.dqkv, [T, width.qkv]),
    attentionScratch: reshape(g.attentionScratch, [g.attentionScratch.shape[0] ?? 0, scratch]),
  };
}

/** The kept input of a layer, (T, D). */
export function layerInput(g: LayerGradientBuffers, layer: number, T: number): Tensor {
  const [, , D = 0] = g.inputs.shape;
  return reshape(rows(g.inputs, layer, 1), [T, D]);
}

/** Sizes of the ops of each layer, for the device's scratch. */
export function scratchSizes(
  config: ModelConfig,
  sizes: Omit<ScratchSizes, "hiddenSize" | "intermediateSize" | "attention">,
): ScratchSizes[] {
  const { hiddenSize } = config;
  return layersOf(config).map(({ attention, mlp: { intermediateSize } }) => ({
    ...{ ...sizes, hiddenSize, intermediateSize },
    attention: attention.shape,
  }));
}
