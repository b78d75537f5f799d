/**
 * The rollout's passes over the model: prompts into the cache, the first token of new sequences, the next token of
 * running ones. Layers and kernels are those of training, so a token's recorded logprob is bit-identical to the one
 * that training computes (promise 2). Its random number is keyed by (seed, step, prompt, sample) and position (promise
 * 3), so neither batching nor the order of admission changes a completion.
 *
 * rollout.ts decides which sequences take part and when one ends.
 */
import { doPieces, type Pieces } from "../device/breathe.ts";
import { type Device, PAGE_TOKENS } from "../device/device.ts";
import { type Attend, forwardHeads, forwardLayer } from "../model/layer.ts";
import type { Model } from "../model/model.ts";
import { firstRows, rows, type Tensor } from "../tensor/tensor.ts";
import type { RolloutBuffers } from "./buffers.ts";
import type { CachedSequence, ResidentPrompt, RolloutSettings } from "./sequence.ts";
import { fillCounters, fillStep, type StepPlace } from "./step-inputs.ts";

/** A model with its rollout's buffers. */
export interface RolloutModel {
  readonly model: Model;
  readonly buffers: RolloutBuffers;
  /** Prefix of the keys of its recorded decode steps. */
  readonly name: string;
  /** Keys of the decode steps that the device has recorded. */
  readonly recorded: Set<string>;
  /** Number of rollouts started on the buffers, which belong to the last one. */
  started: number;
}

/** One entry per row. */
export interface SampledTokens {
  /** Below 0: the logits are not finite. */
  readonly ids: Int32Array;
  readonly logprobs: Float32Array;
  readonly samplingLogprobs: Float32Array;
}

/** Runs prompts in one packed pass: keys and values go into their pages, last rows into promptHidden. */
export async function prefill({ model, buffers }: RolloutModel, prompts: readonly ResidentPrompt[]): Promise<void> {
  const { device, config, weights } = model;
  const { ops } = device;
  const { host, block, fields, tensors } = buffers.prefill;
  let row = 0;
  for (const [s, { request, pages }] of prompts.entries()) {
    const P = request.promptIds.length;
    fields.segments.set([row, P, 0, 0], 4 * s);
    fields.tokens.set(request.promptIds, row);
    for (let t = 0; t < P; t++, row++) {
      fields.positions[row] = t;
      fields.page[row] = pages[Math.floor(t / PAGE_TOKENS)]!;
      fields.offset[row] = t % PAGE_TOKENS;
    }
  }
  device.upload(block, host);
  const T = row;
  const residual = firstRows(buffers.layer.residual, T);
  const segmentRows = firstRows(tensors.segments, prompts.length);
  const [pageRows, offsetRows] = [firstRows(tensors.page, T), firstRows(tensors.offset, T)];
  ops.embeddingForward(residual, firstRows(tensors.tokens, T), weights.embedding);
  const positions = firstRows(tensors.positions, T);
  const attend: Attend = (layer, b, transform, shape) => {
    forwardHeads(device, b, transform, shape);
    ops.kvStore(buffers.cache[layer]!, b.qkv, pageRows, offsetRows, shape);
    ops.attentionForward(b.attention, null, b.qkv, segmentRows, shape);
  };
  for (let layer = 0; layer < config.numLayers; layer++)
    await doPieces(forwardLayer(model, layer, buffers.layer, positions, attend));
  for (const [s, { request, slot }] of prompts.entries()) {
    const last = fields.segments[4 * s]! + request.promptIds.length - 1;
    ops.cast(rows(buffers.promptHidden, slot, 1), rows(residual, last, 1));
  }
}

/** Samples the first token of new sequences from their prompts' last rows. */
export function firstTokens(
  on: RolloutModel,
  sequences: readonly CachedSequence[],
  settings: RolloutSettings,
): Promise<SampledTokens> {
  const { model, buffers } = on;
  const { device } = model;
  const prompts = [...new Set(sequences.map((s) => s.prompt))];
  const slots = buffers.prefill;
  for (const [i, prompt] of prompts.entries()) slots.fields.promptSlot[i] = prompt.slot;
  device.upload(slots.tensors.promptSlot, slots.fields.promptSlot);
  const index = firstRows(slots.tensors.promptSlot, prompts.length);
  device.ops.gatherRows(firstRows(buffers.hidden, prompts.length), buffers.promptHidden, index);
  computeLogits(on, prompts.length);
  const { host, block, fields } = buffers.step;
  for (const [i, s] of sequences.entries()) fields.logitRow[i] = prompts.indexOf(s.prompt);
  fillCounters(fields.counters, sequences, placeOf(buffers, settings, sequences.length));
  device.upload(block, host);
  if (buffers.seen) for (const s of sequences) markSeen(on, s, buffers.seen);
  sampleRows(on, sequences.length, settings);
  return readSampled(device, buffers);
}

/** Samples the next token of running sequences. */
export async function decode(
  on: RolloutModel,
  sequences: readonly CachedSequence[],
  settings: RolloutSettings,
): Promise<SampledTokens> {
  const { model, buffers, recorded } = on;
  const { device } = model;
  const B = device.decodeBucket(sequences.length);
  fillStep(buffers.step, sequences, placeOf(buffers, settings, B));
  device.upload(buffers.step.block, buffers.step.host);
  // The sampler marked tokens that were then replaced by forced ones, so mark these sequences again.
  if (buffers.seen)
    for (const s of sequences) if (s.mask?.at(-1) === 0 && s.forced.length === 0) markSeen(on, s, buffers.seen);
  // The scalars that a recorded step has fixed besides the number of rows; everything else is in buffers.
  const { seed, stream, temperature, topK, topP, minP, repetitionPenalty } = settings;
  const fixed = [seed, stream, temperature, topK, topP, minP, repetitionPenalty].join(" ");
  const key = `${on.name} decode ${B} ${fixed}`;
  if (recorded.has(key)) await device.replay(key);
  else {
    recorded.add(key);
    await device.record(key, () => decodeStep(on, B, settings));
  }
  return readSampled(device, buffers);
}

/** The device's part of a decode step; reads only fixed buffers. */
function* decodeStep(on: RolloutModel, B: number, settings: RolloutSettings): Pieces {
  const { model, buffers } = on;
  const { device, config, weights } = model;
  const { ops } = device;
  const at = (t: Tensor) => firstRows(t, B);
  const step = buffers.step.tensors;
  const residual = at(buffers.layer.residual);
  ops.embeddingForward(residual, at(step.tokens), weights.embedding);
  const attend: Attend = (layer, b, transform, shape) => {
    const place = { pages: buffers.cache[layer]!, page: at(step.page), offset: at(step.offset) };
    const [table, prompts, completions] = [at(step.pageTable), at(step.promptLengths), at(step.completionLengths)];
    ops.attentionDecode(b.attention, b.qkv, b.qkvRaw, transform, place, table, prompts, completions, shape);
  };
  for (let layer = 0; layer < config.numLayers; layer++)
    yield* forwardLayer(model, layer, buffers.layer, at(step.positions), attend);
  ops.cast(at(buffers.hidden), residual);
  computeLogits(on, B);
  yield;
  sampleRows(on, B, settings);
}

/** The first `count` rows of the residual stream → logits, row by row. */
function computeLogits({ model, buffers }: RolloutModel, count: number): void {
  const { device, config, weights } = model;
  const normed = firstRows(buffers.normed, count);
  device.ops.rmsnormForward(normed, null, firstRows(buffers.hidden, count), weights.finalNorm, config.rmsNormEps);
  device.ops.matmulForward(firstRows(buffers.logits, count), normed, weights.head, null);
}

function sampleRows({ model, buffers }: RolloutModel, B: number, settings: RolloutSettings): void {
  const at = (t: Tensor) => firstRows(t, B);
  const { ops } = model.device;
  const { ids, logprob, samplingLogprob } = buffers.sampled;
  const { logitRow, counters } = buffers.step.tensors;
  const { logits, seen } = buffers;
  ops.sample(at(ids), at(logprob), at(samplingLogprob), logits, at(logitRow), at(counters), seen, settings);
}

/** Reads the sampled tokens from the device. */
async function readSampled(device: Device, { sampled, decodeRows: B }: RolloutBuffers): Promise<SampledTokens> {
  const ids = (await device.read(sampled.all)) as Int32Array; // (3, B)
  const row = (r: number) => new Float32Array(ids.buffer, ids.byteOffset + 4 * r * B, B);
  return { ids, logprobs: row(1), samplingLogprobs: row(2) };
}

/** Marks exactly the tokens of a sequence and its prompt for the repetition penalty. */
function markSeen({ model }: RolloutModel, { prompt, slot, ids }: CachedSequence, seen: Tensor): void {
  const bits = new Uint32Array(Math.ceil(model.config.vocabSize / 32));
  for (const seenIds of [prompt.request.promptIds, ids]) for (const id of seenIds) bits[id >> 5]! |= 1 << (id & 31);
  model.device.upload(rows(seen, slot, 1), bits);
}

/** Padding rows use the page and slot after those that the scheduler hands out. */
const placeOf = ({ sizes, limits }: RolloutBuffers, { step }: RolloutSettings, count: number): StepPlace => ({
  step,
  rows: count,
  sparePage: sizes.pages,
  spareSlot: limits.maxSequences,
});
