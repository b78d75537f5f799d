/**
 * One generation: the completions sampled for some prompts, with their rewards, and its conversion for the recorded
 * rollouts and the console. Nothing here computes on the device.
 */

import type { CompletionRow } from "../metrics/completion-table.ts";
import { writeCompletions } from "../metrics/completions-file.ts";
import type { CompletionSample } from "../metrics/console.ts";
import { mean } from "../metrics/statistics.ts";
import type { RewardResult } from "../rewards/pool/pool.ts";
import type { IncrementalDecoder } from "../tokenizer/tokenizer.ts";
import type { GenerationStep } from "./generation-steps.ts";
import { formatRollout, type TokenDetails } from "./rollout-file.ts";
import { type Sampled, type Scored, sampledTokens, type Weighed } from "./sample.ts";

/** Sampled and scored completions. */
export interface Generation {
  readonly samples: readonly Scored[];
  /** Everything else about the rewards: warnings, failures, what functions logged. */
  readonly rewards: RewardResult;
  /** Rows drawn so far, over all epochs, up to the last one used; the next generation continues there. */
  readonly position: number;
  /** Rows skipped because their prompt is too long for the context. */
  readonly skippedRows: number;
  /** Tokens that were read (prompts and forced tokens) and tokens that were sampled; discarded groups included. */
  readonly promptTokens: number;
  readonly sampledTokens: number;
  /** Prompt tokens, counted once per completion, plus sampled tokens: what TRL's `num_tokens` adds up. */
  readonly sequenceTokens: number;
  readonly groups: number;
  /** Dynamic sampling: groups discarded for lack of signal, and groups kept without it to fill the generation. */
  readonly discardedGroups: number;
  readonly groupsWithoutSignal: number;
}

export interface RecordOptions {
  /** By reward function name. */
  readonly rewardWeights: Readonly<Record<string, number>>;
  /** Record advantages: needed if replaying the policy update alone cannot compute them. */
  readonly withAdvantages: boolean;
  /** The steps of the first pass over the generation. */
  readonly cut: readonly GenerationStep[];
  /** What the page shows of a sample; null: nothing more. */
  readonly detailsOf: ((sample: Scored & Weighed, index: number) => TokenDetails) | null;
}

/**
 * Where each token ends in a text, in UTF-16 units. A token whose bytes are no whole character ends where its first ones do.
 *
 * @param decoder of the text, with or without special tokens as that was made
 */
export function tokenEnds(ids: ArrayLike<number>, text: string, decoder: IncrementalDecoder): number[] {
  let end = 0;
  return Array.from(ids, (id) => {
    end = Math.min(text.length, end + decoder.push(id).length);
    return end;
  });
}

/**
 * `completions/step-N.jsonl`: the generation's rollouts with the π_old used for learning, ready for `grpo update`.
 *
 * @param firstLogprobs π_old of samples that have none
 */
export async function recordRollouts(
  outputDir: string,
  firstStep: number,
  samples: readonly (Scored & Weighed)[],
  firstLogprobs: readonly Float32Array[],
  { rewardWeights, withAdvantages, cut, detailsOf }: RecordOptions,
): Promise<void> {
  const steps = new Map(cut.flatMap(({ members, places }, s) => members.map((i, k) => [i, { s, place: places?.[k] }])));
  // With one function of weight 1, the weighted sum is its reward.
  const weights = Object.values(rewardWeights);
  const each = weights.length > 1 || weights.some((weight) => weight !== 1);
  const lines = samples.map((sample, i) => {
    const { group, promptIds, completionIds, mask, finished, stop, reward, rewards, text, extra } = sample;
    const { s, place } = steps.get(i)!;
    const { advantage } = sample;
    return formatRollout(
      { group, promptIds, promptText: promptText(sample) },
      {
        ...{ completionIds, finished, reward },
        ...(mask && { mask }),
        ...(each && { rewards, rewardWeights }),
        oldLogprobs: Float64Array.from(sample.oldLogprobs ?? firstLogprobs[i]!),
        samplingLogprobs: Float64Array.from(sample.samplingLogprobs),
        ...(withAdvantages && {
          advantages: typeof advantage === "number" ? advantage : Float64Array.from(advantage),
        }),
        step: firstStep + s,
        ...(place !== undefined && { place }),
        text,
        ...(stop === undefined ? {} : { stop }),
        ...(extra && { extra }),
        ...(detailsOf && { details: detailsOf(sample, i) }),
      },
    );
  });
  await writeCompletions(outputDir, firstStep, lines);
}

/** A prompt for display: the text, or the last message. */
function promptText({ problem }: Sampled): string {
  const { prompt } = problem.example;
  return typeof prompt === "string" ? prompt : (prompt.at(-1)?.content ?? "");
}

/** `count` samples spread over the generation, for the console. */
export function completionSamples(samples: readonly Scored[], count: number): CompletionSample[] {
  const stride = Math.max(1, Math.floor(samples.length / count));
  return samples
    .filter((_, i) => i % stride === 0)
    .slice(0, count)
    .map((sample) => ({
      ...{ prompt: promptText(sample), completion: sample.text, reward: sample.reward },
      ...{ tokens: sampledTokens(sample), finished: sample.finished },
    }));
}

/** All of them, for trackers. */
export function completionRows(samples: readonly (Scored & Weighed)[]): CompletionRow[] {
  return samples.map((sample) => ({
    ...{ prompt: promptText(sample), completion: sample.text, rewards: sample.rewards, extra: sample.extra },
    advantage: typeof sample.advantage === "number" ? sample.advantage : (mean([...sample.advantage]) ?? 0),
  }));
}
