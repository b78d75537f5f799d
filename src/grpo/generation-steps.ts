/**
 * How a generation is split into optimizer steps. As in TRL, its completions are shuffled once and each step takes the
 * next slice, so a step sees many prompts and need not contain whole groups; every pass over the generation uses the
 * same order. A generation that fits in one step keeps the order of its groups. Advantages are computed earlier, over
 * whole groups.
 *
 * Within a step completions are sorted by group, so that those of one prompt share its computation: a group scattered
 * over n steps computes its prompt n times.
 */
import { rowAt } from "../data/order.ts";
import { activeTokens, type LossConfig } from "./loss/config.ts";
import type { WholeGeneration } from "./loss/step.ts";
import type { Sample, Weighed } from "./sample.ts";

/** One step's slice. */
export interface GenerationStep {
  /** Indices of its completions in the generation, ascending. */
  readonly members: readonly number[];
  /** Their places in the step's shuffled order; null: the order of `members`. */
  readonly places: readonly number[] | null;
}

/** Separates the shuffle's keys from those of the row order, whose epochs stay below. */
const SHUFFLES = 2 ** 40;

export interface CutOptions {
  /** Completions in the generation, a multiple of `perStep`. */
  readonly completions: number;
  readonly perStep: number;
  /** Completions in one of `bnpo`'s blocks; null for other loss types. */
  readonly blockSize: number | null;
  readonly seed: number;
  /** The first optimizer step that learns from the generation. */
  readonly step: number;
}

/** The steps of one pass over a generation. */
export function cutGeneration({ completions, perStep, blockSize, seed, step }: CutOptions): GenerationStep[] {
  const steps = completions / perStep;
  if (steps === 1 && (blockSize === null || blockSize >= completions))
    return [{ members: Array.from({ length: completions }, (_, i) => i), places: null }];
  return Array.from({ length: steps }, (_, s) => {
    const drawn = Array.from({ length: perStep }, (_, place) => ({
      place,
      member: rowAt(seed, SHUFFLES + step, s * perStep + place, completions),
    })).sort((a, b) => a.member - b.member);
    return { members: drawn.map(({ member }) => member), places: drawn.map(({ place }) => place) };
  });
}

/** The samples of one step, with their places in it. */
export function samplesOfStep<S extends Weighed>(samples: readonly S[], { members, places }: GenerationStep): S[] {
  return members.map((member, k) => (places ? { ...samples[member]!, place: places[k]! } : samples[member]!));
}

/** What a step's update must know about a generation that serves several steps. */
export function wholeGeneration(
  samples: readonly Sample[],
  steps: number,
  loss: Pick<LossConfig, "maskTruncatedCompletions">,
): WholeGeneration | undefined {
  if (steps === 1) return undefined;
  const tokens = samples.reduce(
    (sum, sample) => sum + activeTokens(sample.completionIds.length, sample, loss).length,
    0,
  );
  return { completions: samples.length, tokens };
}
