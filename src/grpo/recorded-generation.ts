/**
 * A rollouts file as a generation's samples, with its optional fields: the optimizer steps that lines belong to, the
 * rewards of each function, advantages. A file has each of these on every line or on none. Also checks that its groups
 * match the settings and the model.
 */
import type { UpdateConfig } from "../config/schema.ts";
import { InputError } from "../errors.ts";
import { ESTIMATORS } from "./estimators/estimators.ts";
import type { GenerationStep } from "./generation-steps.ts";
import type { Completion, RolloutGroup } from "./rollout-file.ts";
import type { Sample } from "./sample.ts";

/** A line of the file as a sample; missing fields are absent. */
export type Recorded = Sample & Omit<Completion, keyof Sample>;

export function recordedSamples(groups: readonly RolloutGroup[]): Recorded[] {
  return groups.flatMap(({ group, promptIds, completions }) =>
    completions.map((completion) => ({ mask: null, ...completion, group, promptIds })),
  );
}

export interface RecordedSteps {
  /** The first optimizer step that learned from the file; null if it has no steps. */
  readonly first: number | null;
  /** One pass over the file, step by step; a single step if the file has none. */
  readonly cut: readonly GenerationStep[];
}

/** @throws InputError if only some lines have a step, or a step's places are not a permutation of its lines */
export function recordedSteps(path: string, completions: readonly Recorded[]): RecordedSteps {
  everyOrNone(path, completions, "step", (c) => c.step);
  everyOrNone(path, completions, "place", (c) => c.place);
  const all = completions.map((_, i) => i);
  const bySteps = Map.groupBy(all, (i) => completions[i]!.step ?? null);
  const numbers = [...bySteps.keys()].sort((a, b) => (a ?? 0) - (b ?? 0));
  const cut = numbers.map((number): GenerationStep => {
    const members = bySteps.get(number)!;
    if (completions[members[0]!]!.place === undefined) return { members, places: null };
    const places = members.map((i) => completions[i]!.place!);
    if (new Set(places).size < places.length || places.some((place) => place >= places.length))
      throw new InputError(
        `${path}: "place" must count the ${places.length} lines ${number === null ? "" : `of step ${number} `}from 0, each once; leave it out to take them in the file's order`,
      );
    return { members, places };
  });
  return { first: numbers[0] ?? null, cut };
}

/**
 * Rewards by function (functions)(N) with their weights, or by completion (N) if the file has only the weighted sum.
 *
 * @throws InputError if a line's functions or weights differ from the first line's
 */
export function recordedRewards(path: string, completions: readonly Recorded[]) {
  everyOrNone(path, completions, "rewards", (c) => c.rewards);
  const weights = completions[0]?.rewardWeights;
  if (!weights) return { rewards: completions.map((c) => c.reward) };
  const names = Object.keys(completions[0]!.rewards!);
  for (const { rewards, rewardWeights } of completions) {
    if (Object.keys(rewards!).join() !== names.join())
      throw new InputError(
        `${path}: "rewards" name ${Object.keys(rewards!)} and ${names}; name the same on every line`,
      );
    const other = names.find((name) => rewardWeights![name] !== weights[name]);
    if (other !== undefined)
      throw new InputError(
        `${path}: "reward_weights" gives "${other}" ${rewardWeights![other]} and ${weights[other]}; give one weight on every line`,
      );
  }
  return {
    rewards: names.map((name) => completions.map(({ rewards }) => rewards![name]!)),
    weights: names.map((name) => weights[name]!),
  };
}

/** @throws InputError if a group's size is not num_generations, or a sequence exceeds the context */
export function checkGroups(config: UpdateConfig, groups: readonly RolloutGroup[], context: number): void {
  for (const { group, promptIds, completions } of groups) {
    if (config.numGenerations !== null && completions.length !== config.numGenerations)
      throw new InputError(
        `${config.rollouts}: group ${group} has ${completions.length} completions, num_generations is ${config.numGenerations}; leave the flag out to take the file's groups`,
      );
    const longest = Math.max(...completions.map((c) => c.completionIds.length));
    if (promptIds.length + longest > context)
      throw new InputError(
        `${config.rollouts}: group ${group}: prompt and completion have ${promptIds.length + longest} tokens, the model's context is ${context}; leave the group out`,
      );
  }
}

/** @throws InputError if the estimator needs a critic, or only some lines have advantages */
export function checkAdvantages(config: UpdateConfig, completions: readonly Recorded[]): void {
  everyOrNone(config.rollouts, completions, "advantages", (c) => c.advantages);
  if (completions[0]?.advantages === undefined && ESTIMATORS[config.advantageEstimator].needsCritic)
    throw new InputError(
      `advantage_estimator ${config.advantageEstimator} needs a critic, and ${config.rollouts} has no "advantages"; use grpo train, or write them into the file`,
    );
}

/** @throws InputError if only some lines have the key */
function everyOrNone(
  path: string,
  completions: readonly Recorded[],
  key: string,
  value: (completion: Recorded) => unknown,
): void {
  const own = completions.filter((completion) => value(completion) !== undefined).length;
  if (own > 0 && own < completions.length)
    throw new InputError(
      `${path}: ${own} of ${completions.length} lines have "${key}"; give it on every line or on none`,
    );
}
