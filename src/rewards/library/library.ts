/**
 * The built-in reward functions other than the verifiers: which function a name in `reward_funcs` stands for, and with
 * which parameters. Pure and fast, so they run in the caller, without a deadline.
 */
import { z } from "zod";
import { type CamelKeys, toCamel } from "../../config/names.ts";
import type { LibraryReward } from "../../config/reward-names.ts";
import { rewardFunctionSettings } from "../../config/settings/rewards.ts";
import { lengthSettings } from "../../config/settings/rollout.ts";
import { answerFormat, openedThought, reasoningSteps, tagCount, thinkFormat } from "./format.ts";
import { cosineScaled, groupLength, softOverlong } from "./length.ts";
import { repetitionPenalty } from "./repetition.ts";

const settings = { ...rewardFunctionSettings, ...lengthSettings };
type Settings = { [K in keyof typeof settings]: z.output<(typeof settings)[K]> };

/** The settings of src/config/settings/rewards.ts in camelCase, and `maxCompletionLength`. */
export type RewardParameters = CamelKeys<Settings>;

/** Every parameter as `grpo train` has it by default. */
export const defaultParameters = Object.fromEntries(
  Object.entries(z.object(settings).parse({})).map(([key, value]) => [toCamel(key), value]),
) as RewardParameters;

/** N completions. */
export interface LibraryBatch {
  readonly completions: readonly string[];
  readonly completionIds: readonly (readonly number[])[];
  /** The end of each completion's prompt as text, special tokens included; absent: unknown. */
  readonly promptEnds?: readonly string[] | undefined;
  /** Whether the answer is right; null: unknown. Read only by `cosine` and `length`. */
  readonly correct: readonly (boolean | null)[];
  /** Completions of one prompt have the same number; absent: all are one group. */
  readonly groups?: readonly number[] | undefined;
}

/** What TRL's training script passes to `get_soft_overlong_punishment` (trl/scripts/grpo.py of TRL 1.16). */
const TRL_SOFT_OVERLONG = { maxLength: 1280, cache: 256 } as const;

/** @returns one reward per completion; null if it depends on whether the answer is right and that is unknown */
export function scoreByLibrary(name: LibraryReward, batch: LibraryBatch, given: RewardParameters): (number | null)[] {
  const { completions, completionIds, correct } = batch;
  const lengths = completionIds.map((ids) => ids.length);
  /** What the model wrote, preceded by the tag that the prompt had opened. */
  const formed = () => completions.map((text, i) => openedThought(batch.promptEnds?.[i] ?? "") + text);
  switch (name) {
    case "format":
      return formed().map(answerFormat);
    case "think_format":
      return formed().map(thinkFormat);
    case "tag_count":
      return formed().map(tagCount);
    case "reasoning_steps":
      return completions.map(reasoningSteps);
    case "repetition":
      return completionIds.map((ids) => repetitionPenalty(ids, given.repetitionNGrams, given.repetitionMaxPenalty));
    case "soft_overlong": {
      const longest = given.softPunishMaxLen ?? given.maxCompletionLength;
      const cache = given.softPunishCache ?? Math.ceil(longest / 5);
      return lengths.map((length) => softOverlong(length, longest, cache));
    }
    case "get_soft_overlong_punishment": {
      const { maxLength, cache } = TRL_SOFT_OVERLONG;
      return lengths.map((length) =>
        softOverlong(length, given.softPunishMaxLen ?? maxLength, given.softPunishCache ?? cache),
      );
    }
    case "cosine": {
      const parameters = {
        minValueWrong: given.cosineMinValueWrong,
        maxValueWrong: given.cosineMaxValueWrong,
        minValueCorrect: given.cosineMinValueCorrect,
        maxValueCorrect: given.cosineMaxValueCorrect,
        maxLength: given.cosineMaxLen ?? given.maxCompletionLength,
      };
      return correct.map((right, i) => (right === null ? null : cosineScaled(lengths[i]!, right, parameters)));
    }
    case "length":
      return byGroup(batch, lengths);
  }
}

function byGroup({ correct, groups }: LibraryBatch, lengths: readonly number[]): (number | null)[] {
  const rewards: (number | null)[] = lengths.map(() => null);
  for (const members of Map.groupBy(lengths.keys(), (i) => groups?.[i] ?? 0).values()) {
    const scored = groupLength(
      members.map((i) => lengths[i]!),
      members.map((i) => correct[i] ?? null),
    );
    for (const [k, i] of members.entries()) rewards[i] = scored[k]!;
  }
  return rewards;
}
