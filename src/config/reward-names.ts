/**
 * The names of the built-in rewards, and what TRL and open-r1 call the same ones. What they compute is in src/rewards;
 * the names are here because settings, help and checks need them too.
 */
import { entryOf } from "./entry.ts";

/** Judge the answer against the row's gold: 1 or 0. */
export const verifierRewards = ["gsm8k", "math", "auto", "accuracy", "reasoning_accuracy"] as const;
/** Need to know whether the answer is right, and score something else about it. */
const lengthByAnswerRewards = ["cosine", "length"] as const;
/** Look at text or tokens alone. */
export const textRewards = [
  "format",
  "think_format",
  "tag_count",
  "reasoning_steps",
  "repetition",
  "soft_overlong",
  "get_soft_overlong_punishment",
] as const;

export type VerifierReward = (typeof verifierRewards)[number];
export type LibraryReward = (typeof lengthByAnswerRewards)[number] | (typeof textRewards)[number];
export type BuiltInReward = VerifierReward | LibraryReward;

export const builtInRewards: readonly BuiltInReward[] = [...verifierRewards, ...lengthByAnswerRewards, ...textRewards];

export const isVerifier = (name: BuiltInReward): name is VerifierReward =>
  (verifierRewards as readonly string[]).includes(name);

/** Names in `trl.rewards`, in TRL's training script and in open-r1. */
const otherNames: Readonly<Record<string, BuiltInReward>> = {
  accuracy_reward: "accuracy",
  reasoning_accuracy_reward: "reasoning_accuracy",
  cosine_scaled_reward: "cosine",
  get_cosine_scaled_reward: "cosine",
  len_reward: "length",
  format_reward: "format",
  think_format_reward: "think_format",
  tag_count_reward: "tag_count",
  reasoning_steps_reward: "reasoning_steps",
  repetition_penalty: "repetition",
  repetition_penalty_reward: "repetition",
  get_repetition_penalty_reward: "repetition",
  soft_overlong_punishment: "soft_overlong",
  soft_overlong_punishment_reward: "soft_overlong",
};

/** Our name of a reward that TRL or open-r1 names otherwise; any other name as it is. */
export const ownRewardName = (name: string): string => entryOf(otherNames, name) ?? name;

/** Why a name of another trainer's reward is none here, and what to do; undefined for any other name. */
export function foreignReward(name: string): string | undefined {
  if (/^(binary_|ioi_|cf_)?code(_format)?(_reward)?$/.test(name))
    return "programs are not run to judge an answer; write a reward function that does so (a TypeScript module) and give its path";
  if (/\.py$/.test(name) || /^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$/.test(name.replace(/\.[cm]?[jt]sx?$/i, "/")))
    return "a Python name; reward functions are TypeScript modules, named by their path (./my-reward.ts)";
  return undefined;
}
