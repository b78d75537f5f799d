/**
 * Prompts → completions on a model and its planned buffers: starts rollouts that the caller drives token by token
 * (rollout.ts), and has the plain loop that samples all requests.
 */
import type { Model } from "../model/model.ts";
import type { RolloutBuffers } from "./buffers.ts";
import { type OnToken, type Rollout, startRollout } from "./rollout.ts";
import type { RolloutRequest, RolloutSettings, SampledCompletion } from "./sequence.ts";

export interface GenerateEvents {
  readonly onToken?: OnToken;
  readonly onProgress?: (finished: number, total: number) => void;
  /** True stops between two tokens; unfinished completions are left out. */
  readonly shouldStop?: () => boolean;
}

export interface RolloutEngine {
  /** @throws RangeError if the settings exceed the plan */
  start(settings: RolloutSettings, onToken?: OnToken): Rollout;
  /**
   * Samples every request's completions, in request order.
   *
   * @throws RunError if the logits are not finite
   */
  generate(
    requests: readonly RolloutRequest[],
    settings: RolloutSettings,
    events?: GenerateEvents,
  ): Promise<SampledCompletion[][]>;
  /** Forgets the recorded decode steps, before the buffers are freed. */
  close(): void;
}

let engines = 0;

export function createRolloutEngine(model: Model, buffers: RolloutBuffers): RolloutEngine {
  const name = `engine ${engines++}`;
  const on = { model, buffers, name, recorded: new Set<string>(), untaken: null, started: 0 };
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
