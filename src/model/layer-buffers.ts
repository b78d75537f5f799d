/**
 * The layers' buffers. All layers use the same ones in turn: they are sized for the widest layer, and each layer uses
 * the part that it needs. Legend of letters in device.ts; "act" and "grad" are types chosen by the device.
 *
 * Training keeps each layer's input. Of some layers, as many as the plan has room for, it also keeps what takes products
 * to recompute (`keptTable`); of the others it recomputes everything, so one set of the other buffers is enough. What the
 * head, the MLP or attention's backward pass alone uses shares memory with the others', and the gradients of gate and up
 * and of their product take the place of what they are the gradients of.
 */

import type { Device, ScratchSizes } from "../device/device.ts";
import type { ModelConfig } from "../families/config.ts";
import { isExperts, type Layer } from "../families/layer.ts";
import { layersOf, parameterSpecs } from "../families/parameters.ts";
import { type BuffersOf, type BufferTable, reshapeTo } from "../tensor/buffers.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import type { Stage } from "../tensor/plan.ts";
import { elementCount, reshape, rows, type Tensor } from "../tensor/tensor.ts";
import { routeShape } from "./routes.ts";

/**
 * Widths of a layer's rows; `headNorms`, `attentionNorm` and `mlpNorm` are 1 if the layer has them. `E` and `perToken` are
 * the number of experts, and of a token's, 0 in a dense layer; `F` is for all of a token's.
 */
function widthsOf({ hiddenSize }: ModelConfig, { attention, attentionNorm, mlp, mlpNorm }: Layer<unknown>) {
  const { heads, kvHeads, headDim } = attention.shape;
  const [E, perToken] = isExperts(mlp) ? [mlp.gate.length, mlp.perToken] : [0, 0];
  return {
    ...{ D: hiddenSize, H: heads, Hkv: kvHeads, F: Math.max(1, perToken) * mlp.intermediateSize, E, perToken },
    qkvWidth: (heads + 2 * kvHeads) * headDim,
    outWidth: heads * headDim,
    headNorms: attention.headNorms ? 1 : 0,
    attentionNorm: attentionNorm ? 1 : 0,
    mlpNorm: mlpNorm ? 1 : 0,
  };
}
type Widths = ReturnType<typeof widthsOf>;

function widest(config: ModelConfig): Widths {
  const all = layersOf(config).map((layer) => widthsOf(config, layer));
  const most = (width: keyof Widths) => Math.max(...all.map((widths) => widths[width]));
  return {
    ...{ D: most("D"), H: most("H"), Hkv: most("Hkv"), F: most("F"), E: most("E"), perToken: most("perToken") },
    ...{ qkvWidth: most("qkvWidth"), outWidth: most("outWidth"), headNorms: most("headNorms") },
    ...{ attentionNorm: most("attentionNorm"), mlpNorm: most("mlpNorm") },
  };
}

/** The stages of a layer. */
const LAYERS = ["mlp", "attention"] as const satisfies readonly Stage[];
const MLP = ["mlp"] as const satisfies readonly Stage[];
const ATTENTION = ["attention"] as const satisfies readonly Stage[];

/** The results of a layer's products and of attention, for T rows, and the statistics that belong to them. */
function productTable(widths: Widths, act: ComputeDType, T: number) {
  const { D, H, Hkv, F, E, perToken, qkvWidth, outWidth, headNorms, attentionNorm, mlpNorm } = widths;
  return {
    qkv: ["qkv", act, [T, qkvWidth], LAYERS],
    qkvRaw: [headNorms ? "qkv before norm" : "qkv", act, [T, qkvWidth], LAYERS], // as products leave it
    rstdQ: ["rstd q", "float32", headNorms ? [T, H] : [1], LAYERS],
    rstdK: ["rstd k", "float32", headNorms ? [T, Hkv] : [1], LAYERS],
    attention: ["attention", act, [T, outWidth], LAYERS],
    lse: ["attention lse", "float32", [T, H], LAYERS],
    gateUp: ["gate and up", act, [T, 2 * F], MLP],
    // What attention and MLP add to the stream, before a norm of it.
    attentionOut: ["attention before norm", "float32", attentionNorm ? [T, D] : [1], LAYERS],
    attentionOutRstd: ["rstd after attention", "float32", attentionNorm ? [T] : [1], LAYERS],
    mlpOut: ["mlp before norm", "float32", mlpNorm ? [T, D] : [1], MLP],
    mlpOutRstd: ["rstd after mlp", "float32", mlpNorm ? [T] : [1], MLP],
    // Of a layer with experts, P = T · perToken pairs of a token and an expert.
    routeProbabilities: ["expert probabilities", "float32", E ? [T, E] : [1], MLP],
    routeWeights: ["expert weights", "float32", E ? [T, perToken] : [1], MLP],
    pairOffsets: ["pairs of experts", "int32", [E + 1], MLP],
    pairOrder: ["pair order", "int32", E ? [T * perToken] : [1], MLP],
    pairPlaces: ["pair places", "int32", E ? [T, perToken] : [1], MLP],
    pairOutputs: ["pair outputs", act, E ? [T * perToken, D] : [1], MLP],
  } satisfies BufferTable<string>;
}

/** A layer's forward buffers, for T rows. */
function layerTable(widths: Widths, act: ComputeDType, T: number) {
  const { D, F } = widths;
  return {
    ...productTable(widths, act, T),
    residual: ["residual", "float32", [T, D], LAYERS], // the stream, updated in place
    normed: ["normed", act, [T, D], LAYERS],
    rstd: ["rstd", "float32", [T], LAYERS],
    postNormed: ["normed before mlp", act, [T, D], MLP],
    postRstd: ["rstd before mlp", "float32", [T], MLP],
    glu: ["glu", act, [T, F], MLP],
    routeLogits: ["expert logits", "float32", widths.E ? [T, widths.E] : [1], MLP],
    pairInputs: ["pair inputs", act, widths.E ? [T * widths.perToken, D] : [1], MLP],
    added: ["normed after attention or mlp", "float32", widths.attentionNorm || widths.mlpNorm ? [T, D] : [1], LAYERS],
  } satisfies BufferTable<string>;
}
export type LayerBuffers = BuffersOf<typeof layerTable>;

/**
 * Gradients of one layer's activations, for T rows.
 *
 * @param inPlace those of the MLP's activations take their place
 */
function layerGradientTable(
  { D, F, E, perToken, qkvWidth, outWidth }: Widths,
  grad: ComputeDType,
  T: number,
  scratch: readonly [rows: number, elements: number],
  inPlace: boolean,
) {
  return {
    dresidual: ["dresidual", "float32", [T, D], LAYERS],
    dnormed: ["dnormed", grad, [T, D]], // the head's too
    dglu: ["dglu", grad, inPlace ? [1] : [T, F], MLP],
    dgateUp: ["dgate and dup", grad, inPlace ? [1] : [T, 2 * F], MLP],
    dpairs: ["dpairs", grad, E ? [T * perToken, D] : [1], MLP],
    drouteWeights: ["dexpert weights", "float32", E ? [T, perToken] : [1], MLP],
    drouteLogits: ["dexpert logits", "float32", E ? [T, E] : [1], MLP],
    dattention: ["dattention", grad, [T, outWidth], ATTENTION],
    dqkv: ["dqkv", grad, [T, qkvWidth], ATTENTION],
    attentionScratch: ["prompt gradients by completion", "float32", scratch, ATTENTION],
  } satisfies BufferTable<string>;
}

/**
 * Buffers of the backward pass: the gradients of one layer at a time, and every layer's input, kept by the forward
 * pass.
 */
export function gradientTable(
  device: Device,
  config: ModelConfig,
  dtype: ComputeDType,
  { tokens: T, longestPrompt }: { readonly tokens: number; readonly longestPrompt: number },
) {
  const elements = layersOf(config).map(({ attention }) => device.attentionScratchElements(attention.shape));
  const scratch = [Math.max(longestPrompt, T), Math.max(...elements)] as const;
  const grad = device.gradientDType(dtype);
  const E = routeShape(config)?.experts ?? 1;
  return {
    inputs: ["layer inputs", "float32", [config.numLayers, T, config.hiddenSize]],
    // For the loss of an unbalanced load of experts.
    load: ["expert load", "float32", [E]],
    slopes: ["slopes of the load", "float32", [E]],
    rowWeights: ["row weights", "float32", E > 1 ? [T] : [1]],
    ...layerGradientTable(widest(config), grad, T, scratch, grad === device.activationDType(dtype)),
  } satisfies BufferTable<string>;
}

/** A layer's results of products and of attention, and the stream between attention and MLP. */
function keptTable(widths: Widths, act: ComputeDType, T: number) {
  return {
    ...productTable(widths, act, T),
    afterAttention: ["residual after attention", "float32", [T, widths.D]],
  } satisfies BufferTable<string>;
}

/**
 * What the forward pass keeps of a layer, so that backward need not recompute it. The norms' results and the gated
 * unit's, which are elementwise, are recomputed from this and the layer's input.
 */
export type KeptActivations = BuffersOf<typeof keptTable>;

export interface LayerGradients extends BuffersOf<typeof gradientTable> {
  /** By layer; null: everything is recomputed. (L) */
  readonly kept: readonly (KeptActivations | null)[];
}

/** What each layer may keep of T tokens. (L) */
export function keptTables(config: ModelConfig, act: ComputeDType, T: number) {
  return layersOf(config).map((layer) => keptTable(widthsOf(config, layer), act, T));
}

/** What is kept of a layer in a pass of T tokens; null: nothing. */
export function keptActivations(
  { kept }: LayerGradients,
  config: ModelConfig,
  layer: number,
  weights: Layer<unknown>,
  T: number,
): KeptActivations | null {
  const buffers = kept[layer];
  return buffers ? reshapeTo(buffers, keptTable(widthsOf(config, weights), "float32", T)) : null;
}

/** The layers' forward buffers, for T rows. */
export function layersTable(config: ModelConfig, act: ComputeDType, T: number) {
  return layerTable(widest(config), act, T);
}

/** The forward buffers in the shapes of one layer: T rows of its own widths. */
export function layerBuffers(b: LayerBuffers, config: ModelConfig, layer: Layer<unknown>, T: number): LayerBuffers {
  const own = reshapeTo(b, layerTable(widthsOf(config, layer), "float32", T));
  // Without norms the products write qkv itself, even if other layers have norms.
  return layer.attention.headNorms ? own : { ...own, qkvRaw: own.qkv };
}

/**
 * The gradients in the shapes of one layer. Its input is `layerInput`.
 *
 * @param b the layer's activations: the MLP's are replaced by their gradients if these have the same type
 */
export function layerGradientBuffers(
  g: LayerGradients,
  { device, config }: { readonly device: Device; readonly config: ModelConfig },
  layer: Layer<unknown>,
  b: Pick<LayerBuffers, "glu" | "gateUp">,
) {
  const [rows = 0] = g.attentionScratch.shape;
  const [T = 0] = b.glu.shape;
  const inPlace = g.dgateUp.dtype === b.gateUp.dtype;
  const scratch = [rows, device.attentionScratchElements(layer.attention.shape)] as const;
  const own = reshapeTo(g, layerGradientTable(widthsOf(config, layer), "float32", T, scratch, inPlace));
  return inPlace ? { ...own, dglu: b.glu, dgateUp: b.gateUp } : own;
}

/** A layer's kept input, (T, D). */
export function layerInput(g: LayerGradients, layer: number, T: number): Tensor {
  const [, , D = 0] = g.inputs.shape;
  return reshape(rows(g.inputs, layer, 1), [T, D]);
}

/** The sizes of each layer's ops, for the device's scratch. */
export function scratchSizes(
  config: ModelConfig,
  sizes: Omit<ScratchSizes, "hiddenSize" | "intermediateSize" | "attention">,
): ScratchSizes[] {
  const { hiddenSize } = config;
  const quantizedElements = Math.max(
    0,
    ...parameterSpecs(config).map(({ quantized, shape }) => (quantized ? elementCount(shape) : 0)),
  );
  return layersOf(config).map(({ attention, mlp: { intermediateSize } }) => ({
    ...{ ...sizes, hiddenSize, intermediateSize, quantizedElements },
    attention: attention.shape,
  }));
}
