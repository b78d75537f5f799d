/**
 * Which experts tokens go to. A pass records it, or is given it: training may repeat the routes of the rollout, so that the
 * policy's ratios compare the same experts (rollout routing replay, R3: Ma et al. 2025, arXiv 2510.11370).
 */
import type { ModelConfig } from "../families/config.ts";
import { isExperts, type Layer } from "../families/layer.ts";
import { layersOf } from "../families/parameters.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";

/** A model's layers with experts. */
export interface RouteShape {
  readonly layers: number;
  /** Experts of a layer. */
  readonly experts: number;
  /** Experts of a token, in each layer. */
  readonly perToken: number;
}

/** Every pass asks for it, and a model may have thousands of experts. */
const shapes = new WeakMap<ModelConfig, RouteShape | null>();

/** null for a model without experts. Its layers with experts have equally many. */
export function routeShape(config: ModelConfig): RouteShape | null {
  const known = shapes.get(config);
  if (known !== undefined) return known;
  const shape = findShape(config);
  shapes.set(config, shape);
  return shape;
}

function findShape(config: ModelConfig): RouteShape | null {
  const mixtures = layersOf(config).flatMap(({ mlp }) => (isExperts(mlp) ? [mlp] : []));
  const [first] = mixtures;
  if (!first) return null;
  const [experts, perToken] = [first.gate.length, first.perToken];
  if (mixtures.some((one) => one.gate.length !== experts || one.perToken !== perToken))
    throw new Error("layers have different numbers of experts");
  return { layers: mixtures.length, experts, perToken };
}

/** Elements of the routes of `tokens` tokens, at least 1. */
export function routeElements(config: ModelConfig, tokens: number): number {
  const shape = routeShape(config);
  return shape ? shape.layers * tokens * shape.perToken : 1;
}

/** A completion's routes, token by token: (tokens, layers, perToken). */
export interface TokenRoutes {
  readonly shape: RouteShape;
  readonly prompt: Uint16Array; // P tokens
  readonly completion: Uint16Array; // R − 1 tokens: nothing follows the last one
}

/** The routes of a pass on the device, layer by layer. */
export interface Routing {
  readonly all: Tensor; // int32 (layers · T · perToken) or longer
  /** They are what the pass takes, rather than what it writes. */
  readonly given: boolean;
}

/** A layer's part of the routes of T tokens. int32 (T, perToken) */
export function layerRoutes({ all }: Routing, layers: readonly Layer<unknown>[], layer: number, T: number): Tensor {
  const { mlp } = layers[layer]!;
  if (!isExperts(mlp)) throw new Error(`layer ${layer} has no experts`);
  let before = 0;
  for (let l = 0; l < layer; l++) if (isExperts(layers[l]!.mlp)) before++;
  return tensor(all.name, all.address + 4 * before * T * mlp.perToken, "int32", [T, mlp.perToken]);
}

/** Rows [from, from + count) of a pass's routes, token by token. @param all (layers, T, perToken) */
export function tokenRoutes(
  all: Int32Array,
  { layers, perToken }: RouteShape,
  T: number,
  from: number,
  count: number,
): Uint16Array {
  const own = new Uint16Array(count * layers * perToken);
  for (let t = 0; t < count; t++)
    for (let l = 0; l < layers; l++)
      for (let k = 0; k < perToken; k++) own[(t * layers + l) * perToken + k] = all[(l * T + from + t) * perToken + k]!;
  return own;
}

/** The reverse: writes the routes of tokens from row `from` on. @param all (layers, T, perToken) */
export function placeRoutes(
  all: Int32Array,
  { layers, perToken }: RouteShape,
  T: number,
  from: number,
  routes: Uint16Array,
): void {
  const count = routes.length / (layers * perToken);
  for (let t = 0; t < count; t++)
    for (let l = 0; l < layers; l++)
      for (let k = 0; k < perToken; k++)
        all[(l * T + from + t) * perToken + k] = routes[(t * layers + l) * perToken + k]!;
}
