/**
 * A packed pass through the whole model: tokens → log-probabilities and entropies of the targets, and back.
 * Used by training, scoring and the reference model; rollouts run the same layers from ../rollout.
 */
import { breathe } from "../device/breathe.ts";
import type { Device, LogitCap } from "../device/device.ts";
import type { ModelConfig } from "../families/config.ts";
import type { BufferTable } from "../tensor/buffers.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import { firstRows, rows, type Tensor } from "../tensor/tensor.ts";
import { type ActivationsOf, hiddenTable, type PassSizes, type WithGradients } from "./activations.ts";
import { gradientOf, type Model, type ParameterGradients } from "./model.ts";
import { backwardHidden, type ExpertReport, forwardHidden, type PackedBatch, readExperts } from "./trunk.ts";

export interface LogprobSizes extends PassSizes {
  /** Completion tokens of the largest packed batch. */
  readonly entries: number;
  /** Rows of logits computed at once. */
  readonly headChunk: number;
}

/** Chunks of logits have enough rows to keep the product busy, and few enough to stay small. */
export function logprobSizes(
  { headBytes, headRows }: Pick<Device, "headBytes" | "headRows">,
  { vocabSize }: ModelConfig,
  { tokens, longestPrompt }: PassSizes,
): LogprobSizes {
  const chunk = Math.max(16, Math.min(headRows, Math.floor(headBytes / (4 * vocabSize))));
  return { tokens, entries: tokens, headChunk: Math.min(tokens, chunk), longestPrompt };
}

/** The buffers of log-probabilities. */
export const lmHead = {
  forward(config: ModelConfig, act: ComputeDType, sizes: LogprobSizes) {
    const { tokens: T, entries, headChunk } = sizes;
    return {
      ...hiddenTable(config, act, sizes),
      logits: ["logits", "float32", [headChunk, config.vocabSize], ["head"]],
      lse: ["head lse", "float32", [T]],
      entropy: ["entropy", "float32", [T]],
      logprob: ["logprob", "float32", [entries]],
      entryStart: ["entry start", "int32", [T + 1]],
      targets: ["targets", "int32", [entries]],
    } satisfies BufferTable<string>;
  },
  backward(config: ModelConfig, { tokens, entries, headChunk }: LogprobSizes) {
    return {
      // Beside capped logits, from which their gradient follows.
      dlogits: ["dlogits", "float32", config.logitCap === undefined ? [1] : [headChunk, config.vocabSize], ["head"]],
      dlogprob: ["dlogprob", "float32", [entries]],
      dentropy: ["dentropy", "float32", [tokens]],
    } satisfies BufferTable<string>;
  },
};

export type Activations = ActivationsOf<typeof lmHead>;

/** Of some entries. */
export type EntryScores = Pick<Scores, "logprobs" | "entropies">;

export interface Scores {
  /** Log-probability of each entry's target, of logits ÷ temperature. (E) */
  readonly logprobs: Float32Array;
  /** Entropy of the distribution at each entry, in nats. (E) */
  readonly entropies: Float32Array;
  readonly experts: ExpertReport | null;
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
function* chunks(total: number, size: number): Generator<Chunk> {
  for (let from = 0; from < total; from += size) yield { from, count: Math.min(size, total - from) };
}

/** Uploads the head's inputs in sorted order. */
function uploadTargets(device: Device, batch: PackedBatch, head: Activations["head"]): HeadOrder {
  const order = headOrder(batch);
  device.upload(head.entryStart, order.start);
  device.upload(head.targets, sorted(batch.entryTargets, order.place, new Int32Array(batch.entryTargets.length)));
  return order;
}

interface Chunk {
  readonly from: number;
  readonly count: number;
}

/** The model's soft cap; null if it has none. */
function capOf({ config: { logitCap } }: Model, dlogits: Tensor | null = null): LogitCap | null {
  return logitCap === undefined ? null : { cap: logitCap, dlogits };
}

function forwardChunk(model: Model, { head }: Activations, { from, count }: Chunk, temperature: number): void {
  const at = (t: Tensor) => rows(t, from, count);
  model.device.ops.lmHeadForward(
    head.logprob,
    at(head.entropy),
    at(head.lse),
    firstRows(head.logits, count),
    at(head.normed),
    model.weights.head,
    rows(head.entryStart, from, count + 1),
    head.targets,
    temperature,
    capOf(model),
  );
}

/** @param recompute the logits are no longer those of this chunk */
function backwardChunk(
  model: Model,
  { head, gradient: g }: WithGradients<Activations>,
  gradients: ParameterGradients,
  { from, count }: Chunk,
  temperature: number,
  recompute: boolean,
): void {
  const at = (t: Tensor) => rows(t, from, count);
  const w = model.weights.head;
  model.device.ops.lmHeadBackward(
    at(g.dnormed),
    gradientOf(gradients, w),
    firstRows(head.logits, count),
    g.dlogprob,
    at(g.dentropy),
    at(head.normed),
    w,
    rows(head.entryStart, from, count + 1),
    head.targets,
    at(head.lse),
    at(head.entropy),
    temperature,
    recompute,
    capOf(model, g.dlogits),
  );
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
  const { device } = model;
  const { head, sizes } = activations;
  const order = uploadTargets(device, batch, head);
  await forwardHidden(model, batch, activations);
  const U = batch.headRows.length;
  // The first chunk comes last, so that `backward`, which begins with it, finds its logits.
  for (const chunk of [...chunks(U, sizes.headChunk)].reverse()) {
    forwardChunk(model, activations, chunk, temperature);
    await breathe();
  }
  const E = batch.entryRows.length;
  const logprob = (await device.read(firstRows(head.logprob, E))) as Float32Array;
  const entropy = (await device.read(firstRows(head.entropy, U))) as Float32Array;
  return {
    experts: await readExperts(model, batch, activations),
    logprobs: Float32Array.from(order.place, (place) => logprob[place]!),
    entropies: Float32Array.from(batch.entryRows, (row) => entropy[row]!),
  };
}

/** The loss's derivatives in the logprob and the entropy of entries. */
export interface Derivatives {
  readonly dlogprobs: ArrayLike<number>;
  readonly dentropies: ArrayLike<number>;
}

/**
 * Adds the batch's parameter gradients, given the loss's derivatives by entry. Must directly follow `forward` on the
 * same activations. Logits are recomputed, except those of the first chunk.
 */
export async function backward(
  model: Model,
  batch: PackedBatch,
  activations: WithGradients<Activations>,
  gradients: ParameterGradients,
  derivatives: Derivatives,
  temperature: number,
): Promise<void> {
  const { device } = model;
  const { gradient: g, sizes } = activations;
  const [U, E] = [batch.headRows.length, batch.entryRows.length];
  const order = headOrder(batch);
  device.upload(g.dlogprob, sorted(derivatives.dlogprobs, order.place, new Float32Array(E)));
  const dentropy = new Float32Array(U); // a row's entropy belongs to all its entries
  for (let e = 0; e < E; e++) dentropy[batch.entryRows[e]!]! += derivatives.dentropies[e]!;
  device.upload(g.dentropy, dentropy);
  for (const chunk of chunks(U, sizes.headChunk)) {
    backwardChunk(model, activations, gradients, chunk, temperature, chunk.from > 0);
    await breathe();
  }
  await backwardHidden(model, batch, activations, gradients);
}

/**
 * `forward` and `backward` in one, to the same bits, for a loss whose derivatives in an entry depend on that entry
 * alone: logits are computed once, since each chunk's gradient follows while they are there.
 *
 * @param derive the derivatives in some entries, in their order, given their scores
 */
export async function forwardBackward(
  model: Model,
  batch: PackedBatch,
  activations: WithGradients<Activations>,
  gradients: ParameterGradients,
  derive: (entries: Int32Array, scores: EntryScores) => Derivatives,
  temperature: number,
): Promise<Scores> {
  const { device } = model;
  const { head, gradient: g, sizes } = activations;
  const { place, start } = uploadTargets(device, batch, head);
  await forwardHidden(model, batch, activations);
  const experts = await readExperts(model, batch, activations);
  const E = batch.entryRows.length;
  const sortedEntries = sorted(Int32Array.from(place.keys()), place, new Int32Array(E));
  const all = { logprobs: new Float32Array(E), entropies: new Float32Array(E), experts };
  for (const chunk of chunks(batch.headRows.length, sizes.headChunk)) {
    const { from, count } = chunk;
    forwardChunk(model, activations, chunk, temperature);
    const [first, end] = [start[from]!, start[from + count]!];
    const entries = sortedEntries.subarray(first, end);
    const logprobs = (await device.read(rows(head.logprob, first, end - first))) as Float32Array;
    const entropy = (await device.read(rows(head.entropy, from, count))) as Float32Array;
    const entropies = Float32Array.from(entries, (e) => entropy[batch.entryRows[e]! - from]!);
    const { dlogprobs, dentropies } = derive(entries, { logprobs, entropies });
    device.upload(rows(g.dlogprob, first, end - first), Float32Array.from(dlogprobs));
    const dentropy = new Float32Array(count); // a row's entropy belongs to all its entries
    for (const [i, e] of entries.entries()) {
      all.logprobs[e] = logprobs[i]!;
      all.entropies[e] = entropies[i]!;
      dentropy[batch.entryRows[e]! - from]! += dentropies[i]!;
    }
    device.upload(rows(g.dentropy, from, count), dentropy);
    backwardChunk(model, activations, gradients, chunk, temperature, false);
    await breathe();
  }
  await backwardHidden(model, batch, activations, gradients);
  return all;
}
