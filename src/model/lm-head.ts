/**
 * A packed pass through the whole model: tokens → log-probabilities and entropies of the targets, and back.
 * Used by training, scoring and the reference model; rollouts run the same layers from ../rollout.
 */
import { breathe } from "../device/breathe.ts";
import type { Device } from "../device/device.ts";
import type { ModelConfig } from "../families/config.ts";
import type { BufferTable } from "../tensor/buffers.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import { firstRows, rows, type Tensor } from "../tensor/tensor.ts";
import { type ActivationsOf, hiddenTable, type PassSizes, type WithGradients } from "./activations.ts";
import { gradientOf, type Model, type ParameterGradients } from "./model.ts";
import { backwardHidden, forwardHidden, type PackedBatch } from "./trunk.ts";

export interface LogprobSizes extends PassSizes {
  /** Completion tokens of the largest packed batch. */
  readonly entries: number;
  /** Rows of logits computed at once. */
  readonly headChunk: number;
}

/** Chunks of logits have enough rows to keep the product busy, and few enough to stay small. */
export function logprobSizes(
  { headBytes }: Pick<Device, "headBytes">,
  { vocabSize }: ModelConfig,
  { tokens, longestPrompt }: PassSizes,
): LogprobSizes {
  const chunk = Math.max(16, Math.min(1024, Math.floor(headBytes / (4 * vocabSize))));
  return { tokens, entries: tokens, headChunk: Math.min(tokens, chunk), longestPrompt };
}

/** The buffers of log-probabilities. */
export const lmHead = {
  forward(config: ModelConfig, act: ComputeDType, sizes: LogprobSizes) {
    const { tokens: T, entries, headChunk } = sizes;
    return {
      ...hiddenTable(config, act, sizes),
      logits: ["logits", "float32", [headChunk, config.vocabSize]],
      lse: ["head lse", "float32", [T]],
      entropy: ["entropy", "float32", [T]],
      logprob: ["logprob", "float32", [entries]],
      entryStart: ["entry start", "int32", [T + 1]],
      targets: ["targets", "int32", [entries]],
    } satisfies BufferTable<string>;
  },
  backward({ tokens, entries }: LogprobSizes) {
    return {
      dlogprob: ["dlogprob", "float32", [entries]],
      dentropy: ["dentropy", "float32", [tokens]],
    } satisfies BufferTable<string>;
  },
};

export type Activations = ActivationsOf<typeof lmHead>;

export interface Scores {
  /** Log-probability of each entry's target, of logits ÷ temperature. (E) */
  readonly logprobs: Float32Array;
  /** Entropy of the distribution at each entry, in nats. (E) */
  readonly entropies: Float32Array;
}

/** The head needs entries sorted by row; a batch has them completion by completion. */
interface HeadOrder {
  /** Place of entry e in sorted order. (E) */
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

/** Uploads the head's inputs in sorted order. */
function uploadTargets(device: Device, batch: PackedBatch, head: Activations["head"]): HeadOrder {
  const order = headOrder(batch);
  device.upload(head.entryStart, order.start);
  device.upload(head.targets, sorted(batch.entryTargets, order.place, new Int32Array(batch.entryTargets.length)));
  return order;
}

/**
 * Log-probabilities and entropies of a batch. With `activations.gradient` each layer's input is kept for `backward`.
 */
export async function forward(
  model: Model,
  batch: PackedBatch,
  activations: Activations,
  temperature: number,
): Promise<Scores> {
  const { device, weights } = model;
  const { ops } = device;
  const { head } = activations;
  const order = uploadTargets(device, batch, head);
  await forwardHidden(model, batch, activations);
  const U = batch.headRows.length;
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

/**
 * Adds the batch's parameter gradients, given the loss's derivatives by entry. Must directly follow `forward` on the
 * same activations.
 */
export async function backward(
  model: Model,
  batch: PackedBatch,
  activations: WithGradients<Activations>,
  gradients: ParameterGradients,
  derivatives: { readonly dlogprobs: ArrayLike<number>; readonly dentropies: ArrayLike<number> },
  temperature: number,
): Promise<void> {
  const { device, weights } = model;
  const { ops } = device;
  const { head, gradient: g } = activations;
  const [U, E] = [batch.headRows.length, batch.entryRows.length];
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
  await backwardHidden(model, batch, activations, gradients);
}
