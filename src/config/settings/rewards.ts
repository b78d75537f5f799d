/** Parameters of the built-in reward functions (src/rewards/library), each named after the one it belongs to. */
import { z } from "zod";
import { about } from "./about.ts";

export const rewardFunctionSettings = {
  cosine_min_value_wrong: z.number().default(-1).meta(about("cosine: the reward of a wrong answer of no length.")),
  cosine_max_value_wrong: z
    .number()
    .default(-0.5)
    .meta(about("cosine: the reward of a wrong answer of cosine_max_len tokens.")),
  cosine_min_value_correct: z
    .number()
    .default(0.5)
    .meta(about("cosine: the reward of a right answer of cosine_max_len tokens.")),
  cosine_max_value_correct: z.number().default(1).meta(about("cosine: the reward of a right answer of no length.")),
  cosine_max_len: z
    .int()
    .min(1)
    .nullable()
    .default(null)
    .meta(about("cosine: tokens at which the schedule ends. null: max_completion_length.")),
  repetition_n_grams: z.int().min(1).default(3).meta(about("repetition: tokens in a run whose repetition is counted.")),
  repetition_max_penalty: z
    .number()
    .max(0)
    .default(-1)
    .meta(about("repetition: the reward that endless repetition comes near to.")),
  soft_punish_max_len: z
    .int()
    .min(1)
    .nullable()
    .default(null)
    .meta(about("soft_overlong: tokens at which the reward is -1. null: max_completion_length.")),
  soft_punish_cache: z
    .int()
    .min(0)
    .nullable()
    .default(null)
    .meta(
      about(
        "soft_overlong: the last tokens before that length over which the reward falls from 0 to -1. null: a fifth of it, DAPO's 4,096 of 20,480.",
      ),
    ),
} as const;
