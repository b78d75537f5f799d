/** The routes of an optimizer step, where they must be known before its passes: divided among ranks, as the passes are. */
import {
  areRouted,
  auxLossCoef,
  balanceSlopes,
  type ExpertLoad,
  findRoutes,
  loadMetrics,
  loadOfGroups,
  loadOfPass,
  withRoutes,
} from "../model/expert-load.ts";
import type { MicroBatch, PackedGroup } from "../model/micro-batches.ts";
import { type RouteShape, routeShape, type TokenRoutes } from "../model/routes.ts";
import type { ExpertReport } from "../model/trunk.ts";
import { divided } from "../ranks/ranks.ts";
import type { TrainedModel } from "./policy.ts";

/** Of a step of a model with experts. */
export interface StepExperts {
  readonly shape: RouteShape;
  /** Weight of the loss of an unbalanced load. */
  readonly coef: number;
  /** Its derivatives (experts); null: its weight is 0. */
  readonly slopes: Float32Array | null;
}

/** The routes that the model's routers choose, of each completion in order. */
export function routesOf(
  { model, activations, shards }: TrainedModel,
  groups: readonly PackedGroup[],
  microBatchTokens: number,
  onTokens?: (tokens: number) => void,
): Promise<TokenRoutes[]> {
  return divided("routes", shards?.division.ranks, groups, (own) =>
    findRoutes(model, activations, own, microBatchTokens, onTokens),
  );
}

/**
 * The groups, with routes if the loss of an unbalanced load needs them in advance.
 *
 * @returns `experts`: null for a model without any
 */
export async function routed(
  trained: TrainedModel,
  groups: readonly PackedGroup[],
  settings: { readonly microBatchTokens: number; readonly routerAuxLossCoef?: number | null },
  onTokens?: (tokens: number) => void,
): Promise<{ readonly groups: readonly PackedGroup[]; readonly experts: StepExperts | null }> {
  const { config } = trained.model;
  const shape = routeShape(config);
  if (!shape) return { groups, experts: null };
  const coef = auxLossCoef(config, settings.routerAuxLossCoef ?? null, "the model");
  if (coef === 0) return { groups, experts: { shape, coef, slopes: null } };
  const all = areRouted(groups)
    ? groups
    : withRoutes(groups, await routesOf(trained, groups, settings.microBatchTokens, onTokens));
  return { groups: all, experts: { shape, coef, slopes: balanceSlopes(loadOfGroups(all, shape), shape, coef) } };
}

/** What a pass of a step tells of experts; plain data. */
export interface PassExperts {
  readonly load: ExpertLoad | null;
  readonly balanceLoss: number;
}

export function expertsOfPass(
  batch: MicroBatch,
  report: ExpertReport | null,
  experts: StepExperts | null,
): PassExperts {
  const load = experts && loadOfPass(batch, report!.routes, experts.shape);
  return { load, balanceLoss: report?.balanceLoss ?? 0 };
}

/** The loss of an unbalanced load over a step's passes, and the step's metrics of experts; none for a model without any. */
export function expertsOfStep(
  experts: StepExperts | null,
  passes: readonly PassExperts[],
): { readonly balanceLoss: number; readonly metrics: Readonly<Record<string, number>> } {
  if (!experts) return { balanceLoss: 0, metrics: {} };
  const { shape, slopes, coef } = experts;
  const load = new Float64Array(shape.layers * shape.experts);
  let balanceLoss = 0;
  for (const pass of passes) {
    balanceLoss += pass.balanceLoss;
    pass.load!.forEach((pairs, i) => {
      load[i]! += pairs;
    });
  }
  return { balanceLoss, metrics: { ...(slopes && { aux_loss: balanceLoss / coef }), ...loadMetrics(load, shape) } };
}
