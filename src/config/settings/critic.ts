/** PPO's critic: which model it starts from and how it learns. Gamma, lambda and clipping are in loss.ts. */
import { z } from "zod";
import { about } from "./about.ts";

export const criticSettings = {
  critic_model: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .meta(
      about(
        "advantage_estimator gae: where the critic starts from, with the policy's tokenizer: a sequence classification model with one label, or a language model, whose values start at 0. null: the model training starts from.",
        "FOLDER|ID",
      ),
    ),
  critic_learning_rate: z
    .number()
    .min(0)
    .nullable()
    .default(null)
    .meta(about("The critic's peak learning rate. null: learning_rate.")),
} as const;
