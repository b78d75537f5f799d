/** Parameters of the built-in reward functions (src/rewards/library), each named after the one it belongs to. */
import { number, whole } from "./kinds.ts";

export const rewardFunctionSettings = {
  cosine_min_value_wrong: number({}, -1)`cosine: the reward of a wrong answer of no length.`,
  cosine_max_value_wrong: number({}, -0.5)`cosine: the reward of a wrong answer of cosine_max_len tokens.`,
  cosine_min_value_correct: number({}, 0.5)`cosine: the reward of a correct answer of cosine_max_len tokens.`,
  cosine_max_value_correct: number({}, 1)`cosine: the reward of a correct answer of no length.`,
  cosine_max_len: whole(1, null)`cosine: length in tokens at which the schedule ends. null: max_completion_length.`,
  repetition_n_grams: whole(1, 3)`repetition: length in tokens of the runs whose repetition is counted.`,
  repetition_max_penalty: number({ max: 0 }, -1)`repetition: the reward approached by endless repetition.`,
  soft_punish_max_len: whole(1, null)`
    soft_overlong: length in tokens at which the reward is -1. null: max_completion_length.`,
  soft_punish_cache: whole(0, null)`
    soft_overlong: the last tokens before that length, over which the reward falls from 0 to -1. null: a fifth of it, like
    DAPO's 4,096 of 20,480.`,
} as const;
