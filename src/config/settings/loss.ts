/** Advantages, the policy loss and the critic's: every term has its formula in `src/grpo/`. */
import { z } from "zod";
import { choice, described, number, toggle } from "./kinds.ts";

export const lossSettings = {
  loss_type: choice(["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"], "grpo")`
    Loss per token and how tokens are averaged.`,
  beta: number({ min: 0 }, 0.04)`Weight of the KL term to the reference. 0: no reference model is loaded.`,
  kl_estimator: choice(["k1", "k2", "k3"], "k3")`
    KL per token: k1 the log-ratio, k2 half its square, k3 the unbiased positive estimate.`,
  use_bias_correction_kl: toggle(false)`Multiply the KL term by the policy ratio.`,
  epsilon: number({ min: 0 }, 0.2)`The ratio is clipped below at 1 - epsilon.`,
  epsilon_high: number({ min: 0 }, null)`
    The ratio is clipped above at 1 + epsilon_high (cispo: the cap itself). null: epsilon.`,
  delta: number({ above: 1 }, null)`
    Caps the unclipped ratio too (two-sided clipping); must exceed 1 + epsilon. null: no cap.`,
  importance_sampling_level: choice(["token", "sequence", "sequence_product"], "token")`
    Each token's own ratio, the geometric mean over the completion (GSPO), or the product over it (RLOO, which treats the
    whole completion as one action).`,
  mask_truncated_completions: toggle(false)`Leave completions cut off at the length limit out of the loss.`,
  top_entropy_quantile: number({ above: 0, max: 1 }, 1)`
    Learn only from this share of the tokens, those with the highest entropy.`,
  entropy_coef: number({}, 0)`Weight of the entropy bonus; its initial value if it is adaptive.`,
  use_adaptive_entropy: toggle(false)`
    Raise the entropy bonus while the mean entropy is below entropy_target; above it, lower the bonus and leave it out.`,
  entropy_coef_min: number({ min: 0 }, 0)`use_adaptive_entropy: smallest weight.`,
  entropy_coef_max: number({ min: 0 }, 1)`use_adaptive_entropy: largest weight.`,
  entropy_coef_delta: number({ min: 0 }, 0.005)`use_adaptive_entropy: change of the weight per step.`,
  entropy_target: number({ min: 0 }, 0.2)`
    use_adaptive_entropy: entropy to keep, in nats per token; choose it somewhat below that of the first steps.`,
  off_policy_mask_threshold: number({}, null)`
    Drop a completion with a negative advantage that has drifted further than this from its sampler. null: keep all.`,
  sapo_temperature_pos: number({ above: 0 }, 1)`sapo: temperature where the advantage is positive.`,
  sapo_temperature_neg: number({ above: 0 }, 1.05)`sapo: temperature where it is not.`,
  vespo_k_pos: number({ min: 0 }, 2)`vespo: power k where the advantage is positive.`,
  vespo_lambda_pos: number({ min: 0 }, 3)`vespo: decay lambda where the advantage is positive.`,
  vespo_k_neg: number({ min: 0 }, 3)`vespo: power k where it is not.`,
  vespo_lambda_neg: number({ min: 0 }, 2)`vespo: decay lambda where it is not.`,
  importance_sampling_correction: toggle(false)`
    Weight the loss by old policy ÷ sampling distribution, which differ under top_k, top_p, min_p or a penalty.`,
  importance_sampling_mode: choice(
    ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"],
    "sequence_mask",
  )`That ratio per token or per completion; outside its bounds it is clamped (truncate) or set to 0 (mask).`,
  importance_sampling_clip_max: described(z.number().gt(0).nullable().default(3))`
    Upper bound of that ratio. null: none.`,
  importance_sampling_clip_min: number({ min: 0 }, null)`Lower bound of that ratio. null: none.`,
} as const;

/** From rewards to advantages: `src/grpo/estimators/`. */
export const advantageSettings = {
  advantage_estimator: choice(["grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "gae"], "grpo")`
    grpo: relative to the group's mean. rloo: relative to the rest of the group. reinforce_plus_plus (_baseline: minus the
    group's mean): normalized over the batch's tokens. gae: PPO, relative to a critic's values.`,
  scale_rewards: choice(["group", "batch", "none"], "group")`
    The standard deviation that advantages are divided by (true: group, false: none).`,
  multi_objective_aggregation: choice(["sum_then_normalize", "normalize_then_sum"], "sum_then_normalize")`
    With several rewards: add them and normalize, or normalize each and add (GDPO).`,
  use_kl_in_reward: toggle(false)`
    Subtract beta times the KL from the reward (grpo, rloo: once per completion; the others: at each token) instead of adding
    it to the loss.`,
  kl_in_reward_estimator: choice(["k1", "k2", "k3"], "k1")`use_kl_in_reward: KL per token, as in kl_estimator.`,
  gamma: number({ min: 0, max: 1 }, 1)`Discount of future rewards, per token. Not used by grpo and rloo.`,
} as const;

/** What only PPO has. */
export const ppoSettings = {
  lam: number({ min: 0, max: 1 }, 0.95)`gae: lambda; 1 gives plain returns minus the value.`,
  whiten_advantages: toggle(true)`gae: normalize the advantages over the batch's tokens.`,
  cliprange_value: number({ above: 0 }, 0.2)`
    gae: a value is trained no further than this from what it was before the update.`,
  vf_coef: number({ min: 0 }, 0.1)`gae: weight of the value loss.`,
} as const;

/** Mixtures of experts. */
export const routerSettings = {
  router_aux_loss_coef: number({ min: 0 }, null)`
    Of a model with experts: weight of the loss of an unbalanced load. null: the one of config.json; 0: none.`,
} as const;

export const replaySettings = {
  router_replay: toggle(true)`
    Of a model with experts: train each token with the experts that it went to when it was sampled. false: with those that
    the trained router chooses.`,
} as const;
