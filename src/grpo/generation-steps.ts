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
import type { PolicyUpdateSettings, ScoredGroup } from "./policy-update.ts";

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

/** The groups of one step: those of the generation, each with the completions that the step takes, in their order. */
export function groupsOfStep(groups: readonly ScoredGroup[], { members, places }: GenerationStep): ScoredGroup[] {
  const taken = new Map(members.map((member, k) => [member, places?.[k]]));
  let at = 0;
  return groups.flatMap((group) => {
    const completions = group.completions.flatMap((completion) => {
      const member = at++;
      if (!taken.has(member)) return [];
      const place = taken.get(member);
      return [place === undefined ? completion : { ...completion, place }];
    });
    return completions.length > 0 ? [{ ...group, completions }] : [];
  });
}

/** The settings of a step's update, with what the step is a part of where a generation serves several. */
export function settingsOfSteps(
  settings: PolicyUpdateSettings,
  completions: readonly { readonly finished: boolean; readonly completionIds: Int32Array }[],
  steps: number,
): PolicyUpdateSettings {
  return steps === 1 ? settings : { ...settings, generation: wholeGeneration(completions, settings.loss) };
}

function wholeGeneration(
  completions: readonly { readonly finished: boolean; readonly completionIds: Int32Array }[],
  loss: LossConfig,
): WholeGeneration {
  const tokens = completions.reduce(
    (sum, { finished, completionIds }) => sum + activeTokens({ finished, logprobs: completionIds }, loss),
    0,
  );
  return { completions: completions.length, tokens };
}
