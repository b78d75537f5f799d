/**
 * One rollout: requests are added and dropped while its sequences are decoded, one token each at a time. The caller
 * loops: `step` returns the sequences that have stopped, and the caller either ends each of them or feeds it, for
 * example a tool's answer, and it continues. So callers (engine.ts, grpo/dynamic-sampling.ts) decide what happens
 * between two tokens: streaming, replacing a group, waiting for a tool.
 */
import { breathe } from "../device/breathe.ts";
import { RunError } from "../errors.ts";
import { decode, firstTokens, prefill, type RolloutModel, type SampledTokens } from "./passes.ts";
import { createScheduler } from "./scheduler.ts";
import type {
  CachedSequence,
  Ending,
  RolloutRequest,
  RolloutSettings,
  SampledCompletion,
  Sequence,
} from "./sequence.ts";

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
   * Admits what fits and adds one token to every running sequence, two to new ones.
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

  const unended = (sequence: Sequence): CachedSequence => {
    const found = scheduler.running.find((s) => s === sequence);
    if (!found) throw new RangeError(`rollout: sample ${sequence.sample} of request ${sequence.place} has ended`);
    return found;
  };

  /** Appends a pass's tokens to their sequences. @returns those that have stopped */
  const take = (sequences: readonly CachedSequence[], sampled: SampledTokens): CachedSequence[] => {
    for (const [i, s] of sequences.entries()) {
      const id = sampled.ids[i]!;
      if (id < 0)
        throw new RunError(
          `the model's logits are not finite (prompt ${s.place}, token ${s.ids.length}); the weights are broken or the learning rate is too high`,
        );
      const forced = s.forced.shift();
      if (forced !== undefined) append(s, forced, 0, 0, 0);
      else {
        append(s, id, sampled.logprobs[i]!, sampled.samplingLogprobs[i]!, 1);
        onToken?.(s, id);
      }
      s.ending = endingOf(s, settings);
    }
    return sequences.filter((s) => s.ending);
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
    drop: scheduler.drop,
    async step() {
      if (on.started !== turn) throw new Error("rollout: another rollout has begun on the same buffers");
      const stopped: Sequence[] = [];
      const admission = scheduler.admit();
      if (admission.prefill.length > 0) await prefill(on, admission.prefill);
      if (admission.sequences.length > 0) {
        stopped.push(...take(admission.sequences, await firstTokens(on, admission.sequences, settings)));
        await breathe();
      }
      const running = scheduler.running.filter((s) => !s.ending);
      if (running.length > 0) stopped.push(...take(running, await decode(on, running, settings)));
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
        completionIds: Int32Array.from(s.ids),
        logprobs: Float32Array.from(s.logprobs),
        samplingLogprobs: Float32Array.from(s.samplingLogprobs),
        mask: s.mask && Uint8Array.from(s.mask),
        ...s.ending,
      };
    },
  };
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
