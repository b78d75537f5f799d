/**
 * How a generation is cut into optimizer steps. As in TRL, its completions are shuffled once and each step takes the next
 * share of them, so a step sees many prompts and need not hold whole groups; the order is the same in every pass over the
 * generation. A generation that one step takes whole stays in the order of its groups. Advantages are of whole groups and
 * made before; nothing here computes.
 *
 * Within a step completions go by group all the same, so that those of one prompt share its computation: a group that is
 * scattered over n steps costs its prompt n times.
 */
import { rowAt } from "../data/order.ts";
import { activeTokens, type LossConfig } from "./loss/config.ts";
import type { WholeGeneration } from "./loss/step.ts";
import type { Sample, Weighed } from "./sample.ts";

/** One step's share. */
export interface GenerationStep {
  /** Which completions of the generation, ascending. */
  readonly members: readonly number[];
  /** Their places in the step's own order, which is the shuffled one; null: the order of `members`. */
  readonly places: readonly number[] | null;
}

/** Keeps the shuffle's keys apart from those of the order of rows, whose epochs stay below. */
const SHUFFLES = 2 ** 40;

export interface CutOptions {
  /** Of the generation, and of a step, which divides it. */
  readonly completions: number;
  readonly perStep: number;
  /** Of one of `bnpo`'s blocks; null where none is cut. */
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

/** What a step's update must know of the generation, where that serves several. */
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
