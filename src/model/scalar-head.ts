/**
 * A model with a scalar head: one number per row instead of logits. A critic values the state before each completion
 * token; a reward model scores a whole sequence at its last token, like transformers' sequence classification. On the
 * CPU a number's bits depend only on its own sequence, not on what is packed beside it.
 *
 * The value loss is in ../grpo, texts and their templates in ../session/reward-model.ts.
 */
import type { ModelConfig } from "../families/config.ts";
import type { BufferTable } from "../tensor/buffers.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import { firstRows } from "../tensor/tensor.ts";
import { type ActivationsOf, hiddenTable, type PassSizes, type WithGradients } from "./activations.ts";
import { cutMicroBatches, type PackedGroup } from "./micro-batches.ts";
import { gradientOf, type Model, type ParameterGradients } from "./model.ts";
import { backwardHidden, forwardHidden, type PackedBatch, type PackedTokens } from "./trunk.ts";

/** The head's buffers; none grows with the vocabulary. */
export const scalarHead = {
  forward(config: ModelConfig, act: ComputeDType, sizes: PassSizes) {
    return {
      ...hiddenTable(config, act, sizes),
      values: ["values", "float32", [sizes.tokens, 1]],
    } satisfies BufferTable<string>;
  },
  backward(_: ModelConfig, { tokens }: PassSizes) {
    return { dvalues: ["dvalues", "float32", [tokens, 1]] } satisfies BufferTable<string>;
  },
};

export type ScalarActivations = ActivationsOf<typeof scalarHead>;

/** The head's number at each of the batch's head rows. (U) */
async function forwardRows(model: Model, batch: PackedTokens, activations: ScalarActivations): Promise<Float32Array> {
  const { device, weights } = model;
  if (model.config.head !== "score") throw new Error("the model has no scalar head");
  const { head } = activations;
  await forwardHidden(model, batch, activations);
  const U = batch.headRows.length;
  device.ops.matmulForward(firstRows(head.values, U), firstRows(head.normed, U), weights.head, null);
  return (await device.read(firstRows(head.values, U))) as Float32Array;
}

/**
 * The critic's values V(s_t) of a packed micro-batch: for each entry the value at the row that predicts it, that is of
 * the state before completion token t. (E) With `activations.gradient` the layers' inputs are kept for
 * `backwardValues`.
 */
export async function forwardValues(
  model: Model,
  batch: PackedBatch,
  activations: ScalarActivations,
): Promise<Float32Array> {
  const values = await forwardRows(model, batch, activations);
  return Float32Array.from(batch.entryRows, (row) => values[row]!);
}

/**
 * Adds the batch's parameter gradients, given the loss's derivatives in each entry's value. (E) A prompt's last row is
 * the first state of all its completions: their derivatives are summed, in order. Must directly follow `forwardValues`
 * on the same activations.
 */
export async function backwardValues(
  model: Model,
  batch: PackedBatch,
  activations: WithGradients<ScalarActivations>,
  gradients: ParameterGradients,
  dvalues: ArrayLike<number>,
): Promise<void> {
  const { device, weights } = model;
  const { head, gradient: g } = activations;
  const U = batch.headRows.length;
  const byRow = new Float64Array(U);
  for (let e = 0; e < batch.entryRows.length; e++) byRow[batch.entryRows[e]!]! += dvalues[e]!;
  const dvalue = firstRows(g.dvalues, U);
  device.upload(dvalue, Float32Array.from(byRow));
  const normed = firstRows(head.normed, U);
  const dhead = gradientOf(gradients, weights.head);
  if (dhead) device.ops.matmulBackwardWeight(dhead, dvalue, normed, weights.head);
  device.ops.matmulBackwardInput(firstRows(g.dnormed, U), dvalue, weights.head);
  await backwardHidden(model, batch, activations, gradients);
}

export interface ScoringOptions {
  /** Tokens of a packed batch; a longer sequence, or completion with its prompt, gets one of its own. */
  readonly microBatchTokens: number;
}

/** The critic's values of every completion, in group order, each (R). */
export async function scoreValues(
  model: Model,
  activations: ScalarActivations,
  groups: readonly PackedGroup[],
  options: ScoringOptions,
  onTokens?: (tokens: number) => void,
): Promise<Float32Array[]> {
  const results: Float32Array[] = [];
  const forwardOnly = { ...activations, gradient: null };
  for (const batch of cutMicroBatches(groups, options.microBatchTokens)) {
    const values = await forwardValues(model, batch, forwardOnly);
    for (const [i, completion] of batch.completions.entries())
      results[completion] = values.slice(batch.entryStarts[i]!, batch.entryStarts[i + 1]!);
    onTokens?.(batch.tokens.length);
  }
  return results;
}

/** The reward model's score of each whole sequence (T ≥ 1 tokens), at its last token. (N) */
export async function scoreSequences(
  model: Model,
  activations: ScalarActivations,
  sequences: readonly Int32Array[],
  options: ScoringOptions,
  onTokens?: (tokens: number) => void,
): Promise<Float32Array> {
  const scores = new Float32Array(sequences.length);
  const forwardOnly = { ...activations, gradient: null };
  for (const { from, end } of packs(sequences, options.microBatchTokens)) {
    const batch = packSequences(sequences.slice(from, end));
    scores.set(await forwardRows(model, batch, forwardOnly), from);
    onTokens?.(batch.tokens.length);
  }
  return scores;
}

/** Ranges of consecutive sequences that fit the budget together. */
function packs(sequences: readonly Int32Array[], budget: number): { from: number; end: number }[] {
  const ranges: { from: number; end: number }[] = [];
  let used = Infinity;
  for (const [i, { length }] of sequences.entries()) {
    if (length === 0) throw new Error(`sequence ${i} is empty: nothing scores it`);
    if (used + length > budget) {
      ranges.push({ from: i, end: i });
      used = 0;
    }
    ranges.at(-1)!.end = i + 1;
    used += length;
  }
  return ranges;
}

/** Packs whole sequences, each attending only to itself; the head reads their last rows. */
function packSequences(sequences: readonly Int32Array[]): PackedTokens {
  const total = sequences.reduce((sum, { length }) => sum + length, 0);
  const tokens = new Int32Array(total);
  const positions = new Int32Array(total);
  const segments = new Int32Array(4 * sequences.length);
  const headRows = new Int32Array(sequences.length);
  let row = 0;
  for (const [s, ids] of sequences.entries()) {
    tokens.set(ids, row);
    segments.set([row, ids.length, 0, 0], 4 * s);
    for (let position = 0; position < ids.length; position++) positions[row++] = position;
    headRows[s] = row - 1;
  }
  return { tokens, positions, segments, headRows };
}
