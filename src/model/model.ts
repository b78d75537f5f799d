/**
 * A packed pass through the whole model: tokens → log-probabilities and entropies of the targets, and back.
 * Used by training, scoring and the reference model; rollouts have their own way through the same layers (../rollout).
 */
import type { ModelConfig } from "../config/model.ts";
import { breathe, doPieces } from "../device/breathe.ts";
import type { Device } from "../device/device.ts";
import { firstRows, rows, type Tensor } from "../tensor/tensor.ts";
import { type Activations, attentionShape, type HeadBuffers } from "./activations.ts";
import {
  type Attend,
  backwardLayer,
  forwardLayer,
  gradientOf,
  layerInput,
  layerRows,
  type ParameterGradients,
  type RopeTables,
} from "./transformer.ts";
import type { ModelWeights } from "./weights.ts";

/** A model ready to run: parameters, rotary tables, and the device they lie on. */
export interface Model {
  readonly device: Device;
  readonly config: ModelConfig;
  readonly weights: ModelWeights;
  readonly rope: RopeTables;
}

/** What a packed pass reads. Shapes as in micro-batches.ts, which makes it. */
export interface PackedBatch {
  readonly tokens: Int32Array; // (T)
  readonly positions: Int32Array; // (T)
  readonly segments: Int32Array; // (S, 4)
  readonly headRows: Int32Array; // (U) rows that the LM head needs, ascending
  readonly entryRows: Int32Array; // (E) index into headRows that predicts the entry
  readonly entryTargets: Int32Array; // (E)
}

export interface Scores {
  /** Log-probability of each entry's target, of logits ÷ temperature. (E) */
  readonly logprobs: Float32Array;
  /** Entropy of the distribution at each entry, in nats. (E) */
  readonly entropies: Float32Array;
}

/** The head sees its rows' targets side by side; entries come completion by completion. */
interface HeadOrder {
  /** Place of entry e among the sorted ones. (E) */
  readonly place: Int32Array;
  /** First sorted entry of each row, and the end. (U + 1) */
  readonly start: Int32Array;
}

function headOrder({ headRows, entryRows }: PackedBatch): HeadOrder {
  const start = new Int32Array(headRows.length + 1);
  for (const row of entryRows) start[row + 1]! += 1;
  for (let row = 0; row < headRows.length; row++) start[row + 1]! += start[row]!;
  const next = start.slice();
  const place = Int32Array.from(entryRows, (row) => next[row]!++);
  return { place, start };
}

function sorted<A extends Int32Array | Float32Array>(values: ArrayLike<number>, place: Int32Array, into: A): A {
  for (let e = 0; e < place.length; e++) into[place[e]!] = values[e]!;
  return into;
}

/** The head's chunks: row ranges [from, from + count). */
function* chunks(total: number, size: number): Generator<[from: number, count: number]> {
  for (let from = 0; from < total; from += size) yield [from, Math.min(size, total - from)];
}

/** A batch's inputs on the device, and the order of its head. */
function upload(device: Device, batch: PackedBatch, activations: Activations): HeadOrder {
  const { input, head } = activations;
  const order = headOrder(batch);
  device.upload(input.tokens, batch.tokens);
  device.upload(input.positions, batch.positions);
  device.upload(input.segments, batch.segments);
  device.upload(head.headRows, batch.headRows);
  device.upload(head.entryStart, order.start);
  device.upload(head.targets, sorted(batch.entryTargets, order.place, new Int32Array(batch.entryTargets.length)));
  return order;
}

/**
 * Log-probabilities and entropies of a batch. With `activations.gradient` each layer's input is kept, so that
 * `backward` can follow.
 */
export async function forward(
  model: Model,
  batch: PackedBatch,
  activations: Activations,
  temperature: number,
): Promise<Scores> {
  const { device, config, weights, rope } = model;
  const { ops } = device;
  const T = batch.tokens.length;
  const order = upload(device, batch, activations);
  const segments = firstRows(activations.input.segments, batch.segments.length / 4);
  const positions = firstRows(activations.input.positions, T);
  const b = layerRows(activations.layer, T);
  const shape = attentionShape(config);
  ops.embeddingForward(b.residual, firstRows(activations.input.tokens, T), weights.embedding);
  for (const [layer, layerWeights] of weights.layers.entries()) {
    if (activations.gradient) ops.cast(layerInput(activations.gradient, layer, T), b.residual);
    const attend: Attend = (_, { attention, qkv }) => ops.attentionForward(attention, null, qkv, segments, shape);
    await doPieces(forwardLayer(device, config, layerWeights, layer, b, positions, rope, attend));
  }
  const { head } = activations;
  const U = batch.headRows.length;
  ops.gatherRows(firstRows(head.hidden, U), b.residual, firstRows(head.headRows, U));
  normHead(model, head, U);
  for (const [from, count] of chunks(U, activations.sizes.headChunk)) {
    const at = (t: Tensor) => rows(t, from, count);
    ops.lmHeadForward(
      head.logprob,
      at(head.entropy),
      at(head.lse),
      firstRows(head.logits, count),
      at(head.normed),
      weights.head,
      rows(head.entryStart, from, count + 1),
      head.targets,
      temperature,
    );
    await breathe();
  }
  const E = batch.entryRows.length;
  const logprob = (await device.read(firstRows(head.logprob, E))) as Float32Array;
  const entropy = (await device.read(firstRows(head.entropy, U))) as Float32Array;
  return {
    logprobs: Float32Array.from(order.place, (place) => logprob[place]!),
    entropies: Float32Array.from(batch.entryRows, (row) => entropy[row]!),
  };
}

function normHead({ device, config, weights }: Model, head: HeadBuffers, U: number): void {
  const [y, rstd, x] = [firstRows(head.normed, U), firstRows(head.rstd, U), firstRows(head.hidden, U)];
  device.ops.rmsnormForward(y, rstd, x, weights.finalNorm, config.rmsNormEps);
}

/**
 * Adds the batch's parameter gradients, given the loss's derivatives by entry. Follows `forward` on the same
 * activations, with nothing in between.
 */
export async function backward(
  model: Model,
  batch: PackedBatch,
  activations: Activations,
  gradients: ParameterGradients,
  derivatives: { readonly dlogprobs: ArrayLike<number>; readonly dentropies: ArrayLike<number> },
  temperature: number,
): Promise<void> {
  const { device, config, weights, rope } = model;
  const { ops } = device;
  const { head, gradient: g } = activations;
  if (!g) throw new Error("backward on activations without gradients");
  const [T, U, E] = [batch.tokens.length, batch.headRows.length, batch.entryRows.length];
  const order = headOrder(batch);
  device.upload(g.dlogprob, sorted(derivatives.dlogprobs, order.place, new Float32Array(E)));
  const dentropy = new Float32Array(U); // a row's entropy belongs to all its entries
  for (let e = 0; e < E; e++) dentropy[batch.entryRows[e]!]! += derivatives.dentropies[e]!;
  device.upload(g.dentropy, dentropy);

  const dnormed = firstRows(g.dnormed, U);
  const dhead = gradientOf(gradients, weights.head);
  for (const [from, count] of chunks(U, activations.sizes.headChunk)) {
    const at = (t: Tensor) => rows(t, from, count);
    ops.lmHeadBackward(
      at(dnormed),
      dhead,
      firstRows(head.logits, count),
      g.dlogprob,
      at(g.dentropy),
      at(head.normed),
      weights.head,
      rows(head.entryStart, from, count + 1),
      head.targets,
      at(head.lse),
      at(head.entropy),
      temperature,
    );
    await breathe();
  }
  const hidden = firstRows(head.hidden, U);
  const dfinal = gradientOf(gradients, weights.finalNorm);
  ops.rmsnormBackward(dnormed, dfinal, dnormed, hidden, weights.finalNorm, firstRows(head.rstd, U), null);
  ops.scatterRows(firstRows(g.dresidual, T), dnormed, firstRows(head.headRows, U));

  const b = layerRows(activations.layer, T);
  const positions = firstRows(activations.input.positions, T);
  const segments = firstRows(activations.input.segments, batch.segments.length / 4);
  for (let layer = config.numLayers - 1; layer >= 0; layer--) {
    const layerWeights = weights.layers[layer]!;
    await doPieces(backwardLayer(device, config, layerWeights, layer, b, g, gradients, positions, segments, rope));
  }
  const tokens = firstRows(activations.input.tokens, T);
  const dembedding = gradientOf(gradients, weights.embedding);
  ops.embeddingBackward(dembedding, firstRows(g.dresidual, T), tokens, weights.embedding);
}
