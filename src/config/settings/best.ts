/** Which checkpoint is the best, and when to stop waiting for a better one; names and rules are transformers'. */
import { number, text, toggle, whole } from "./kinds.ts";

export const bestModelSettings = {
  metric_for_best_model: text(null, "NAME")`
    The evaluation metric that decides which checkpoint is the best (eval_reward, eval_accuracy, eval_rewards/NAME/mean, …;
    the eval_ may be left out). An evaluation better than all before it saves a checkpoint, which is kept. null: eval_reward
    (sft: eval_accuracy) if one of the next settings needs it.`,
  greater_is_better: toggle(null)`Whether a higher value is better. null: yes, unless the metric's name ends in loss.`,
  load_best_model_at_end: toggle(false)`Save the best checkpoint's model at the end, not the last one.`,
  early_stopping_patience: whole(1, null)`Stop after this many evaluations in a row without a better one. null: never.`,
  early_stopping_threshold: number({ min: 0 }, 0)`
    early_stopping_patience: an evaluation counts as better only if it is better by more than this.`,
} as const;
