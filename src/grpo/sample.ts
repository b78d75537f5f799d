/**
 * One completion on its way through a generation. Its fields are filled from left to right: it is sampled, scored by the reward
 * functions, measured by the models, and weighed by its advantage; a stage's type has the fields so far. Anything that yields
 * samples, such as a rollout or a recorded file, joins at the stage it has reached. Samples of one prompt are neighbours.
 *
 * A completion may contain tokens that the policy did not sample, such as a tool's answer; its `mask` is 0 there. These forced
 * tokens are context and nothing else: no loss, denominator, KL, entropy, clip fraction, advantage, value, length or count of
 * sampled tokens includes them.
 */
import type { PackedGroup } from "../model/micro-batches.ts";
import type { SampledCompletion } from "../rollout/sequence.ts";
import type { Problem } from "../run/prompts.ts";
import type { Advantage, TokenMask, TokenValues } from "./loss/config.ts";

/** What every sample has, and all that a pass of a model reads. */
export interface Sample {
  /** The same number for completions of one prompt. */
  readonly group: number;
  readonly promptIds: Int32Array; // (P)
  readonly completionIds: Int32Array; // (R), R ≥ 1; the end-of-sequence token belongs to it
  readonly mask: TokenMask; // (R)
  /** False: cut at the length limit. */
  readonly finished: boolean;
}

export interface Sampled extends Sample, Omit<SampledCompletion, keyof Sample> {
  readonly problem: Problem;
  readonly text: string;
}

export interface Scored extends Sampled {
  /** The weighted sum; null: not scored, as in the next. */
  readonly reward: number | null;
  /** Of each reward function, by its name. */
  readonly rewards: Readonly<Record<string, number | null>>;
  /** Columns that reward functions added. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

export interface Measured extends Sample {
  /** Of the distribution really drawn from (R); null: not known, π_old stands in. */
  readonly samplingLogprobs: TokenValues | null;
  /** π_old (R); null: on-policy, the update's own first forward. */
  readonly oldLogprobs: TokenValues | null;
  /** π_ref (R); null where beta is 0. */
  readonly refLogprobs: TokenValues | null;
  /** V before the update (R); null without a critic. */
  readonly values: TokenValues | null;
}

export interface Weighed extends Measured {
  readonly advantage: Advantage;
  /** What the critic learns (R); null without one, and of a completion that was not scored. */
  readonly returns: TokenValues | null;
  /** Its place in the step's own order, where that is not the order of the samples. */
  readonly place?: number | undefined;
}

/** The samples as packed passes take them: neighbours of one prompt behind one copy of it. */
export function packed(samples: readonly Sample[]): PackedGroup[] {
  const groups: { readonly promptIds: Int32Array; readonly completions: Sample[] }[] = [];
  for (const [i, sample] of samples.entries())
    if (i > 0 && sample.group === samples[i - 1]!.group) groups.at(-1)!.completions.push(sample);
    else groups.push({ promptIds: sample.promptIds, completions: [sample] });
  return groups;
}

/** Tokens that the policy sampled. */
export function sampledTokens({ completionIds, mask }: Pick<Sample, "completionIds" | "mask">): number {
  return mask ? mask.reduce((sum, own) => sum + own, 0) : completionIds.length;
}
