/**
 * One completion on its way through a generation. Its fields are added in stages: it is sampled, scored by the reward
 * functions, measured by the models, and weighed by its advantage; each stage's type has the fields so far. A source of
 * samples, such as a rollout or a recorded file, enters at the stage it has reached. Samples of one prompt are
 * adjacent.
 *
 * A completion may contain tokens that the policy did not sample, such as a tool's answer; its `mask` is 0 there. These
 * forced tokens are only context: no loss, denominator, KL, entropy, clip fraction, advantage, value, length or count
 * of sampled tokens includes them.
 */
import type { PackedCompletion, PackedGroup } from "../model/micro-batches.ts";
import type { TokenRoutes } from "../model/routes.ts";
import type { SampledCompletion } from "../rollout/sequence.ts";
import type { Problem } from "../run/prompts.ts";
import type { Advantage, TokenMask, TokenValues } from "./loss/config.ts";

/** The fields of every sample, and all that a model's pass reads. */
export interface Sample {
  /** The same number for completions of one prompt. */
  readonly group: number;
  readonly promptIds: Int32Array; // (P)
  readonly completionIds: Int32Array; // (R), R ≥ 1; includes the end-of-sequence token
  readonly mask: TokenMask; // (R)
  /** False: cut at the length limit. */
  readonly finished: boolean;
  /** Experts that the policy's tokens went to; null or missing: unknown, or it has none. */
  readonly routes?: TokenRoutes | null | undefined;
}

export interface Sampled extends Sample, Omit<SampledCompletion, keyof Sample> {
  readonly problem: Problem;
  readonly text: string;
}

export interface Scored extends Sampled {
  /** The weighted sum; null: not scored, here and below. */
  readonly reward: number | null;
  /** By reward function name. */
  readonly rewards: Readonly<Record<string, number | null>>;
  /** Columns that reward functions added. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

export interface Measured extends Sample {
  /** Of the distribution actually sampled from (R); null: unknown, π_old is used instead. */
  readonly samplingLogprobs: TokenValues | null;
  /** π_old (R); null: on-policy, the update's first forward pass gives it. */
  readonly oldLogprobs: TokenValues | null;
  /** π_ref (R); null if beta is 0. */
  readonly refLogprobs: TokenValues | null;
  /** V before the update (R); null without a critic. */
  readonly values: TokenValues | null;
}

export interface Weighed extends Measured {
  readonly advantage: Advantage;
  /** The critic's targets (R); null without one, and for a completion that was not scored. */
  readonly returns: TokenValues | null;
  /** Place in the step's order, if that is not the order of the samples. */
  readonly place?: number | undefined;
}

/**
 * The samples as groups for packed passes: adjacent completions of one prompt share one copy of it.
 *
 * @param routed the passes take the samples' routes, where they have some; only the policy's do
 */
export function packed(samples: readonly Sample[], routed = false): PackedGroup[] {
  const groups: { readonly promptIds: Int32Array; readonly completions: PackedCompletion[] }[] = [];
  for (const [i, sample] of samples.entries()) {
    const { completionIds, routes } = sample;
    const own = routed ? { completionIds, routes } : { completionIds };
    if (i > 0 && sample.group === samples[i - 1]!.group) groups.at(-1)!.completions.push(own);
    else groups.push({ promptIds: sample.promptIds, completions: [own] });
  }
  return groups;
}

/** Number of tokens that the policy sampled. */
export function sampledTokens({ completionIds, mask }: Pick<Sample, "completionIds" | "mask">): number {
  return mask ? mask.reduce((sum, own) => sum + own, 0) : completionIds.length;
}
