/**
 * One generation: the prompts that were drawn and the completions sampled for them, in the forms that rewards, update,
 * record and console take. Nothing here computes on the device.
 */

import { writeCompletions } from "../metrics/completions-file.ts";
import type { CompletionSample } from "../metrics/console.ts";
import { loggedColumns, type RewardBatch, type RewardResult } from "../rewards/pool/pool.ts";
import type { SampledCompletion } from "../rollout/sequence.ts";
import type { Problem } from "../run/prompts.ts";
import type { GenerationStep } from "./generation-steps.ts";
import type { Advantage } from "./loss/config.ts";
import type { ScoredGroup } from "./policy-update.ts";
import { formatRollout } from "./rollout-file.ts";

/** A prompt with what was sampled for it. */
export interface Group {
  readonly problem: Problem;
  readonly completions: readonly SampledCompletion[];
}

/** Tokens of a prompt's end that reward functions are told: the opening of the assistant's turn and some more. */
const PROMPT_END_TOKENS = 32;

/** What reward functions get: one value a completion, the dataset's columns included. */
export function rewardBatch(
  groups: readonly Group[],
  texts: readonly string[],
  decode: (ids: readonly number[]) => string,
): RewardBatch {
  const rows = groups.flatMap(({ problem, completions }) => completions.map(() => problem.example));
  // Files of one dataset need not all have the same columns.
  const names = [...new Set(rows.flatMap((example) => Object.keys(example.columns)))];
  return {
    prompts: rows.map((example) => example.prompt),
    completions: texts,
    completionIds: groups.flatMap((group) => group.completions.map((c) => [...c.completionIds])),
    promptEnds: groups.flatMap(({ problem, completions }) => {
      const end = decode([...problem.promptIds.slice(-PROMPT_END_TOKENS)]);
      return completions.map(() => end);
    }),
    golds: rows.map((example) => example.gold),
    columns: Object.fromEntries(names.map((name) => [name, rows.map((example) => example.columns[name] ?? null)])),
    rows: groups.flatMap(({ problem, completions }) => completions.map(() => problem.row)),
    groups: groups.flatMap(({ completions }, group) => completions.map(() => group)),
  };
}

/**
 * What the update gets. `advantages`, `old` (π_old; null: each completion's own first forward) and `reference` are by
 * completion, in the order of the groups.
 */
export function scoredGroups(
  groups: readonly Group[],
  advantages: readonly Advantage[],
  old: readonly Float32Array[] | null,
  reference: readonly Float32Array[] | null,
): ScoredGroup[] {
  let at = 0;
  return groups.map(({ problem, completions }) => ({
    promptIds: problem.promptIds,
    completions: completions.map((c) => {
      const i = at++;
      return {
        completionIds: c.completionIds,
        finished: c.finished,
        advantage: advantages[i]!,
        oldLogprobs: old?.[i] ?? null,
        refLogprobs: reference?.[i] ?? null,
        samplingLogprobs: c.samplingLogprobs,
      };
    }),
  }));
}

/** What is recorded of a generation; all by completion, in the order of the groups, but `groups` and `cut`. */
export interface RecordedGeneration {
  readonly groups: readonly Group[];
  readonly texts: readonly string[];
  readonly result: RewardResult;
  /** One a reward function. */
  readonly weights: readonly number[];
  /** π_old. */
  readonly old: readonly Float32Array[];
  /** Null where they can be made again from the rewards. */
  readonly advantages: readonly Advantage[] | null;
  /** The steps of the first pass over the generation. */
  readonly cut: readonly GenerationStep[];
}

/** `completions/step-N.jsonl`: the generation's rollouts with the π_old they were learned from, ready for `grpo update`. */
export async function recordRollouts(
  outputDir: string,
  firstStep: number,
  { groups, texts, result, weights, old, advantages, cut }: RecordedGeneration,
): Promise<void> {
  const steps = new Map(cut.flatMap(({ members, places }, s) => members.map((i, k) => [i, { s, place: places?.[k] }])));
  // The weighted sum says all of one function of weight 1.
  const { perFunction } = result;
  const each = perFunction.length > 1 || weights.some((weight) => weight !== 1);
  const rewardWeights = each && Object.fromEntries(perFunction.map(({ name }, f) => [name, weights[f]!]));
  const columns = loggedColumns(result);
  let at = 0;
  const lines = groups.flatMap(({ problem, completions }, group) =>
    completions.map(({ completionIds, finished, stop, samplingLogprobs }) => {
      const i = at++;
      const { s, place } = steps.get(i)!;
      const advantage = advantages?.[i];
      return formatRollout(
        { group, promptIds: problem.promptIds, promptText: promptText(problem) },
        {
          completionIds,
          finished,
          reward: result.total[i] ?? null,
          ...(rewardWeights && {
            rewards: Object.fromEntries(perFunction.map(({ name, rewards }) => [name, rewards[i] ?? null])),
            rewardWeights,
          }),
          oldLogprobs: Float64Array.from(old[i]!),
          samplingLogprobs: Float64Array.from(samplingLogprobs),
          ...(advantage !== undefined && {
            advantages: typeof advantage === "number" ? advantage : Float64Array.from(advantage),
          }),
          step: firstStep + s,
          ...(place !== undefined && { place }),
          text: texts[i]!,
          ...(stop === undefined ? {} : { stop }),
          ...(columns && { extra: columns[i]! }),
        },
      );
    }),
  );
  await writeCompletions(outputDir, firstStep, lines);
}

/** A prompt as a reader wants it: the text, or the last message. */
function promptText({ example }: Problem): string {
  return typeof example.prompt === "string" ? example.prompt : (example.prompt.at(-1)?.content ?? "");
}

/** `count` completions, spread over the generation, for the console. */
export function completionSamples(
  groups: readonly Group[],
  texts: readonly string[],
  { total }: RewardResult,
  count: number,
): CompletionSample[] {
  const samples = groups.flatMap(({ problem, completions }) =>
    completions.map(({ completionIds, finished }) => ({
      prompt: promptText(problem),
      tokens: completionIds.length,
      finished,
    })),
  );
  const stride = Math.max(1, Math.floor(samples.length / count));
  return samples
    .map((sample, i) => ({ ...sample, completion: texts[i]!, reward: total[i] ?? null }))
    .filter((_, i) => i % stride === 0)
    .slice(0, count);
}
