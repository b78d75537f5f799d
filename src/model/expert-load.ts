/**
 * How evenly experts are used, and the loss that evens it out (Fedus et al. 2021, arXiv 2101.03961, eq. 4 to 6; as in
 * transformers, over all layers at once): coef · E · Σ over experts of f · P, with f the pairs of the expert per row and P the
 * mean of its probabilities. A completion counts with a prompt of its own, however prompts are shared; its last token, from
 * which nothing is predicted, does not count. f is of the whole optimizer step, so that cutting it into micro-batches changes
 * nothing; it is known in advance, from the routes that the step's passes are given.
 */
import { InputError } from "../errors.ts";
import type { ModelConfig } from "../families/config.ts";
import type { LayerActivations } from "./activations.ts";
import { cutMicroBatches, type MicroBatch, type PackedGroup, routesByCompletion } from "./micro-batches.ts";
import type { Model } from "./model.ts";
import { type RouteShape, routeShape, type TokenRoutes } from "./routes.ts";
import { type Balance, forwardHidden, readExperts } from "./trunk.ts";

/**
 * The coefficient of the loss of an unbalanced load.
 *
 * @param given the setting router_aux_loss_coef; null: the model's own
 * @param path of the model, for messages
 * @throws InputError for a model without experts
 */
export function auxLossCoef(config: ModelConfig, given: number | null, path: string): number {
  if (config.routerAuxLossCoef !== undefined) return given ?? config.routerAuxLossCoef;
  if (given === null || given === 0) return 0;
  throw new InputError(
    `router_aux_loss_coef ${given}: ${path} has no experts whose load it could balance; leave it out`,
  );
}

/** Whether all completions have routes. */
export function areRouted(groups: readonly PackedGroup[]): boolean {
  return groups.every(({ completions }) => completions.every(({ routes }) => (routes ?? null) !== null));
}

/** The routes that the model's routers choose, of each completion in order. */
export async function findRoutes(
  model: Model,
  activations: LayerActivations,
  groups: readonly PackedGroup[],
  microBatchTokens: number,
  onTokens?: (tokens: number) => void,
): Promise<TokenRoutes[]> {
  const shape = routeShape(model.config)!;
  const found: TokenRoutes[] = [];
  const forwardOnly = { ...activations, gradient: null };
  for (const batch of cutMicroBatches(groups, microBatchTokens)) {
    await forwardHidden(model, batch, forwardOnly);
    const { routes } = (await readExperts(model, batch, forwardOnly))!;
    const own = routesByCompletion(batch, routes, shape);
    for (const [i, completion] of batch.completions.entries()) found[completion] = own[i]!;
    onTokens?.(batch.tokens.length);
  }
  return found;
}

/** The groups with these routes. */
export function withRoutes(groups: readonly PackedGroup[], routes: readonly TokenRoutes[]): PackedGroup[] {
  let at = 0;
  return groups.map(({ promptIds, completions }) => ({
    promptIds,
    completions: completions.map(({ completionIds }) => ({ completionIds, routes: routes[at++]! })),
  }));
}

/** Pairs of a row and an expert. (layers, experts) */
export type ExpertLoad = Float64Array;

/** Adds `weight` for each expert of these tokens. */
function count(load: ExpertLoad, { layers, experts, perToken }: RouteShape, routes: Uint16Array, weight: number): void {
  for (let i = 0; i < routes.length; i++) load[(Math.floor(i / perToken) % layers) * experts + routes[i]!]! += weight;
}

/** The load of a whole step, whose completions have routes. */
export function loadOfGroups(groups: readonly PackedGroup[], shape: RouteShape): ExpertLoad {
  const load = new Float64Array(shape.layers * shape.experts);
  for (const { completions } of groups)
    for (const { routes } of completions) {
      count(load, shape, routes!.prompt, 1);
      count(load, shape, routes!.completion, 1);
    }
  return load;
}

/** The load of one pass. @param routes (layers, T, perToken) */
export function loadOfPass(
  { rowWeights }: MicroBatch,
  routes: Int32Array,
  { layers, experts, perToken }: RouteShape,
): ExpertLoad {
  const load = new Float64Array(layers * experts);
  const T = rowWeights.length;
  for (let l = 0; l < layers; l++)
    for (let i = 0; i < T * perToken; i++)
      load[l * experts + routes[l * T * perToken + i]!]! += rowWeights[Math.floor(i / perToken)]!;
  return load;
}

/** The derivative of the loss in the sum of an expert's probabilities. (experts) */
export function balanceSlopes(load: ExpertLoad, { experts, perToken }: RouteShape, coef: number): Float32Array {
  const pairs = load.reduce((sum, some) => sum + some, 0);
  const rows = pairs / perToken; // of all layers
  return Float32Array.from({ length: experts }, (_, e) => {
    let own = 0;
    for (let i = e; i < load.length; i += experts) own += load[i]!;
    return rows === 0 ? 0 : (coef * experts * own) / (rows * rows);
  });
}

/** The batch with the loss of an unbalanced load; null slopes: without. */
export function balanced(batch: MicroBatch, slopes: Float32Array | null): MicroBatch & { readonly balance?: Balance } {
  return slopes === null ? batch : { ...batch, balance: { slopes, rowWeights: batch.rowWeights } };
}

/** How evenly the experts of each layer are used, 1 being evenly, and the share of those that are not used at all. */
export function loadMetrics(load: ExpertLoad, { layers, experts }: RouteShape): Record<string, number> {
  let [most, least, unused] = [0, Number.POSITIVE_INFINITY, 0];
  for (let l = 0; l < layers; l++) {
    const own = load.subarray(l * experts, (l + 1) * experts);
    const mean = own.reduce((sum, some) => sum + some, 0) / experts;
    for (const some of own) {
      if (some === 0) unused++;
      most = Math.max(most, some / mean);
      least = Math.min(least, some / mean);
    }
  }
  return { "experts/max_load": most, "experts/min_load": least, "experts/unused": unused / load.length };
}
