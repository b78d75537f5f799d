/** Advantages, the policy loss and the critic's: every term has its formula in `src/grpo/`. */
import { z } from "zod";
import { about } from "./about.ts";

export const lossSettings = {
  loss_type: z
    .enum(["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"])
    .default("grpo")
    .meta(about("Loss per token and how tokens are averaged.")),
  beta: z
    .number()
    .min(0)
    .default(0.04)
    .meta(about("Weight of the KL term to the reference. 0: no reference model is loaded.")),
  kl_estimator: z
    .enum(["k1", "k2", "k3"])
    .default("k3")
    .meta(about("KL per token: k1 log-ratio, k2 its half square, k3 the unbiased positive one.")),
  use_bias_correction_kl: z.boolean().default(false).meta(about("Multiply the KL term by the policy ratio.")),
  epsilon: z.number().min(0).default(0.2).meta(about("The ratio is clipped below at 1 - epsilon.")),
  epsilon_high: z
    .number()
    .min(0)
    .nullable()
    .default(null)
    .meta(about("The ratio is clipped above at 1 + epsilon_high (cispo: the cap itself). null: epsilon.")),
  delta: z
    .number()
    .gt(1)
    .nullable()
    .default(null)
    .meta(about("Caps the unclipped ratio too (two-sided clipping); above 1 + epsilon. null: no cap.")),
  importance_sampling_level: z
    .enum(["token", "sequence", "sequence_product"])
    .default("token")
    .meta(
      about(
        "The ratio of each token, its geometric mean over the completion (GSPO), or its product over it (RLOO, where the whole completion is the action).",
      ),
    ),
  mask_truncated_completions: z
    .boolean()
    .default(false)
    .meta(about("Leave completions that were cut at the length limit out of the loss.")),
  top_entropy_quantile: z
    .number()
    .gt(0)
    .max(1)
    .default(1)
    .meta(about("Learn from this share of tokens only, those of highest entropy.")),
  entropy_coef: z.number().default(0).meta(about("Weight of the entropy bonus; where it starts if it is adaptive.")),
  use_adaptive_entropy: z
    .boolean()
    .default(false)
    .meta(
      about("Raise the entropy bonus while the mean entropy is under entropy_target, lower it and leave it out above."),
    ),
  entropy_coef_min: z.number().min(0).default(0).meta(about("use_adaptive_entropy: least weight.")),
  entropy_coef_max: z.number().min(0).default(1).meta(about("use_adaptive_entropy: largest weight.")),
  entropy_coef_delta: z
    .number()
    .min(0)
    .default(0.005)
    .meta(about("use_adaptive_entropy: change of the weight a step.")),
  entropy_target: z
    .number()
    .min(0)
    .default(0.2)
    .meta(about("use_adaptive_entropy: entropy to keep, in nats per token; somewhat under that of the first steps.")),
  off_policy_mask_threshold: z
    .number()
    .nullable()
    .default(null)
    .meta(
      about(
        "Drop a completion with a negative advantage that has drifted further than this from its sampler. null: keep.",
      ),
    ),
  sapo_temperature_pos: z.number().gt(0).default(1).meta(about("sapo: temperature where the advantage is positive.")),
  sapo_temperature_neg: z.number().gt(0).default(1.05).meta(about("sapo: temperature where it is not.")),
  vespo_k_pos: z.number().min(0).default(2).meta(about("vespo: power k where the advantage is positive.")),
  vespo_lambda_pos: z.number().min(0).default(3).meta(about("vespo: decay lambda where the advantage is positive.")),
  vespo_k_neg: z.number().min(0).default(3).meta(about("vespo: power k where it is not.")),
  vespo_lambda_neg: z.number().min(0).default(2).meta(about("vespo: decay lambda where it is not.")),
  importance_sampling_correction: z
    .boolean()
    .default(false)
    .meta(
      about("Weigh the loss by old policy ÷ sampling distribution. They differ with top_k, top_p, min_p or a penalty."),
    ),
  importance_sampling_mode: z
    .enum(["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
    .default("sequence_mask")
    .meta(about("That ratio per token or per completion; beyond its bounds clamped or set to 0.")),
  importance_sampling_clip_max: z
    .number()
    .gt(0)
    .nullable()
    .default(3)
    .meta(about("Upper bound of that ratio. null: none.")),
  importance_sampling_clip_min: z
    .number()
    .min(0)
    .nullable()
    .default(null)
    .meta(about("Lower bound of that ratio. null: none.")),
} as const;

/** From rewards to advantages: `src/grpo/estimators/`. */
export const advantageSettings = {
  advantage_estimator: z
    .enum(["grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "gae"])
    .default("grpo")
    .meta(
      about(
        "grpo: against the group's mean. rloo: against the group's others. reinforce_plus_plus (_baseline: less the group's mean): normalized over the batch's tokens. gae: PPO, against a critic's values.",
      ),
    ),
  scale_rewards: z
    .enum(["group", "batch", "none"])
    .default("group")
    .meta(about("By which standard deviation advantages are divided (true: group, false: none).")),
  multi_objective_aggregation: z
    .enum(["sum_then_normalize", "normalize_then_sum"])
    .default("sum_then_normalize")
    .meta(about("Several rewards: add them and normalize, or normalize each and add (GDPO).")),
  use_kl_in_reward: z
    .boolean()
    .default(false)
    .meta(
      about(
        "Take beta times the KL off the reward (grpo, rloo: once a completion; the others: at each token) in place of adding it to the loss.",
      ),
    ),
  kl_in_reward_estimator: z
    .enum(["k1", "k2", "k3"])
    .default("k1")
    .meta(about("use_kl_in_reward: KL per token, as kl_estimator.")),
  gamma: z
    .number()
    .min(0)
    .max(1)
    .default(1)
    .meta(about("Discount of rewards to come, per token. grpo and rloo have none.")),
} as const;

/** What only PPO has. */
export const ppoSettings = {
  lam: z.number().min(0).max(1).default(0.95).meta(about("gae: lambda; 1: plain returns less the value.")),
  whiten_advantages: z.boolean().default(true).meta(about("gae: normalize the advantages over the batch's tokens.")),
  cliprange_value: z
    .number()
    .gt(0)
    .default(0.2)
    .meta(about("gae: a value learns no further than this from what it was before the update.")),
  vf_coef: z.number().min(0).default(0.1).meta(about("gae: weight of the value loss.")),
} as const;
