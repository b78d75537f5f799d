/**
 * Prompts → completions: prefill, then one token for every running sequence at a time, through the same layers and
 * kernels as training. Each token's log-probability is recorded as it is sampled, and is bit for bit what the training
 * pass computes for it (promise 2); its random number is keyed by (seed, step, prompt, sample) and counted by position
 * (promise 3), so neither batching nor the order of admission changes a completion.
 */
import { breathe, doPieces, type Pieces } from "../device/breathe.ts";
import { PAGE_TOKENS, SAMPLE_COUNTERS, type SamplingSettings } from "../device/device.ts";
import { RunError } from "../errors.ts";
import { attentionShape } from "../model/activations.ts";
import type { Model } from "../model/model.ts";
import { type Attend, forwardLayer, layerRows } from "../model/transformer.ts";
import { firstRows, rows, type Tensor } from "../tensor/tensor.ts";
import type { RolloutBuffers } from "./buffers.ts";
import { createScheduler, type Scheduler } from "./scheduler.ts";
import type { ResidentPrompt, RolloutRequest, SampledCompletion, Sequence } from "./sequence.ts";

export interface RolloutSettings extends SamplingSettings {
  /** Training step: part of the random numbers' key. */
  readonly step: number;
  readonly maxCompletionLength: number;
  readonly isStop: (id: number) => boolean;
}

export interface RolloutEvents {
  /** All samples of a prompt are there. */
  readonly onGroup?: (request: number, completions: readonly SampledCompletion[]) => void;
  readonly onToken?: (request: number, sample: number, id: number) => void;
  readonly onProgress?: (tokens: number, finished: number, total: number) => void;
  /** Stops between two tokens when it says so; what is not finished then is left out. */
  readonly shouldStop?: () => boolean;
}

let engines = 0;

/** A rollout engine on a model and its planned buffers. */
export function createRolloutEngine(model: Model, buffers: RolloutBuffers) {
  const { device, config, weights, rope } = model;
  const { ops } = device;
  const shape = attentionShape(config);
  const engine = engines++;
  const recorded = new Set<string>();

  /** The residual stream's `from` rows → logits, row by row. */
  const computeLogits = (count: number): void => {
    const normed = firstRows(buffers.normed, count);
    ops.rmsnormForward(normed, null, firstRows(buffers.hidden, count), weights.finalNorm, config.rmsNormEps);
    ops.matmulForward(firstRows(buffers.logits, count), normed, weights.head, null);
  };

  /** Prompts packed into one pass: their keys and values into their pages, their last rows into promptHidden. */
  const prefill = async (prompts: readonly ResidentPrompt[], requests: readonly RolloutRequest[]): Promise<void> => {
    const T = prompts.reduce((sum, p) => sum + p.length, 0);
    const [tokens, positions, page, offset] = Array.from({ length: 4 }, () => new Int32Array(T)) as [
      Int32Array,
      Int32Array,
      Int32Array,
      Int32Array,
    ];
    const segments = new Int32Array(prompts.length * 4);
    let row = 0;
    for (const [s, prompt] of prompts.entries()) {
      segments.set([row, prompt.length, 0, 0], 4 * s);
      tokens.set(requests[prompt.request]!.promptIds, row);
      for (let t = 0; t < prompt.length; t++, row++) {
        positions[row] = t;
        page[row] = prompt.pages[Math.floor(t / PAGE_TOKENS)]!;
        offset[row] = t % PAGE_TOKENS;
      }
    }
    device.upload(buffers.tokens, tokens);
    device.upload(buffers.positions, positions);
    device.upload(buffers.page, page);
    device.upload(buffers.offset, offset);
    device.upload(buffers.segments, segments);
    const b = layerRows(buffers.layer, T);
    const segmentRows = firstRows(buffers.segments, prompts.length);
    const [pageRows, offsetRows] = [firstRows(buffers.page, T), firstRows(buffers.offset, T)];
    ops.embeddingForward(b.residual, firstRows(buffers.tokens, T), weights.embedding);
    for (const [layer, layerWeights] of weights.layers.entries()) {
      const attend: Attend = (index, own) => {
        ops.kvStore(buffers.cache[index]!, own.qkv, pageRows, offsetRows, shape);
        ops.attentionForward(own.attention, null, own.qkv, segmentRows, shape);
      };
      const positions = firstRows(buffers.positions, T);
      await doPieces(forwardLayer(device, config, layerWeights, layer, b, positions, rope, attend));
    }
    for (const [s, prompt] of prompts.entries()) {
      const last = segments[4 * s]! + prompt.length - 1;
      ops.cast(rows(buffers.promptHidden, prompt.slot, 1), rows(b.residual, last, 1));
    }
  };

  /** Everything of a decode step that the device does; reads only fixed buffers. */
  function* decodeStep(B: number, settings: RolloutSettings): Pieces {
    const b = layerRows(buffers.layer, B);
    const at = (t: Tensor) => firstRows(t, B);
    ops.embeddingForward(b.residual, at(buffers.tokens), weights.embedding);
    for (const [layer, layerWeights] of weights.layers.entries())
      yield* forwardLayer(device, config, layerWeights, layer, b, at(buffers.positions), rope, (index, own) => {
        const pages = buffers.cache[index]!;
        ops.kvStore(pages, own.qkv, at(buffers.page), at(buffers.offset), shape);
        const [table, prompts, completions] = [
          at(buffers.pageTable),
          at(buffers.promptLengths),
          at(buffers.completionLengths),
        ];
        ops.attentionDecode(own.attention, own.qkv, pages, table, prompts, completions, shape);
      });
    ops.cast(at(buffers.hidden), b.residual);
    computeLogits(B);
    yield;
    sampleRows(B, settings);
  }

  const sampleRows = (B: number, settings: RolloutSettings): void => {
    const at = (t: Tensor) => firstRows(t, B);
    const [ids, logprob, samplingLogprob] = [at(buffers.ids), at(buffers.logprob), at(buffers.samplingLogprob)];
    ops.sample(
      ids,
      logprob,
      samplingLogprob,
      buffers.logits,
      at(buffers.logitRow),
      at(buffers.counters),
      buffers.seen,
      settings,
    );
  };

  const uploadCounters = (sequences: readonly Sequence[], requests: readonly RolloutRequest[], step: number): void => {
    const counters = new Int32Array(sequences.length * SAMPLE_COUNTERS);
    for (const [i, s] of sequences.entries())
      counters.set([s.ids.length, s.sample, requests[s.prompt.request]!.prompt, step, s.slot], i * SAMPLE_COUNTERS);
    device.upload(buffers.counters, counters);
  };

  /** The first token of new sequences, from their prompts' last rows. */
  const firstTokens = (
    sequences: readonly Sequence[],
    requests: readonly RolloutRequest[],
    settings: RolloutSettings,
  ) => {
    const prompts = [...new Set(sequences.map((s) => s.prompt))];
    for (const [i, prompt] of prompts.entries())
      ops.cast(rows(buffers.hidden, i, 1), rows(buffers.promptHidden, prompt.slot, 1));
    computeLogits(prompts.length);
    device.upload(
      buffers.logitRow,
      Int32Array.from(sequences, (s) => prompts.indexOf(s.prompt)),
    );
    uploadCounters(sequences, requests, settings.step);
    if (buffers.seen) for (const s of sequences) markPrompt(s, requests[s.prompt.request]!.promptIds);
    sampleRows(sequences.length, settings);
  };

  const markPrompt = (sequence: Sequence, promptIds: Int32Array): void => {
    const bits = new Uint32Array(Math.ceil(config.vocabSize / 32));
    for (const id of promptIds) bits[id >> 5]! |= 1 << (id & 31);
    device.upload(rows(buffers.seen!, sequence.slot, 1), bits);
  };

  /** Everything that changes from step to step, into the fixed buffers. */
  const uploadStep = (sequences: readonly Sequence[], requests: readonly RolloutRequest[], step: number): void => {
    const width = buffers.sizes.tableWidth;
    const table = new Int32Array(sequences.length * width);
    const generated = (s: Sequence) => s.ids.length - 1; // place of the newest token in the completion
    for (const [i, s] of sequences.entries()) {
      table.set(s.prompt.pages, i * width);
      table.set(s.pages, i * width + s.prompt.pages.length);
    }
    const each = (value: (s: Sequence, i: number) => number) => Int32Array.from(sequences, value);
    device.upload(buffers.pageTable, table);
    device.upload(
      buffers.tokens,
      each((s) => s.ids.at(-1)!),
    );
    device.upload(
      buffers.positions,
      each((s) => s.prompt.length + generated(s)),
    );
    device.upload(
      buffers.page,
      each((s) => s.pages[Math.floor(generated(s) / PAGE_TOKENS)]!),
    );
    device.upload(
      buffers.offset,
      each((s) => generated(s) % PAGE_TOKENS),
    );
    device.upload(
      buffers.promptLengths,
      each((s) => s.prompt.length),
    );
    device.upload(
      buffers.completionLengths,
      each((s) => s.ids.length),
    );
    device.upload(
      buffers.logitRow,
      each((_, i) => i),
    );
    uploadCounters(sequences, requests, step);
  };

  const runRecorded = (key: string, work: () => Pieces): Promise<void> => {
    if (recorded.has(key)) return device.replay(key);
    recorded.add(key);
    return device.record(key, work);
  };

  /**
   * Samples every request's completions, in the order of the requests.
   *
   * @throws RunError when the logits are not finite, or a prompt exceeds what was planned for.
   */
  const generate = async (
    requests: readonly RolloutRequest[],
    settings: RolloutSettings,
    events: RolloutEvents = {},
  ): Promise<SampledCompletion[][]> => {
    const { limits } = buffers;
    if (settings.maxCompletionLength > limits.maxCompletion) throw new RangeError("rollout: longer than planned");
    for (const { promptIds } of requests)
      if (promptIds.length === 0 || promptIds.length > limits.longestPrompt)
        throw new RangeError(`rollout: a prompt of ${promptIds.length} tokens, planned for 1…${limits.longestPrompt}`);
    const scheduler: Scheduler = createScheduler(requests, limits, buffers.sizes);
    const results: SampledCompletion[][] = requests.map(() => []);
    const missing = requests.map((r) => r.samples);
    const total = missing.reduce((a, b) => a + b, 0);
    let tokens = 0;
    let finished = 0;

    /** Takes the sampled tokens off the device; what has ended leaves the batch. */
    const collect = async (sequences: readonly Sequence[]): Promise<void> => {
      const count = sequences.length;
      const ids = (await device.read(firstRows(buffers.ids, count))) as Int32Array;
      const logprobs = (await device.read(firstRows(buffers.logprob, count))) as Float32Array;
      const sampling = (await device.read(firstRows(buffers.samplingLogprob, count))) as Float32Array;
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
        const stopped = settings.isStop(id);
        if (!stopped && s.ids.length < settings.maxCompletionLength) continue;
        scheduler.finish(s);
        finished++;
        const { request } = s.prompt;
        results[request]![s.sample] = {
          completionIds: Int32Array.from(s.ids),
          logprobs: Float32Array.from(s.logprobs),
          samplingLogprobs: Float32Array.from(s.samplingLogprobs),
          finished: stopped,
        };
        if (--missing[request]! === 0) events.onGroup?.(request, results[request]!);
      }
      events.onProgress?.(tokens, finished, total);
      await breathe();
    };

    // What a recorded decode step has fixed beside the number of rows; everything else lies in buffers.
    const { seed, stream, temperature, topK, topP, minP, repetitionPenalty } = settings;
    const keyed = [seed, stream, temperature, topK, topP, minP, repetitionPenalty].join(" ");
    while (scheduler.waiting > 0 || scheduler.running.length > 0) {
      if (events.shouldStop?.()) break;
      const admission = scheduler.admit();
      if (admission.prefill.length > 0) await prefill(admission.prefill, requests);
      if (admission.sequences.length > 0) {
        firstTokens(admission.sequences, requests, settings);
        await collect(admission.sequences);
      }
      const running = scheduler.running;
      if (running.length === 0) continue;
      uploadStep(running, requests, settings.step);
      const count = running.length;
      await runRecorded(`engine ${engine} decode ${count} ${keyed}`, () => decodeStep(count, settings));
      await collect(running);
    }
    return results;
  };

  return { generate };
}

export type RolloutEngine = ReturnType<typeof createRolloutEngine>;
