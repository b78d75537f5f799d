/**
 * A model on the device: its parameters by role and its rotary tables, in planned buffers. One copy of the weights
 * serves sampling, both directions of training, the embedding and the head (promise 1). weights.ts loads and saves
 * them.
 */
import type { Device, Weight } from "../device/device.ts";
import { adapterColumns } from "../families/adapters.ts";
import type { ModelConfig } from "../families/config.ts";
import {
  isExperts,
  type Layer,
  type Linear,
  mapLayer,
  type ParameterSpec,
  productsOfOneInput,
} from "../families/layer.ts";
import { joinedName, layersOf, ownHead, parameterBlocks } from "../families/parameters.ts";
import { bindBlock, planBlock } from "../tensor/blocks.ts";
import { type Bind, planBuffers } from "../tensor/buffers.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import type { PlanBuilder } from "../tensor/plan.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { planRopeTables, type RopeTables } from "./rope-tables.ts";

/** Linear maps of the same input, whose outputs stand side by side in a row. */
export interface LinearGroup {
  readonly parts: readonly Linear<Weight>[];
  /** All as one, if their parameters lie side by side as well. */
  readonly joined: Linear<Weight> | null;
  /** The first matrices of all their adapters as one, if they lie side by side. */
  readonly joinedDown: Weight | null;
}

/** A layer's products that share their input. */
export type LayerGroups = { readonly [Name in keyof ReturnType<typeof productsOfOneInput>]: LinearGroup };

export interface ModelWeights {
  readonly dtype: ComputeDType;
  /** Every parameter, in the order of parameterSpecs. */
  readonly all: readonly Weight[];
  readonly embedding: Weight;
  readonly layers: readonly Layer<Weight>[];
  /** By layer. */
  readonly groups: readonly LayerGroups[];
  readonly finalNorm: Weight;
  /** (V, D), the embedding itself if tied; (1, D) for a reward model or critic. */
  readonly head: Weight;
  /** What copies that are trained beside adapters were made from. */
  readonly originals: ReadonlyMap<Weight, Weight>;
}

/** Where the products of adapters' first matrices are, and their gradients: room for the largest pass. */
export interface AdapterProducts {
  readonly down: Tensor; // act (T, columns)
  /** null if the adapters are not trained. */
  readonly ddown: Tensor | null; // grad (T, columns)
}

export interface Model {
  readonly device: Device;
  readonly config: ModelConfig;
  readonly weights: ModelWeights;
  /** By layer. */
  readonly rope: readonly RopeTables[];
  /** null for a model without adapters. */
  readonly adapterProducts: AdapterProducts | null;
}

/** The same model, on the same weights, as it was before its adapters were trained. */
export function withoutAdapters(model: Model): Model {
  const { weights } = model;
  const original = (weight: Weight) => weights.originals.get(weight) ?? weight;
  const bare = ({ weight, bias }: Linear<Weight>): Linear<Weight> => ({ weight, bias });
  const group = ({ parts, joined }: LinearGroup): LinearGroup => ({ parts: parts.map(bare), joined, joinedDown: null });
  return {
    ...model,
    weights: {
      ...weights,
      embedding: original(weights.embedding),
      layers: weights.layers.map((layer) => mapLayer(layer, original, (linear) => bare(linear))),
      groups: weights.groups.map(({ qkv, gateUp }) => ({ qkv: group(qkv), gateUp: group(gateUp) })),
      finalNorm: original(weights.finalNorm),
      head: original(weights.head),
    },
    adapterProducts: null,
  };
}

/**
 * Gradients by name, of each parameter and of parameters that are one (`joinedName`), flat float32 in the parameter's
 * layout; null for one that is not trained.
 */
export type ParameterGradients = ReadonlyMap<string, Tensor | null>;

export function gradientOf(gradients: ParameterGradients, weight: Weight): Tensor | null {
  const gradient = gradients.get(weight.name);
  if (gradient === undefined) throw new Error(`no gradient buffer for ${weight.name}`);
  return gradient;
}

export interface ModelBuffers {
  /** Prefix of their names: "policy", "reference", "critic", "reward model". */
  readonly prefix: string;
  readonly dtype: ComputeDType;
  /** Positions that the rotary tables must cover. */
  readonly positions: number;
  /** Prefix of another model of the same type, planned before, whose frozen parameters are this model's too. */
  readonly frozenOf?: string | undefined;
}

/** Adds parameters and rotary tables to the plan; the returned function binds them after allocation. */
export function planModelBuffers(
  plan: PlanBuilder,
  device: Device,
  config: ModelConfig,
  { prefix, dtype, positions, frozenOf }: ModelBuffers,
): (tensors: ReadonlyMap<string, Tensor>) => Model {
  const elements = ({ shape, quantized }: ParameterSpec) =>
    quantized ? device.nf4Layout(shape).bytes : device.parameterElements(shape, dtype);
  const blocks = parameterBlocks(config, device.rowBlock).map(({ name, parts }) => ({
    name,
    parts: parts.map((spec) => ({ name: spec.name, elements: elements(spec) })),
    // A matrix in NF4 is a block by itself.
    type: parts[0]?.quantized ? ("uint8" as const) : dtype,
  }));
  const isAdapter = new Set(
    parameterBlocks(config, device.rowBlock).flatMap(({ name, parts }) =>
      config.adapters && parts.every(({ trainable }) => trainable) ? [name] : [],
    ),
  );
  const isShared = (name: string) => frozenOf !== undefined && !isAdapter.has(name);
  for (const block of blocks)
    if (!isShared(block.name))
      planBlock(plan, [`${prefix} ${isAdapter.has(block.name) ? "adapters" : "weights"}`, prefix, block.type], block);
  const bindRope = planRopeTables(plan, config, positions, prefix);
  return (tensors) => {
    const owner = (name: string) => (isShared(name) ? frozenOf! : prefix);
    const buffers = new Map(blocks.flatMap((block) => [...bindBlock(tensors, owner(block.name), block)]));
    const weights = bindWeights(config, dtype, buffers);
    return { device, config, weights, rope: bindRope(tensors), adapterProducts: null };
  };
}

/** Columns that the products of the first matrices take in the widest group of a model's layers; 0 without adapters. */
function adapterWidth(config: ModelConfig): number {
  const widths = layersOf(config).flatMap((layer) => {
    const { qkv, gateUp } = productsOfOneInput(layer);
    const down = isExperts(layer.mlp) ? [] : [layer.mlp.down];
    const groups = [qkv, gateUp, [layer.attention.o], down] as const;
    const ranks = (linears: readonly Linear<ParameterSpec>[]) =>
      linears.flatMap(({ adapter }) => adapter?.a.shape[0] ?? []);
    return groups.map((linears) => adapterColumns(ranks(linears)).total);
  });
  return Math.max(0, ...widths);
}

/**
 * Adds the buffers of adapters to the plan, for passes of up to `tokens` rows.
 *
 * @param trained with those of the backward pass
 */
export function planAdapterProducts(
  plan: PlanBuilder,
  device: Device,
  config: ModelConfig,
  { prefix, dtype }: Omit<ModelBuffers, "positions">,
  { tokens, trained }: { readonly tokens: number; readonly trained: boolean },
): Bind<AdapterProducts | null> {
  const shape = [tokens, adapterWidth(config)] as const;
  if (shape[1] === 0) return () => null;
  const [act, grad] = [device.activationDType(dtype), device.gradientDType(dtype)];
  const place = { group: `${prefix} adapters`, prefix };
  const bindDown = planBuffers(plan, place, { down: ["products of adapters", act, shape] });
  const bindGradient = trained
    ? planBuffers(plan, place, { ddown: ["gradients of products of adapters", grad, shape] })
    : () => ({ ddown: null });
  return (tensors) => ({ ...bindDown(tensors), ...bindGradient(tensors) });
}

function bindWeights(config: ModelConfig, dtype: ComputeDType, buffers: ReadonlyMap<string, Tensor>): ModelWeights {
  const all: Weight[] = [];
  const originals = new Map<Weight, Weight>();
  const view = (name: string, shape: readonly number[], { address, shape: [elements = 0] }: Tensor): Weight => {
    return { name, address, dtype, shape, elements };
  };
  const bind = ({ name, shape, copyOf, offset, quantized }: ParameterSpec): Weight => {
    const original = copyOf && bind(copyOf);
    const own = view(name, shape, buffers.get(name)!);
    const weight: Weight = { ...own, ...(offset !== undefined && { offset }), ...(quantized && { quantized: "nf4" }) };
    if (original) originals.set(weight, original);
    all.push(weight);
    return weight;
  };
  /** Parameters that lie side by side as one; null for others. */
  const join = (parts: readonly Weight[]): Weight | null => {
    const buffer = buffers.get(joinedName(parts));
    const [, ...inputs] = parts[0]?.shape ?? [];
    return buffer ? view(joinedName(parts), [sum(parts.map(({ shape }) => shape[0]!)), ...inputs], buffer) : null;
  };
  const embedding = bind(config.embedding);
  const layers = layersOf(config).map((layer) => mapLayer(layer, bind));
  const groups = layers.map((layer): LayerGroups => {
    const { qkv, gateUp } = productsOfOneInput(layer);
    return { qkv: linearGroup(qkv, join), gateUp: linearGroup(gateUp, join) };
  });
  const finalNorm = bind(config.finalNorm);
  const head = ownHead(config);
  // A tied head stays the original of an embedding of which a copy is trained, as in PEFT.
  const tied = originals.get(embedding) ?? embedding;
  return { dtype, all, embedding, layers, groups, finalNorm, head: head ? bind(head) : tied, originals };
}

/** @param join parameters side by side as one, null for others */
function linearGroup(
  parts: readonly Linear<Weight>[],
  join: (weights: readonly Weight[]) => Weight | null,
): LinearGroup {
  const weight = join(parts.map((part) => part.weight));
  const biases = parts.flatMap(({ bias }) => bias ?? []);
  const down = parts.flatMap(({ adapter }) => adapter?.a ?? []);
  return {
    parts,
    joined: weight && { weight, bias: biases.length > 0 ? join(biases) : null },
    joinedDown: down.length > 0 ? join(down) : null,
  };
}

const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);
