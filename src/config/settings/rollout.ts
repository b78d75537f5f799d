/** How completions are drawn and rewarded. */
import { z } from "zod";
import { builtInRewards } from "../reward-names.ts";
import { about } from "./about.ts";

export const groupSettings = {
  num_generations: z
    .int()
    .min(1)
    .default(16)
    .meta(about("Completions per prompt, the group G whose mean reward is the baseline. The method lives from 16 on.")),
} as const;

export const lengthSettings = {
  max_completion_length: z.int().min(1).default(512).meta(about("Longest completion, in tokens.")),
} as const;

export const temperatureSettings = {
  temperature: z
    .number()
    .gt(0)
    .max(100)
    .default(1)
    .meta(about("Divides the logits, in sampling and in every logprob of the update.")),
} as const;

/** Commands that only generate take temperature 0 as well. */
export const greedyTemperatureSettings = {
  temperature: z.number().min(0).max(100).default(0).meta(about("Divides the logits. 0: always the likeliest token.")),
} as const;

export const samplingSettings = {
  top_k: z.int().min(0).default(0).meta(about("Draw from the k likeliest tokens. 0: all.")),
  top_p: z.number().gt(0).max(1).default(1).meta(about("Draw from the fewest tokens whose probability reaches p.")),
  min_p: z
    .number()
    .min(0)
    .max(1)
    .default(0)
    .meta(about("Drop tokens below min_p times the likeliest one's probability.")),
  repetition_penalty: z
    .number()
    .gt(0)
    .default(1)
    .meta(about("Divides positive and multiplies negative logits of tokens that occurred already.")),
} as const;

export const stopSettings = {
  stop: z
    // Half of a character beyond U+FFFF would be found in any character with that half.
    .array(
      z
        .string()
        .min(1)
        .refine((text) => text.isWellFormed()),
    )
    .min(1)
    .nullable()
    .default(null)
    .meta({
      ...about(
        "A completion ends with the token that makes its text contain one of these (transformers' stop_strings). A flag is one string as it stands, or a JSON list. null: stop tokens alone.",
        "TEXT|JSON",
      ),
      allowed: "a text that is not empty, of whole characters, or a list of such",
      verbatim: true,
    }),
} as const;

/** As TRL's recipes write it; `../generation-kwargs.ts` makes settings of it. */
export const generationKwargsSettings = {
  generation_kwargs: z
    .record(z.string(), z.unknown())
    .default({})
    .meta(
      about(
        "As in TRL: temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens and stop_strings in one object, each taken as the setting of that meaning.",
      ),
    ),
} as const;

export const slotSettings = {
  max_concurrent_sequences: z
    .int()
    .min(1)
    .default(64)
    .meta(about("Sequences decoded at once; sets the KV cache's size. The results do not depend on it.")),
} as const;

export const rewardSettings = {
  reward_funcs: z
    .array(z.string().min(1))
    .min(1)
    .nullable()
    .default(null)
    .meta(
      about(
        `Any of ${builtInRewards.join(", ")}; paths of TypeScript modules; reward models, a folder or hub id. null: auto, which is gsm8k where the gold answer is a number, else math.`,
        "A,B,...",
      ),
    ),
  reward_weights: z
    .array(z.number())
    .min(1)
    .nullable()
    .default(null)
    .meta(about("One weight for each of reward_funcs. null: 1 each.")),
} as const;

/** The `eval` command scores by the same functions, but none is there by default. */
export const evalRewardSettings = {
  ...rewardSettings,
  reward_funcs: rewardSettings.reward_funcs.meta(
    about("Score the answers by these too, as train's reward_funcs. null: accuracy alone.", "A,B,..."),
  ),
} as const;

export const rewardTimeoutSettings = {
  reward_timeout: z
    .number()
    .gt(0)
    .max(86_400)
    .default(10)
    .meta(about("Seconds a reward function may take on one answer before it is stopped.")),
} as const;
