/**
 * One rollout: requests are added and dropped while its sequences are decoded, one token each at a time. The caller
 * loops: `step` returns the sequences that have stopped, and the caller either ends each of them or feeds it, for
 * example a tool's answer, and it continues. So callers (engine.ts, grpo/dynamic-sampling.ts) decide what happens
 * between two tokens: streaming, replacing a group, waiting for a tool.
 *
 * A device that works by itself (`queuesWork`) gets the next step before the tokens of this one are read: they go from
 * step to step on the device. A sequence then has a row too many after it has stopped; nothing else depends on it.
 */
import { breathe } from "../device/breathe.ts";
import { RunError } from "../errors.ts";
import type { ModelConfig } from "../families/config.ts";
import { routeShape, type TokenRoutes } from "../model/routes.ts";
import { prefill, type QueuedStep, queueStep, type RolloutModel } from "./passes.ts";
import { createScheduler } from "./scheduler.ts";
import type {
  CachedSequence,
  Ending,
  RolloutRequest,
  RolloutSettings,
  SampledCompletion,
  Sequence,
} from "./sequence.ts";
import { tokenCount } from "./step-inputs.ts";

/** Methods are called between two steps; `feed` may also be called in `onToken`. */
export interface Rollout {
  /** Samples that have ended. */
  readonly finished: number;
  /** Those plus all unfinished ones; the rollout is done when the two are equal. */
  readonly total: number;
  /**
   * Queues a request after the others.
   *
   * @returns its place: how many were added before
   */
  add(request: RolloutRequest): number;
  /** Ends a request's remaining samples. */
  drop(place: number): void;
  /**
   * Admits what fits and adds one token to every sequence.
   *
   * @returns sequences that have stopped; each keeps its slot and pages until it is ended
   * @throws RunError if the logits are not finite
   */
  step(): Promise<readonly Sequence[]>;
  /**
   * Forces the sequence's next tokens: they take the same decode steps as sampled ones and end the sequence only at the
   * length limit. A stopped sequence continues; with no tokens given, it continues sampling.
   *
   * @throws RangeError if it has ended or its completion is full
   */
  feed(sequence: Sequence, ids: Iterable<number>): void;
  /** @throws RangeError if it has not stopped, or has ended */
  end(sequence: Sequence): SampledCompletion;
}

/** Called for each sampled token. */
export type OnToken = (sequence: Sequence, id: number) => void;

/** Starts a rollout. It uses all of the buffers, so an earlier one on them cannot continue. */
export function startRollout(on: RolloutModel, settings: RolloutSettings, onToken?: OnToken): Rollout {
  const { limits, sizes } = on.buffers;
  if (settings.maxCompletionLength > limits.maxCompletion) throw new RangeError("rollout: longer than planned");
  const turn = ++on.started;
  const scheduler = createScheduler(limits, sizes);
  let added = 0;
  let finished = 0;
  let queued: QueuedStep | null = null;

  const unended = (sequence: Sequence): CachedSequence => {
    const found = scheduler.running.find((s) => s === sequence);
    if (!found) throw new RangeError(`rollout: sample ${sequence.sample} of request ${sequence.place} has ended`);
    return found;
  };

  /** Admits what fits and queues a step of all sequences that need one; null if none does. */
  const queue = async (): Promise<QueuedStep | null> => {
    const admission = scheduler.admit();
    if (admission.prefill.length > 0) await prefill(on, admission.prefill, settings);
    const fresh = admission.sequences;
    const running = scheduler.running.filter((s) => {
      const tokens = tokenCount(s);
      return tokens > 0 && tokens < settings.maxCompletionLength && !s.ending;
    });
    if (running.length + fresh.length === 0) return null;
    const sampled = await queueStep(on, running, fresh, settings);
    for (const s of scheduler.running) s.row = -1;
    const sequences = [...running, ...fresh];
    for (let row = 0; row < sequences.length; row++) sequences[row]!.row = row;
    return { sequences, sampled };
  };

  /** The token that a queued step samples for the sequence is not wanted. */
  const discard = (s: CachedSequence): void => {
    if (s.row < 0) return;
    queued!.sequences[s.row] = null;
    s.row = -1;
    s.mismarked = true;
  };

  /** Appends a step's tokens to their sequences. @returns those that have stopped */
  const take = async ({ sequences, sampled }: QueuedStep): Promise<CachedSequence[]> => {
    const { ids, logprobs, samplingLogprobs, routes } = await sampled();
    const stopped: CachedSequence[] = [];
    for (let i = 0; i < sequences.length; i++) {
      const s = sequences[i];
      if (!s) continue;
      const id = ids[i]!;
      if (id < 0) throw notFinite(s, logprobs[i]!, settings);
      if (!queued) s.row = -1;
      const taken = routes?.[i];
      if (taken) s.routes.push(taken);
      const forced = s.forced.shift();
      if (forced === undefined) {
        append(s, id, logprobs[i]!, samplingLogprobs[i]!, 1);
        onToken?.(s, id);
      } else {
        append(s, forced, 0, 0, 0);
        if (s.row >= 0 && on.buffers.step.fields.from[s.row]! >= 0) discard(s); // the queued step took the sampled token
      }
      s.ending = endingOf(s, settings);
      if (!s.ending) continue;
      discard(s);
      stopped.push(s);
    }
    return stopped;
  };

  return {
    get finished() {
      return finished;
    },
    get total() {
      return finished + scheduler.running.length + scheduler.waiting;
    },
    add(request) {
      const P = request.promptIds.length;
      if (P === 0 || P > limits.longestPrompt)
        throw new RangeError(`rollout: a prompt of ${P} tokens, planned for 1…${limits.longestPrompt}`);
      scheduler.add(request);
      return added++;
    },
    drop(place) {
      for (const s of scheduler.running) if (s.place === place) discard(s);
      scheduler.drop(place);
    },
    async step() {
      if (on.started !== turn) throw new Error("rollout: another rollout has begun on the same buffers");
      if (!queued) await on.untaken?.sampled(); // an earlier rollout was left
      const step = queued ?? (await queue());
      queued = step && on.model.device.queuesWork ? await queue() : null;
      on.untaken = queued;
      const stopped = step ? await take(step) : [];
      await breathe(); // even if all have stopped, since the caller may loop until a tool has answered
      return stopped;
    },
    feed(sequence, ids) {
      const s = unended(sequence);
      if (s.ids.length >= settings.maxCompletionLength)
        throw new RangeError(`rollout: sample ${s.sample} of request ${s.place} is at its length limit`);
      for (const id of ids) s.forced.push(id);
      s.matcher = null; // a stop string cannot begin in a forced token
      s.ending = null;
    },
    end(sequence) {
      const s = unended(sequence);
      if (!s.ending) throw new RangeError(`rollout: sample ${s.sample} of request ${s.place} still runs`);
      scheduler.finish(s);
      finished++;
      return {
        completionIds: new Int32Array(s.ids),
        logprobs: new Float32Array(s.logprobs),
        samplingLogprobs: new Float32Array(s.samplingLogprobs),
        mask: s.mask && new Uint8Array(s.mask),
        routes: routesOf(s, on.model.config),
        ...s.ending,
      };
    },
  };
}

/** What was recorded of a sequence's experts. */
function routesOf({ prompt, routes }: CachedSequence, config: ModelConfig): TokenRoutes | null {
  const shape = prompt.routes && routeShape(config);
  if (!prompt.routes || !shape) return null;
  const completion = new Uint16Array(routes.length * shape.layers * shape.perToken);
  for (const [t, own] of routes.entries()) completion.set(own, t * own.length);
  return { shape, prompt: prompt.routes, completion };
}

/** A sequence's logits are not finite, without the repetition penalty or because of it. */
function notFinite(s: CachedSequence, logprob: number, { repetitionPenalty }: RolloutSettings): RunError {
  const place = `(prompt ${s.place}, token ${s.ids.length})`;
  return new RunError(
    Number.isFinite(logprob)
      ? `repetition_penalty ${repetitionPenalty} makes the model's logits infinite ${place}: they are far too large already; the weights are broken or the learning rate is too high`
      : `the model's logits are not finite ${place}; the weights are broken or the learning rate is too high`,
  );
}

function append(s: CachedSequence, id: number, logprob: number, samplingLogprob: number, mask: 0 | 1): void {
  if (mask === 0) s.mask ??= s.ids.map(() => 1);
  s.ids.push(id);
  s.logprobs.push(logprob);
  s.samplingLogprobs.push(samplingLogprob);
  s.mask?.push(mask);
}

/** How a sequence's newest token ends it; null if it does not. */
function endingOf(s: CachedSequence, settings: RolloutSettings): Ending | null {
  const wasForced = s.mask?.at(-1) === 0;
  if (!wasForced && s.forced.length === 0) {
    const id = s.ids.at(-1)!;
    if (settings.isStop(id)) return { finished: true };
    s.matcher ??= settings.stopStrings?.() ?? null;
    const stop = s.matcher?.push(id) ?? null;
    if (stop !== null) return { finished: true, stop };
  }
  return s.ids.length < settings.maxCompletionLength ? null : { finished: false };
}
