/**
 * A packed pass through a model's layers, for any head: tokens → normalized hidden states of the rows that the head
 * reads, and back from their gradients. The heads are in lm-head.ts (logprobs) and scalar-head.ts (values).
 */

import { doPieces } from "../device/breathe.ts";
import { firstRows } from "../tensor/tensor.ts";
import type { LayerActivations, WithGradients } from "./activations.ts";
import { backwardEmbedding, embed } from "./embedding.ts";
import type { BalanceBuffers } from "./experts.ts";
import { type Attend, backwardLayer, forwardHeads, forwardLayer } from "./layer.ts";
import { keptActivations, type LayerGradients, layerInput } from "./layer-buffers.ts";
import { gradientOf, type Model, type ParameterGradients } from "./model.ts";
import { type Routing, routeElements, routeShape } from "./routes.ts";

/** The part of a packed batch that the layers read. Shapes as in micro-batches.ts. */
export interface PackedTokens {
  readonly tokens: Int32Array; // (T)
  readonly positions: Int32Array; // (T)
  readonly segments: Int32Array; // (S, 4)
  readonly headRows: Int32Array; // (U) rows that the head needs, ascending
  /** Experts that the tokens go to (layers, T, perToken); missing or null: the router chooses. */
  readonly routes?: Int32Array | null | undefined;
  /** A loss of an unbalanced load of experts. */
  readonly balance?: Balance | null | undefined;
}

/** The loss Σ over experts of slope · load, where load is the sum of the rows' probabilities, over layers and weighted. */
export interface Balance {
  readonly slopes: Float32Array; // (experts)
  readonly rowWeights: Float32Array; // (T)
}

/** A packed batch of completions, from micro-batches.ts. */
export interface PackedBatch extends PackedTokens {
  readonly entryRows: Int32Array; // (E) index into headRows that predicts the entry
  readonly entryTargets: Int32Array; // (E)
}

function routingOf({ input: { routes } }: LayerActivations, batch: PackedTokens): Routing {
  return { all: routes, given: (batch.routes ?? null) !== null };
}

function balanceOf({ load, slopes, rowWeights }: LayerGradients, batch: PackedTokens): BalanceBuffers | null {
  return batch.balance ? { load, slopes, rowWeights: firstRows(rowWeights, batch.tokens.length) } : null;
}

/** What a pass tells of its experts; null for a model without any. */
export interface ExpertReport {
  /** Experts that the tokens went to. (layers, T, perToken) */
  readonly routes: Int32Array;
  /** The batch's part of the loss of an unbalanced load; 0 without one. */
  readonly balanceLoss: number;
}

/** Reads what `forwardHidden` has left of experts. */
export async function readExperts(
  { device, config }: Model,
  batch: PackedTokens,
  { input, gradient }: LayerActivations,
): Promise<ExpertReport | null> {
  if (routeShape(config) === null) return null;
  const elements = routeElements(config, batch.tokens.length);
  const routes = batch.routes ?? ((await device.read(firstRows(input.routes, elements))) as Int32Array);
  let balanceLoss = 0;
  if (batch.balance && gradient) {
    const load = (await device.read(gradient.load)) as Float32Array;
    for (const [e, slope] of batch.balance.slopes.entries()) balanceLoss += slope * load[e]!;
  }
  return { routes, balanceLoss };
}

/**
 * Computes `activations.head.normed` for the batch's head rows. (U, D) With `activations.gradient` each layer's input
 * is kept for `backwardHidden`, and more of some layers.
 */
export async function forwardHidden(model: Model, batch: PackedTokens, activations: LayerActivations): Promise<void> {
  const { device, config, weights } = model;
  const { ops } = device;
  const { input, head, gradient } = activations;
  const T = batch.tokens.length;
  device.upload(input.tokens, batch.tokens);
  device.upload(input.positions, batch.positions);
  device.upload(input.segments, batch.segments);
  device.upload(head.headRows, batch.headRows);
  const segments = firstRows(input.segments, batch.segments.length / 4);
  const positions = firstRows(input.positions, T);
  const residual = firstRows(activations.layer.residual, T);
  const routing = routingOf(activations, batch);
  if (batch.routes) device.upload(input.routes, batch.routes);
  const balance = gradient && balanceOf(gradient, batch);
  if (gradient && batch.balance) {
    device.upload(gradient.slopes, batch.balance.slopes);
    device.upload(gradient.rowWeights, batch.balance.rowWeights);
    ops.fill(gradient.load, 0);
  }
  embed(model, residual, firstRows(input.tokens, T));
  for (let layer = 0; layer < config.numLayers; layer++) {
    if (gradient) ops.cast(layerInput(gradient, layer, T), residual);
    const kept = gradient && keptActivations(gradient, config, layer, weights.layers[layer]!, T);
    const attend: Attend = (_, b, transform, shape) => {
      forwardHeads(device, b, transform, shape);
      ops.attentionForward(b.attention, kept && b.lse, b.qkv, segments, shape);
    };
    await doPieces(forwardLayer(model, layer, activations.layer, positions, attend, kept, routing, balance));
  }
  const U = batch.headRows.length;
  const hidden = firstRows(head.hidden, U);
  ops.gatherRows(hidden, residual, firstRows(head.headRows, U));
  ops.rmsnormForward(firstRows(head.normed, U), firstRows(head.rstd, U), hidden, weights.finalNorm, config.rmsNormEps);
}

/**
 * Adds the layers' parameter gradients, given those of the normalized head rows in `activations.gradient.dnormed`.
 * Must follow `forwardHidden` on the same activations.
 */
export async function backwardHidden(
  model: Model,
  batch: PackedTokens,
  activations: WithGradients<LayerActivations>,
  gradients: ParameterGradients,
): Promise<void> {
  const { device, config, weights } = model;
  const { ops } = device;
  const { layer: buffers, head, gradient: g } = activations;
  const [T, U] = [batch.tokens.length, batch.headRows.length];
  const dnormed = firstRows(g.dnormed, U);
  const hidden = firstRows(head.hidden, U);
  const dfinal = gradientOf(gradients, weights.finalNorm);
  ops.rmsnormBackward(dnormed, dfinal, dnormed, hidden, weights.finalNorm, firstRows(head.rstd, U), null);
  ops.scatterRows(firstRows(g.dresidual, T), dnormed, firstRows(head.headRows, U));

  const positions = firstRows(activations.input.positions, T);
  const segments = firstRows(activations.input.segments, batch.segments.length / 4);
  for (let layer = config.numLayers - 1; layer >= 0; layer--)
    await doPieces(
      backwardLayer(
        ...([model, layer, { layer: buffers, gradient: g }, gradients, positions, segments] as const),
        ...([routingOf(activations, batch), balanceOf(g, batch)] as const),
      ),
    );
  backwardEmbedding(model, gradients, firstRows(g.dresidual, T), firstRows(activations.input.tokens, T));
}
