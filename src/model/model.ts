/**
 * A model on the device: its parameters by role and its rotary tables, in planned buffers. One copy of the weights
 * serves sampling, both directions of training, the embedding and the head (promise 1). weights.ts loads and saves
 * them.
 */
import type { Device, Weight } from "../device/device.ts";
import type { ModelConfig } from "../families/config.ts";
import { type Layer, mapLayer, type ParameterSpec } from "../families/layer.ts";
import { layersOf, ownHead, parameterSpecs } from "../families/parameters.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import type { PlanBuilder } from "../tensor/plan.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { planRopeTables, type RopeTables } from "./rope-tables.ts";

export interface ModelWeights {
  readonly dtype: ComputeDType;
  /** Every parameter, in the order of parameterSpecs. */
  readonly all: readonly Weight[];
  readonly embedding: Weight;
  readonly layers: readonly Layer<Weight>[];
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

/** Gradients by parameter name, flat float32 in the parameter's layout; null for a parameter that is not trained. */
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
  for (const { name, shape } of parameterSpecs(config))
    plan.add(`${prefix} weights`, `${prefix}/${name}`, dtype, [device.parameterElements(shape, dtype)]);
  const bindRope = planRopeTables(plan, config, positions, prefix);
  return (tensors) => {
    const weights = bindWeights(config, dtype, (name) => {
      const found = tensors.get(`${prefix}/${name}`);
      if (!found) throw new Error(`${prefix}/${name} is not in the memory plan`);
      return found;
    });
    return { device, config, weights, rope: bindRope(tensors) };
  };
}

function bindWeights(config: ModelConfig, dtype: ComputeDType, get: (name: string) => Tensor): ModelWeights {
  const all: Weight[] = [];
  const bind = ({ name, shape }: ParameterSpec): Weight => {
    const buffer = get(name);
    const weight = { name, address: buffer.address, dtype, shape, elements: buffer.shape[0] ?? 0 };
    all.push(weight);
    return weight;
  };
  const embedding = bind(config.embedding);
  const layers = layersOf(config).map((layer) => mapLayer(layer, bind));
  const finalNorm = bind(config.finalNorm);
  const head = ownHead(config);
  return { dtype, all, embedding, layers, finalNorm, head: head ? bind(head) : embedding };
}
