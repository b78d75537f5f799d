/** Which checkpoint is the best, and when there is nothing more to wait for; names and rules are transformers'. */
import { z } from "zod";
import { about } from "./about.ts";

export const bestModelSettings = {
  metric_for_best_model: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .meta(
      about(
        "Evaluation's number that says which checkpoint is the best (eval_reward, eval_accuracy, eval_rewards/NAME/mean, …; eval_ may be left out): one is saved at each evaluation that is better than all before, and kept. null: eval_reward (sft: eval_accuracy), where the next settings need one.",
        "NAME",
      ),
    ),
  greater_is_better: z
    .boolean()
    .nullable()
    .default(null)
    .meta(about("Whether more of it is better. null: unless its name ends in loss.")),
  load_best_model_at_end: z
    .boolean()
    .default(false)
    .meta(about("The model that is saved at the end is the best checkpoint's.")),
  early_stopping_patience: z
    .int()
    .min(1)
    .nullable()
    .default(null)
    .meta(about("End the run after so many evaluations in a row without a better one. null: never.")),
  early_stopping_threshold: z
    .number()
    .min(0)
    .default(0)
    .meta(about("early_stopping_patience: an evaluation is better by more than this, or not.")),
} as const;
