/**
 * The rollout's passes over the model: prompts into the cache, and steps, which sample the next token of running sequences
 * and the first one of new ones. Layers and kernels are those of training, so a token's recorded logprob is bit-identical to the one
 * that training computes (promise 2). Its random number is keyed by (seed, step, prompt, sample) and position (promise
 * 3), so neither batching nor the order of admission changes a completion.
 *
 * rollout.ts decides which sequences take part and when one ends.
 */
import { doPieces, type Pieces } from "../device/breathe.ts";
import { type Device, PAGE_TOKENS } from "../device/device.ts";
import { embed } from "../model/embedding.ts";
import { type Attend, forwardHeads, forwardLayer } from "../model/layer.ts";
import type { Model } from "../model/model.ts";
import { type Routing, routeElements, routeShape, tokenRoutes } from "../model/routes.ts";
import { firstRows, rows, type Tensor } from "../tensor/tensor.ts";
import type { RolloutBuffers } from "./buffers.ts";
import type { CachedSequence, ResidentPrompt, RolloutSettings } from "./sequence.ts";
import { fillFirst, fillStep, type StepPlace } from "./step-inputs.ts";

/** A model with its rollout's buffers. */
export interface RolloutModel {
  readonly model: Model;
  readonly buffers: RolloutBuffers;
  /** Prefix of the keys of its recordings. */
  readonly name: string;
  /** Keys of the parts of steps that the device has recorded. */
  readonly recorded: Set<string>;
  /** The step that has been queued beyond the one whose tokens were taken last. */
  untaken: QueuedStep | null;
  /** Number of rollouts started on the buffers, which belong to the last one. */
  started: number;
}

/** One entry per row. */
export interface SampledTokens {
  /** Below 0: the logits are not finite; if the logprob is, the repetition penalty made them so. */
  readonly ids: Int32Array;
  readonly logprobs: Float32Array;
  readonly samplingLogprobs: Float32Array;
  /** The experts of the tokens of running sequences, which come first; null: not recorded. */
  readonly routes: readonly Uint16Array[] | null;
}

/** A step that the device is computing or has computed. */
export interface QueuedStep {
  /** By row; null if its token is no longer wanted. */
  readonly sequences: (CachedSequence | null)[];
  /** Waits for the tokens. */
  readonly sampled: () => Promise<SampledTokens>;
}

/** Runs prompts in one packed pass: keys and values go into their pages, last rows into promptHidden. */
export async function prefill(
  { model, buffers }: RolloutModel,
  prompts: readonly ResidentPrompt[],
  { recordsRoutes = false }: RolloutSettings,
): Promise<void> {
  const { device, config } = model;
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
  embed(model, residual, firstRows(tensors.tokens, T));
  const positions = firstRows(tensors.positions, T);
  const attend: Attend = (layer, b, transform, shape) => {
    forwardHeads(device, b, transform, shape);
    ops.kvStore(buffers.cache[layer]!, b.qkv, pageRows, offsetRows, shape);
    ops.attentionForward(b.attention, null, b.qkv, segmentRows, shape);
  };
  for (let layer = 0; layer < config.numLayers; layer++)
    await doPieces(forwardLayer(model, layer, buffers.layer, positions, attend, null, routingOf(buffers)));
  for (const [s, { request, slot }] of prompts.entries()) {
    const last = fields.segments[4 * s]! + request.promptIds.length - 1;
    ops.cast(rows(buffers.promptHidden, slot, 1), rows(residual, last, 1));
  }
  const shape = recordsRoutes ? routeShape(config) : null;
  if (!shape) return;
  // The segments' rows are overwritten by the next pass.
  const starts = prompts.map((_, s) => fields.segments[4 * s]!);
  const all = (await device.read(firstRows(buffers.routes, routeElements(config, T)))) as Int32Array;
  for (const [s, prompt] of prompts.entries())
    prompt.routes = tokenRoutes(all, shape, T, starts[s]!, prompt.request.promptIds.length);
}

const routingOf = ({ routes }: RolloutBuffers): Routing => ({ all: routes, given: false });

/**
 * Queues a step: the next token of running sequences, then the first one of new ones, from their prompts' last rows. One
 * upload, one pass through the head and one read, whether sequences are new or not.
 *
 * @returns what waits for the tokens
 */
export async function queueStep(
  on: RolloutModel,
  running: readonly CachedSequence[],
  fresh: readonly CachedSequence[],
  settings: RolloutSettings,
): Promise<() => Promise<SampledTokens>> {
  const { model, buffers } = on;
  const { device } = model;
  const { block, host } = buffers.step;
  const B = running.length === 0 ? 0 : device.decodeBucket(running.length);
  fillStep(buffers.step, running, placeOf(buffers, settings, B));
  const prompts = fillFirst(buffers.step, fresh, running.length, settings.step);
  device.upload(block, host);
  if (buffers.seen)
    for (const s of [...running, ...fresh]) if (s.mismarked || afterForced(s)) markSeen(on, s, buffers.seen);
  if (fresh.length === 0) {
    // The scalars that a recorded step has fixed besides the number of rows; everything else is in buffers.
    const { seed, stream, temperature, topK, topP, minP, repetitionPenalty } = settings;
    const fixed = [seed, stream, temperature, topK, topP, minP, repetitionPenalty].join(" ");
    await recorded(on, `decode ${B} ${fixed}`, () => decodeStep(on, B, settings));
  } else {
    if (B > 0) await recorded(on, `layers ${B}`, () => decodeLayers(on, B));
    await doPieces(joinedHead(on, running.length, prompts, fresh.length, settings));
  }
  const shape = settings.recordsRoutes && running.length > 0 ? routeShape(model.config) : null;
  const routes = shape && device.queueRead(firstRows(buffers.routes, routeElements(model.config, B)));
  const sampled = readSampled(device, buffers);
  return async () => {
    const all = routes && ((await routes()) as Int32Array);
    const own = all && running.map((_, row) => tokenRoutes(all, shape!, B, row, 1));
    return { ...(await sampled()), routes: own };
  };
}

/** Runs work that reads only fixed buffers: recorded when it is first run, then replayed. */
async function recorded({ model, name, recorded: keys }: RolloutModel, work: string, run: () => Pieces): Promise<void> {
  const key = `${name} ${work}`;
  if (keys.has(key)) return model.device.replay(key);
  keys.add(key);
  return model.device.record(key, run);
}

/** Running sequences' tokens → logits → next tokens. */
function* decodeStep(on: RolloutModel, B: number, settings: RolloutSettings): Pieces {
  yield* decodeLayers(on, B);
  computeLogits(on, firstRows(on.buffers.layer.residual, B));
  yield;
  sampleRows(on, B, settings);
}

/** Running sequences' tokens → their rows of the residual stream. */
function* decodeLayers({ model, buffers }: RolloutModel, B: number): Pieces {
  const { device, config } = model;
  const { ops } = device;
  const at = (t: Tensor) => firstRows(t, B);
  const step = buffers.step.tensors;
  ops.nextTokens(at(step.tokens), buffers.sampled.ids, at(step.from));
  embed(model, at(buffers.layer.residual), at(step.tokens));
  const attend: Attend = (layer, b, transform, shape) => {
    const place = { pages: buffers.cache[layer]!, page: at(step.page), offset: at(step.offset) };
    const [table, prompts, completions] = [at(step.pageTable), at(step.promptLengths), at(step.completionLengths)];
    ops.attentionDecode(b.attention, b.qkv, b.qkvRaw, transform, place, table, prompts, completions, shape);
  };
  for (let layer = 0; layer < config.numLayers; layer++)
    yield* forwardLayer(model, layer, buffers.layer, at(step.positions), attend, null, routingOf(buffers));
}

/** The head for the rows of `running` sequences and of `prompts` prompts, from which `fresh` sequences start. */
function* joinedHead(
  on: RolloutModel,
  running: number,
  prompts: number,
  fresh: number,
  settings: RolloutSettings,
): Pieces {
  const { model, buffers } = on;
  const { ops } = model.device;
  const hidden = firstRows(buffers.hidden, running + prompts);
  if (running > 0) ops.cast(firstRows(hidden, running), firstRows(buffers.layer.residual, running));
  const slots = firstRows(buffers.step.tensors.promptSlot, prompts);
  ops.gatherRows(rows(hidden, running, prompts), buffers.promptHidden, slots);
  computeLogits(on, hidden);
  yield;
  sampleRows(on, running + fresh, settings);
}

/** Rows of the residual stream → logits, row by row. */
function computeLogits({ model, buffers }: RolloutModel, residual: Tensor): void {
  const { device, config, weights } = model;
  const count = residual.shape[0] ?? 0;
  const normed = firstRows(buffers.normed, count);
  device.ops.rmsnormForward(normed, null, residual, weights.finalNorm, config.rmsNormEps);
  const logits = firstRows(buffers.logits, count);
  device.ops.matmulForward(logits, normed, weights.head, null);
  if (config.logitCap !== undefined) device.ops.softcapForward(logits, config.logitCap);
}

function sampleRows({ model, buffers }: RolloutModel, B: number, settings: RolloutSettings): void {
  const at = (t: Tensor) => firstRows(t, B);
  const { ops } = model.device;
  const { ids, logprob, samplingLogprob } = buffers.sampled;
  const { logitRow, counters } = buffers.step.tensors;
  const { logits, seen } = buffers;
  ops.sample(at(ids), at(logprob), at(samplingLogprob), logits, at(logitRow), at(counters), seen, settings);
}

/** Queues the read of the sampled tokens. */
function readSampled(
  device: Device,
  { sampled, decodeRows: B }: RolloutBuffers,
): () => Promise<Omit<SampledTokens, "routes">> {
  const read = device.queueRead(sampled.all);
  return async () => {
    const ids = (await read()) as Int32Array; // (3, B)
    const row = (r: number) => new Float32Array(ids.buffer, ids.byteOffset + 4 * r * B, B);
    return { ids, logprobs: row(1), samplingLogprobs: row(2) };
  };
}

/** The next token is the first sampled one after forced ones, in whose places the sampler marked others. */
function afterForced({ row, forced, mask }: CachedSequence): boolean {
  return row >= 0 ? forced.length === 1 : forced.length === 0 && mask?.at(-1) === 0;
}

/** Marks exactly the tokens of a sequence and its prompt for the repetition penalty. */
function markSeen({ model }: RolloutModel, s: CachedSequence, seen: Tensor): void {
  const bits = new Uint32Array(Math.ceil(model.config.vocabSize / 32));
  const pending = s.row >= 0 ? s.forced.slice(0, 1) : []; // replaces the token that the last queued step samples
  for (const ids of [s.prompt.request.promptIds, s.ids, pending])
    for (const id of ids) bits[id >> 5]! |= 1 << (id & 31);
  model.device.upload(rows(seen, s.slot, 1), bits);
  s.mismarked = false;
}

/** Padding rows use the page and slot after those that the scheduler hands out. */
const placeOf = ({ sizes, limits }: RolloutBuffers, { step }: RolloutSettings, count: number): StepPlace => ({
  step,
  rows: count,
  sparePage: sizes.pages,
  spareSlot: limits.maxSequences,
});
