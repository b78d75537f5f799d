/**
 * Prompts → completions: prefill, then one token for every running sequence at a time, through the same layers and
 * kernels as training. Each token's log-probability is recorded as it is sampled, and is bit for bit what the training
 * pass computes for it (promise 2); its random number is keyed by (seed, step, prompt, sample) and counted by position
 * (promise 3), so neither batching nor the order of admission changes a completion.
 */
import { breathe, doPieces, type Pieces } from "../device/breathe.ts";
import { PAGE_TOKENS, type SamplingSettings } from "../device/device.ts";
import { unlessStopped } from "../device/stopping.ts";
import { RunError } from "../errors.ts";
import { type Attend, forwardLayer } from "../model/layer.ts";
import type { Model } from "../model/model.ts";
import { firstRows, rows, type Tensor } from "../tensor/tensor.ts";
import type { StopMatcher } from "../tokenizer/tokenizer.ts";
import type { RolloutBuffers } from "./buffers.ts";
import { createScheduler, type Scheduler } from "./scheduler.ts";
import type { ResidentPrompt, RolloutRequest, SampledCompletion, Sequence } from "./sequence.ts";
import { fillCounters, fillStep } from "./step-inputs.ts";

export interface RolloutSettings extends SamplingSettings {
  /** Training step: part of the random numbers' key. */
  readonly step: number;
  readonly maxCompletionLength: number;
  readonly isStop: (id: number) => boolean;
  /** Makes the watcher of a completion for stop strings; null or absent: there are none. */
  readonly stopStrings?: (() => StopMatcher) | null;
}

/** Adds and drops requests while sampling goes on; places count the first requests and then the added ones. */
export interface RolloutFeed {
  /**
   * Asked before each token. `idle`: nothing is left to sample; answers once there is more or never will be.
   *
   * @returns requests to add, and places of those whose remaining samples nobody needs; neither, while idle: the end
   */
  next(idle: boolean): Promise<{ readonly add: readonly RolloutRequest[]; readonly drop: readonly number[] }>;
}

export interface RolloutEvents {
  /** One sample is complete. */
  readonly onCompletion?: (request: number, sample: number, completion: SampledCompletion) => void;
  readonly feed?: RolloutFeed;
  readonly onToken?: (request: number, sample: number, id: number) => void;
  readonly onProgress?: (tokens: number, finished: number, total: number) => void;
  /** Stops between two tokens when it says so; what is not finished then is left out. */
  readonly shouldStop?: () => boolean;
}

/** How long a rollout that is to stop waits for its feed. */
const IDLE_GRACE_MS = 1500;

let engines = 0;

/** A rollout engine on a model and its planned buffers. */
export function createRolloutEngine(model: Model, buffers: RolloutBuffers) {
  const { device, config, weights } = model;
  const { ops } = device;
  const engine = engines++;
  const recorded = new Set<string>();
  /** Where padding rows write: behind what the scheduler gives out. */
  const spare = { sparePage: buffers.sizes.pages, spareSlot: buffers.limits.maxSequences };

  /** The residual stream's `from` rows → logits, row by row. */
  const computeLogits = (count: number): void => {
    const normed = firstRows(buffers.normed, count);
    ops.rmsnormForward(normed, null, firstRows(buffers.hidden, count), weights.finalNorm, config.rmsNormEps);
    ops.matmulForward(firstRows(buffers.logits, count), normed, weights.head, null);
  };

  /** Prompts packed into one pass: their keys and values into their pages, their last rows into promptHidden. */
  const prefill = async (prompts: readonly ResidentPrompt[], requests: readonly RolloutRequest[]): Promise<void> => {
    const { host, block, fields, tensors } = buffers.prefill;
    let row = 0;
    for (const [s, prompt] of prompts.entries()) {
      fields.segments.set([row, prompt.length, 0, 0], 4 * s);
      fields.tokens.set(requests[prompt.request]!.promptIds, row);
      for (let t = 0; t < prompt.length; t++, row++) {
        fields.positions[row] = t;
        fields.page[row] = prompt.pages[Math.floor(t / PAGE_TOKENS)]!;
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
    const attend: Attend = (layer, b, shape) => {
      ops.kvStore(buffers.cache[layer]!, b.qkv, pageRows, offsetRows, shape);
      ops.attentionForward(b.attention, null, b.qkv, segmentRows, shape);
    };
    for (let layer = 0; layer < config.numLayers; layer++)
      await doPieces(forwardLayer(model, layer, buffers.layer, positions, attend));
    for (const [s, prompt] of prompts.entries()) {
      const last = fields.segments[4 * s]! + prompt.length - 1;
      ops.cast(rows(buffers.promptHidden, prompt.slot, 1), rows(residual, last, 1));
    }
  };

  /** Everything of a decode step that the device does; reads only fixed buffers. */
  function* decodeStep(B: number, settings: RolloutSettings): Pieces {
    const at = (t: Tensor) => firstRows(t, B);
    const step = buffers.step.tensors;
    const residual = at(buffers.layer.residual);
    ops.embeddingForward(residual, at(step.tokens), weights.embedding);
    const [table, prompts, completions] = [at(step.pageTable), at(step.promptLengths), at(step.completionLengths)];
    const attend: Attend = (layer, b, shape) => {
      const pages = buffers.cache[layer]!;
      ops.kvStore(pages, b.qkv, at(step.page), at(step.offset), shape);
      ops.attentionDecode(b.attention, b.qkv, pages, table, prompts, completions, shape);
    };
    for (let layer = 0; layer < config.numLayers; layer++)
      yield* forwardLayer(model, layer, buffers.layer, at(step.positions), attend);
    ops.cast(at(buffers.hidden), residual);
    computeLogits(B);
    yield;
    sampleRows(B, settings);
  }

  const sampleRows = (B: number, settings: RolloutSettings): void => {
    const at = (t: Tensor) => firstRows(t, B);
    const { ids, logprob, samplingLogprob } = buffers.sampled;
    const { logitRow, counters } = buffers.step.tensors;
    const { logits, seen } = buffers;
    ops.sample(at(ids), at(logprob), at(samplingLogprob), logits, at(logitRow), at(counters), seen, settings);
  };

  /** The first token of new sequences, from their prompts' last rows. */
  const firstTokens = (
    sequences: readonly Sequence[],
    requests: readonly RolloutRequest[],
    settings: RolloutSettings,
  ) => {
    const prompts = [...new Set(sequences.map((s) => s.prompt))];
    const slots = buffers.prefill;
    for (const [i, prompt] of prompts.entries()) slots.fields.promptSlot[i] = prompt.slot;
    device.upload(slots.tensors.promptSlot, slots.fields.promptSlot);
    const index = firstRows(slots.tensors.promptSlot, prompts.length);
    ops.gatherRows(firstRows(buffers.hidden, prompts.length), buffers.promptHidden, index);
    computeLogits(prompts.length);
    const { host, block, fields } = buffers.step;
    for (const [i, s] of sequences.entries()) fields.logitRow[i] = prompts.indexOf(s.prompt);
    fillCounters(fields.counters, sequences, requests, { ...spare, step: settings.step, rows: sequences.length });
    device.upload(block, host);
    if (buffers.seen) for (const s of sequences) markPrompt(s, requests[s.prompt.request]!.promptIds);
    sampleRows(sequences.length, settings);
  };

  const markPrompt = (sequence: Sequence, promptIds: Int32Array): void => {
    const bits = new Uint32Array(Math.ceil(config.vocabSize / 32));
    for (const id of promptIds) bits[id >> 5]! |= 1 << (id & 31);
    device.upload(rows(buffers.seen!, sequence.slot, 1), bits);
  };

  const runRecorded = (key: string, work: () => Pieces): Promise<void> => {
    if (recorded.has(key)) return device.replay(key);
    recorded.add(key);
    return device.record(key, work);
  };

  /**
   * Samples every request's completions, in the order of the requests; one that was dropped has those that were complete.
   *
   * @throws RunError when the logits are not finite, or a prompt exceeds what was planned for.
   */
  const generate = async (
    initial: readonly RolloutRequest[],
    settings: RolloutSettings,
    events: RolloutEvents = {},
  ): Promise<SampledCompletion[][]> => {
    const { limits } = buffers;
    if (settings.maxCompletionLength > limits.maxCompletion) throw new RangeError("rollout: longer than planned");
    const requests: RolloutRequest[] = [];
    const results: SampledCompletion[][] = [];
    const scheduler: Scheduler = createScheduler([], limits, buffers.sizes);
    let total = 0;
    let tokens = 0;
    let finished = 0;
    const { stopStrings = null } = settings;
    const matchers = new WeakMap<Sequence, StopMatcher>();

    const add = (request: RolloutRequest): void => {
      const P = request.promptIds.length;
      if (P === 0 || P > limits.longestPrompt)
        throw new RangeError(`rollout: a prompt of ${P} tokens, planned for 1…${limits.longestPrompt}`);
      requests.push(request);
      results.push([]);
      scheduler.add(request);
      total += request.samples;
    };
    for (const request of initial) add(request);

    /** The stop string that `id` completes in a sequence's text. */
    const stringStopped = (sequence: Sequence, id: number, makeMatcher: () => StopMatcher): string | null => {
      const matcher = matchers.get(sequence) ?? makeMatcher();
      matchers.set(sequence, matcher);
      return matcher.push(id);
    };

    /** Takes the sampled tokens off the device; what has ended leaves the batch. */
    const collect = async (sequences: readonly Sequence[]): Promise<void> => {
      const R = buffers.decodeRows;
      const ids = (await device.read(buffers.sampled.all)) as Int32Array; // (3, R)
      const logprobs = new Float32Array(ids.buffer, ids.byteOffset + 4 * R, R);
      const sampling = new Float32Array(ids.buffer, ids.byteOffset + 8 * R, R);
      for (const [i, s] of sequences.entries()) {
        const id = ids[i]!;
        if (id < 0)
          throw new RunError(
            `the model's logits are not finite (prompt ${s.prompt.request}, token ${s.ids.length}); the weights are broken or the learning rate is too high`,
          );
        s.ids.push(id);
        s.logprobs.push(logprobs[i]!);
        s.samplingLogprobs.push(sampling[i]!);
        tokens++;
        events.onToken?.(s.prompt.request, s.sample, id);
        const atToken = settings.isStop(id);
        const stop = atToken || stopStrings === null ? null : stringStopped(s, id, stopStrings);
        const stopped = atToken || stop !== null;
        if (!stopped && s.ids.length < settings.maxCompletionLength) continue;
        scheduler.finish(s);
        finished++;
        const { request } = s.prompt;
        const completion: SampledCompletion = {
          completionIds: Int32Array.from(s.ids),
          logprobs: Float32Array.from(s.logprobs),
          samplingLogprobs: Float32Array.from(s.samplingLogprobs),
          finished: stopped,
          ...(stop === null ? {} : { stop }),
        };
        results[request]![s.sample] = completion;
        events.onCompletion?.(request, s.sample, completion);
      }
      events.onProgress?.(tokens, finished, total);
      await breathe();
    };

    // What a recorded decode step has fixed beside the number of rows; everything else lies in buffers.
    const { seed, stream, temperature, topK, topP, minP, repetitionPenalty } = settings;
    const keyed = [seed, stream, temperature, topK, topP, minP, repetitionPenalty].join(" ");
    for (;;) {
      if (events.shouldStop?.()) break;
      const isIdle = () => scheduler.waiting === 0 && scheduler.running.length === 0;
      if (events.feed) {
        // Idle, it may wait for a reward: as long as the user lets it.
        const idle = isIdle();
        const next = events.feed.next(idle);
        const change = await (idle ? unlessStopped(next, events.shouldStop, IDLE_GRACE_MS) : next);
        if (change === null) break;
        for (const place of change.drop) total -= scheduler.drop(place);
        for (const request of change.add) add(request);
        if (change.drop.length > 0 && change.add.length === 0 && isIdle()) continue;
      }
      if (isIdle()) break;
      const admission = scheduler.admit();
      if (admission.prefill.length > 0) await prefill(admission.prefill, requests);
      if (admission.sequences.length > 0) {
        firstTokens(admission.sequences, requests, settings);
        await collect(admission.sequences);
      }
      const running = scheduler.running;
      if (running.length === 0) continue;
      const rows = device.decodeBucket(running.length);
      fillStep(buffers.step, running, requests, { ...spare, step: settings.step, rows });
      device.upload(buffers.step.block, buffers.step.host);
      await runRecorded(`engine ${engine} decode ${rows} ${keyed}`, () => decodeStep(rows, settings));
      await collect(running);
    }
    return results;
  };

  return {
    generate,
    /** Forgets the recorded decode steps: the buffers are about to go. */
    close: () => device.forget(`engine ${engine} `),
  };
}

export type RolloutEngine = ReturnType<typeof createRolloutEngine>;
