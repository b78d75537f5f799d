/** How completions are drawn and rewarded. */
import { z } from "zod";
import { builtInRewards } from "../reward-names.ts";
import { described, list, number, object, whole } from "./kinds.ts";

export const groupSettings = {
  num_generations: whole(1, 16)`
    Completions per prompt: the group G, whose mean reward is the baseline. Works best with 16 or more.`,
} as const;

/** For the commands that only generate. */
export const answerSettings = {
  num_generations: whole(1, 1)`Completions per prompt.`,
} as const;

/** Groups come from the file of rollouts, and all its lines are one batch. */
export const recordedGroupSettings = {
  num_generations: whole(1, null)`Completions per group that the file must have. null: as many as it has.`,
  per_device_train_batch_size: whole(1, null)`Completions per block of loss_type bnpo. null: all of the file.`,
} as const;

export const lengthSettings = {
  max_completion_length: whole(1, 512)`Longest completion, in tokens.`,
} as const;

export const temperatureSettings = {
  temperature: number({ above: 0, max: 100 }, 1)`Divides the logits, in sampling and in every logprob of the update.`,
} as const;

/** Commands that only generate take temperature 0 as well. */
export const greedyTemperatureSettings = {
  temperature: number({ min: 0, max: 100 }, 0)`Divides the logits. 0: always the most likely token.`,
} as const;

export const samplingSettings = {
  top_k: whole(0, 0)`Draw from the k most likely tokens. 0: all.`,
  top_p: number({ above: 0, max: 1 }, 1)`Draw from the fewest tokens whose probabilities add up to p.`,
  min_p: number({ min: 0, max: 1 }, 0)`Drop tokens less likely than min_p times the most likely one.`,
  // Within these bounds the logits of any sound model stay finite: float32 reaches 3e38.
  repetition_penalty: number({ min: 0.01, max: 100 }, 1)`
    Divides positive and multiplies negative logits of tokens that have already occurred.`,
} as const;

export const stopSettings = {
  stop: described(
    // Half of a character beyond U+FFFF would be found in any character with that half.
    z
      .array(
        z
          .string()
          .min(1)
          .refine((text) => text.isWellFormed()),
      )
      .min(1)
      .nullable()
      .default(null),
    {
      placeholder: "TEXT|JSON",
      allowed: "non-empty text of whole characters, or a list of such texts",
      verbatim: true,
    },
  )`
    A completion ends with the token that makes its text contain one of these (transformers' stop_strings). A flag is one
    string, taken literally, or a JSON list. null: only stop tokens end it.`,
} as const;

/** For a model that is kept open: a chat, the API's `loadModel`. */
export const modelLengthSettings = {
  max_model_length: whole(2, null)`
    In a chat: prompt and answer together, in tokens; memory is planned for it. null: the model's context, but at most 4096.`,
} as const;

/** As TRL's recipes write it; `../generation-kwargs.ts` makes settings of it. */
export const generationKwargsSettings = {
  generation_kwargs: object({})`
    As in TRL: temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens and stop_strings in one object, each taken
    as the setting with that meaning.`,
} as const;

export const slotSettings = {
  max_concurrent_sequences: whole(1, 64)`
    Sequences decoded at once; sets the size of the KV cache. Results do not depend on it.`,
} as const;

export const rewardSettings = {
  reward_funcs: list(z.string().min(1))`
    Any of ${builtInRewards.join(", ")}; paths of TypeScript modules; reward models, a folder or hub id. null: auto, which is
    gsm8k if the gold answer is a number, otherwise math.`,
  reward_weights: list(z.number())`One weight for each of reward_funcs. null: 1 each.`,
} as const;

/** The `eval` command scores by the same functions, but by none unless asked. */
export const evalRewardSettings = {
  ...rewardSettings,
  reward_funcs: list(z.string().min(1))`
    Score the answers with these too, as train's reward_funcs. null: accuracy only.`,
} as const;

export const rewardTimeoutSettings = {
  reward_timeout: number({ above: 0, max: 86_400 }, 10)`
    Seconds a reward function may spend on one answer before it is stopped.`,
} as const;
