/**
 * A mixture of experts, forward and backward: a router sends each token to a few of many gated MLPs. Pairs of a token and
 * one of its experts lie side by side by expert, so that each expert has one product of all its tokens.
 *
 * A token's sum is in the order of its experts' probabilities and a pair's row is that of any product, so bits do not depend
 * on what else is in the batch (promise 2).
 */
import type { Pieces } from "../device/breathe.ts";
import type { ExpertWeights, PairPlaces, Routes, Weight } from "../device/device.ts";
import type { Experts } from "../families/layer.ts";
import { columns, reshape, type Tensor } from "../tensor/tensor.ts";
import type { LayerBuffers, LayerGradients } from "./layer-buffers.ts";
import { gradientOf, type Model, type ParameterGradients } from "./model.ts";

/** The weights of all experts, which lie side by side (parameterBlocks). */
function weightsOf([first, ...others]: readonly Weight[]): ExpertWeights {
  return { first: first!, count: 1 + others.length };
}

/** The first expert's gradient, which the others' follow; null if they are not trained. */
const gradientsOf = (gradients: ParameterGradients, [first]: readonly Weight[]): Tensor | null =>
  gradientOf(gradients, first!);

function routesOf(b: LayerBuffers, experts: Tensor): Routes {
  return { weights: b.routeWeights, experts, probabilities: b.routeProbabilities };
}

/** A layer's routes. */
export interface LayerRoutes {
  readonly experts: Tensor; // int32 (T, perToken)
  readonly given: boolean;
}

function placesOf(b: LayerBuffers): PairPlaces {
  return { offsets: b.pairOffsets, order: b.pairOrder, places: b.pairPlaces };
}

/** A row of gate and up, or of their product, for each pair. */
function byPair(t: Tensor, width: number): Tensor {
  return reshape(t, [((t.shape[0] ?? 0) * (t.shape[1] ?? 0)) / width, width]);
}

/** The loss of an unbalanced load, on the device. */
export interface BalanceBuffers {
  readonly load: Tensor; // float32 (E): the sum of the rows' probabilities, over layers
  readonly slopes: Tensor; // float32 (E)
  readonly rowWeights: Tensor; // float32 (T)
}

/** postNormed → routes → each pair's output, before it is weighed. */
export function* forwardExperts(
  { device: { ops } }: Model,
  mlp: Experts<Weight>,
  b: LayerBuffers,
  { experts, given }: LayerRoutes,
): Pieces {
  const { intermediateSize: F, normalized } = mlp;
  const [routes, places] = [routesOf(b, experts), placesOf(b)];
  ops.matmulForward(b.routeLogits, b.postNormed, mlp.router, null);
  ops.routeForward(routes, b.routeLogits, normalized, given);
  ops.dispatch(places, routes.experts);
  ops.gatherPairs(b.pairInputs, b.postNormed, places);
  const [gateUp, glu] = [byPair(b.gateUp, 2 * F), byPair(b.glu, F)];
  ops.expertsForward(columns(gateUp, 0, F), b.pairInputs, weightsOf(mlp.gate), places);
  yield;
  ops.expertsForward(columns(gateUp, F, F), b.pairInputs, weightsOf(mlp.up), places);
  yield;
  ops.gluForward(glu, gateUp, mlp.activation === "gelu_tanh");
  ops.expertsForward(b.pairOutputs, glu, weightsOf(mlp.down), places);
  yield;
}

/** What `forwardExperts` does elementwise, from what was kept of it. */
export function recomputeExperts({ device: { ops } }: Model, mlp: Experts<Weight>, b: LayerBuffers): void {
  const F = mlp.intermediateSize;
  ops.gatherPairs(b.pairInputs, b.postNormed, placesOf(b));
  ops.gluForward(byPair(b.glu, F), byPair(b.gateUp, 2 * F), mlp.activation === "gelu_tanh");
}

/** residual += each token's outputs, weighed */
export function addExperts({ device: { ops } }: Model, b: LayerBuffers): void {
  ops.combineForward(b.residual, b.pairOutputs, placesOf(b), b.routeWeights);
}

/** dnormed = the gradient of postNormed, given dresidual; those of parameters += */
export function* backwardExperts(
  { device: { ops } }: Model,
  gradients: ParameterGradients,
  mlp: Experts<Weight>,
  b: LayerBuffers,
  g: Pick<LayerGradients, "dresidual" | "dnormed" | "dglu" | "dgateUp" | "dpairs" | "drouteWeights" | "drouteLogits">,
  experts: Tensor,
  balance: BalanceBuffers | null,
): Pieces {
  const { intermediateSize: F, normalized, router } = mlp;
  const [routes, places] = [routesOf(b, experts), placesOf(b)];
  const [glu, gateUp, dglu, dgateUp] = [b.glu, b.gateUp, g.dglu, g.dgateUp].map((t, i) =>
    byPair(t, i % 2 === 0 ? F : 2 * F),
  ) as [Tensor, Tensor, Tensor, Tensor];
  ops.combineBackward(g.dpairs, g.drouteWeights, g.dresidual, b.pairOutputs, places, routes.weights);
  const down = weightsOf(mlp.down);
  const ddown = gradientsOf(gradients, mlp.down);
  if (ddown) ops.expertsBackwardWeight(ddown, g.dpairs, glu, down, places);
  yield;
  ops.expertsBackwardInput(dglu, g.dpairs, down, places);
  yield;
  ops.gluBackward(dgateUp, dglu, gateUp, mlp.activation === "gelu_tanh", null);
  for (const [i, part] of [mlp.gate, mlp.up].entries()) {
    const [weights, dpart] = [weightsOf(part), gradientsOf(gradients, part)];
    const dy = columns(dgateUp, i * F, F);
    if (dpart) ops.expertsBackwardWeight(dpart, dy, b.pairInputs, weights, places);
    yield;
    ops.expertsBackwardInput(g.dpairs, dy, weights, places, i > 0);
    yield;
  }
  ops.scatterPairs(g.dnormed, g.dpairs, places);
  ops.routeBackward(g.drouteLogits, g.drouteWeights, routes, normalized);
  if (balance) ops.balanceBackward(g.drouteLogits, routes.probabilities, balance.slopes, balance.rowWeights);
  const drouter = gradientOf(gradients, router);
  if (drouter) ops.matmulBackwardWeight(drouter, g.drouteLogits, b.postNormed, router);
  ops.matmulBackwardInput(g.dnormed, g.drouteLogits, router, true);
  yield;
}
