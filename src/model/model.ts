/**
 * A model on the device: its parameters by role and its rotary tables, in planned buffers. One copy of the weights
 * serves sampling, both directions of training, the embedding and the head (promise 1). weights.ts loads and saves
 * them.
 */
import type { Device, Weight } from "../device/device.ts";
import type { ModelConfig } from "../families/config.ts";
import { type Layer, type Linear, mapLayer, type ParameterSpec, productsOfOneInput } from "../families/layer.ts";
import { joinedName, layersOf, ownHead, parameterBlocks } from "../families/parameters.ts";
import { bindBlock, planBlock } from "../tensor/blocks.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import type { PlanBuilder } from "../tensor/plan.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { planRopeTables, type RopeTables } from "./rope-tables.ts";

/** Linear maps of the same input, whose outputs stand side by side in a row. */
export interface LinearGroup {
  readonly parts: readonly Linear<Weight>[];
  /** All as one, if their parameters lie side by side as well. */
  readonly joined: Linear<Weight> | null;
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
}

export interface Model {
  readonly device: Device;
  readonly config: ModelConfig;
  readonly weights: ModelWeights;
  /** By layer. */
  readonly rope: readonly RopeTables[];
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
}

/** Adds parameters and rotary tables to the plan; the returned function binds them after allocation. */
export function planModelBuffers(
  plan: PlanBuilder,
  device: Device,
  config: ModelConfig,
  { prefix, dtype, positions }: ModelBuffers,
): (tensors: ReadonlyMap<string, Tensor>) => Model {
  const elements = (spec: ParameterSpec) => device.parameterElements(spec.shape, dtype);
  const blocks = parameterBlocks(config, device.rowBlock).map(({ name, parts }) => ({
    name,
    parts: parts.map((spec) => ({ name: spec.name, elements: elements(spec) })),
  }));
  for (const block of blocks) planBlock(plan, [`${prefix} weights`, prefix, dtype], block);
  const bindRope = planRopeTables(plan, config, positions, prefix);
  return (tensors) => {
    const buffers = new Map(blocks.flatMap((block) => [...bindBlock(tensors, prefix, block)]));
    return { device, config, weights: bindWeights(config, dtype, buffers), rope: bindRope(tensors) };
  };
}

function bindWeights(config: ModelConfig, dtype: ComputeDType, buffers: ReadonlyMap<string, Tensor>): ModelWeights {
  const all: Weight[] = [];
  const view = (name: string, shape: readonly number[], { address, shape: [elements = 0] }: Tensor): Weight => {
    return { name, address, dtype, shape, elements };
  };
  const bind = ({ name, shape }: ParameterSpec): Weight => {
    const weight = view(name, shape, buffers.get(name)!);
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
  return { dtype, all, embedding, layers, groups, finalNorm, head: head ? bind(head) : embedding };
}

/** @param join parameters side by side as one, null for others */
function linearGroup(
  parts: readonly Linear<Weight>[],
  join: (weights: readonly Weight[]) => Weight | null,
): LinearGroup {
  const weight = join(parts.map((part) => part.weight));
  const biases = parts.flatMap(({ bias }) => bias ?? []);
  return { parts, joined: weight && { weight, bias: biases.length > 0 ? join(biases) : null } };
}

const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);
