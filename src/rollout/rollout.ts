/**
 * One rollout: requests are added and dropped while its sequences are decoded, a token of each at a time. The caller loops:
 * `step` says which sequences have stopped, and each of them is ended or, with a tool's answer say, fed and goes on. So
 * what a loop does between two tokens (streaming, replacing a group, waiting for a tool) is the loop's own (engine.ts,
 * grpo/dynamic-sampling.ts).
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

/** All calls are for between two steps; `feed` is for `onToken`, too. */
export interface Rollout {
  /** Samples that have ended. */
  readonly finished: number;
  /** Those and all that are still to end; the rollout is done when there are none. */
  readonly total: number;
  /**
   * Puts a request behind the others.
   *
   * @returns its place: how many were added before
   */
  add(request: RolloutRequest): number;
  /** Ends a request's remaining samples: nobody needs them. */
  drop(place: number): void;
  /**
   * Takes in what fits and gives every running sequence a token, new ones two.
   *
   * @returns those that have stopped; each keeps its slot and pages until it is ended
   * @throws RunError when the logits are not finite
   */
  step(): Promise<readonly Sequence[]>;
  /**
   * Forces the sequence's next tokens: they go through the same decode steps as sampled ones and end the sequence only at
   * the length limit. One that has stopped goes on; with no tokens, it goes on sampling.
   *
   * @throws RangeError where it has ended or its completion is full
   */
  feed(sequence: Sequence, ids: Iterable<number>): void;
  /** @throws RangeError where it has not stopped, or has ended */
  end(sequence: Sequence): SampledCompletion;
}

/** Told of each sampled token. */
export type OnToken = (sequence: Sequence, id: number) => void;

/** Begins a rollout, which has all of the buffers: an earlier one cannot go on. */
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

  /** The tokens of a pass join their sequences. @returns those that have stopped */
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
      await breathe(); // even where all have stopped, as the caller may loop until a tool has answered
      return stopped;
    },
    feed(sequence, ids) {
      const s = unended(sequence);
      if (s.ids.length >= settings.maxCompletionLength)
        throw new RangeError(`rollout: sample ${s.sample} of request ${s.place} is at its length limit`);
      for (const id of ids) s.forced.push(id);
      s.matcher = null; // a stop string begins in no forced token
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

/** Whether its newest token stops a sequence. */
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
