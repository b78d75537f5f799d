/**
 * Prompts → completions on a model and its planned buffers: a rollout to be driven token by token (rollout.ts), and the
 * plain loop that samples everything it is asked for.
 */
import type { Model } from "../model/model.ts";
import type { RolloutBuffers } from "./buffers.ts";
import { type OnToken, type Rollout, startRollout } from "./rollout.ts";
import type { RolloutRequest, RolloutSettings, SampledCompletion } from "./sequence.ts";

export interface GenerateEvents {
  readonly onToken?: OnToken;
  readonly onProgress?: (finished: number, total: number) => void;
  /** Stops between two tokens when it says so; what is not finished then is left out. */
  readonly shouldStop?: () => boolean;
}

export interface RolloutEngine {
  /** @throws RangeError where the settings go beyond what was planned for */
  start(settings: RolloutSettings, onToken?: OnToken): Rollout;
  /**
   * Samples every request's completions, in the order of the requests.
   *
   * @throws RunError when the logits are not finite
   */
  generate(
    requests: readonly RolloutRequest[],
    settings: RolloutSettings,
    events?: GenerateEvents,
  ): Promise<SampledCompletion[][]>;
  /** Forgets the recorded decode steps: the buffers are about to go. */
  close(): void;
}

let engines = 0;

export function createRolloutEngine(model: Model, buffers: RolloutBuffers): RolloutEngine {
  const name = `engine ${engines++}`;
  const on = { model, buffers, name, recorded: new Set<string>(), started: 0 };
  const start = (settings: RolloutSettings, onToken?: OnToken) => startRollout(on, settings, onToken);
  return {
    start,
    async generate(requests, settings, { onToken, onProgress, shouldStop } = {}) {
      const rollout = start(settings, onToken);
      for (const request of requests) rollout.add(request);
      const results = requests.map((): SampledCompletion[] => []);
      while (rollout.finished < rollout.total && !shouldStop?.()) {
        for (const sequence of await rollout.step()) results[sequence.place]![sequence.sample] = rollout.end(sequence);
        onProgress?.(rollout.finished, rollout.total);
      }
      return results;
    },
    close: () => model.device.forget(`${name} `),
  };
}
