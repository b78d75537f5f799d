/**
 * What recipes written for TRL contain and we take under another name or value, or do not need, and what verl and OpenRLHF
 * call our settings. Nothing is ignored in silence: what has no counterpart is refused with the reason.
 */
import { ownRewardName } from "./reward-names.ts";

/** Other names of settings. */
export const aliases: Readonly<Record<string, string>> = {
  model_name_or_path: "model",
  dataset_name: "dataset",
  dataset_train_split: "dataset_split",
  dataset_test_split: "eval_split",
  num_generations_eval: "eval_num_generations",
  torch_dtype: "dtype",
  overwrite_output_dir: "overwrite",
  chat_template_path: "chat_template",
  vllm_importance_sampling_correction: "importance_sampling_correction",
  vllm_importance_sampling_mode: "importance_sampling_mode",
  vllm_importance_sampling_clip_max: "importance_sampling_clip_max",
  vllm_importance_sampling_clip_min: "importance_sampling_clip_min",
  vllm_importance_sampling_cap: "importance_sampling_clip_max",
  stop_strings: "stop",
  num_ppo_epochs: "num_iterations",
  cliprange: "epsilon",
  kl_coef: "beta",
};

const cures: readonly (readonly [pattern: RegExp, cure: string])[] = [
  [
    /^(use_vllm|vllm_.*|use_transformers_(paged|continuous_batching))$/,
    "rollouts run in the trainer's own engine: leave it out",
  ],
  [/^(bf16|fp16)$/, "use dtype (float32 or bfloat16)"],
  [/^model_init_kwargs$/, "use dtype"],
  [/^gradient_checkpointing(_kwargs)?$/, "activations are always recomputed layer by layer: leave it out"],
  [/^use_liger_kernel$/, "the loss is always fused with the language-model head: leave it out"],
  [/^generation_batch_size$/, "use steps_per_generation"],
  [/^max_prompt_length$/, "rows that do not fit the model's context are skipped and counted: leave it out"],
  [/^(packing|padding_free|pad_to_multiple_of)$/, "sequences are always packed and never padded: leave it out"],
  [/^reward_model_name_or_path$/, "name the reward model in reward_funcs"],
  [/^optim$/, "the optimizer is AdamW: leave it out"],
  [/^save_strategy$/, "use save_steps (0: no checkpoints but at Ctrl-C)"],
  [/^(eval_strategy|evaluation_strategy)$/, "use eval_steps"],
  [/^logging_strategy$/, "use logging_steps"],
  [/^per_device_eval_batch_size$/, "use max_concurrent_sequences"],
  [/^(report_to|run_name|logging_dir)$/, "metrics go to metrics.jsonl in output_dir: leave it out"],
  [/^remove_unused_columns$/, "every column reaches the reward functions: leave it out"],
  [/^trust_remote_code$/, "no code of a model is ever run: leave it out"],
  [/^disable_dropout$/, "no model has dropout here: leave it out"],
  [/^cast_lm_head_to_fp32$/, "logits are float32 already: leave it out"],
  [/^(ds3_gather_for_generation|cache_implementation)$/, "sampling and training are one engine: leave it out"],
  [/^(num_mini_batches|response_length)$/, "use per_device_train_batch_size and max_completion_length"],
  [/^whiten_rewards$/, "advantages are normalized, not rewards: use whiten_advantages"],
  [/^dataloader_.*$/, "rows are read from a mapped file: leave it out"],
];

/** Names of verl and OpenRLHF, behind their last dot: what the same thing is called here. docs/recipes.md has the table. */
const otherTrainers: readonly (readonly [pattern: RegExp, cure: string])[] = [
  [/^adv_estimator$/, "use advantage_estimator"],
  [/^(custom|tokenizer)_chat_template$/, "use chat_template"],
  [/^estimator$/, "use advantage_estimator, or for the KL kl_in_reward_estimator"],
  [/^loss_agg_mode$/, "use loss_type (token-mean: dapo, seq-mean-token-mean: grpo, seq-mean-token-sum-norm: dr_grpo)"],
  [/^(loss_mode|policy_loss_type)$/, "use loss_type, and importance_sampling_level sequence for gspo"],
  [/^(clip_ratio|clip_ratio_low|eps_clip)$/, "use epsilon"],
  [/^clip_ratio_high$/, "use epsilon_high"],
  [/^eps_clip_low_high$/, "use epsilon and epsilon_high"],
  [/^(clip_ratio_c|dual_clip)$/, "use delta, the cap on the unclipped ratio"],
  [/^norm_adv_by_std_in_grpo$/, "use scale_rewards (true: group, false: none)"],
  [/^(use_kl_loss|use_loss)$/, "use beta (0: no KL), and use_kl_in_reward where it is not in the loss"],
  [/^(kl_loss_coef|init_coef|init_kl_coef)$/, "use beta"],
  [/^kl_loss_type$/, "use kl_estimator (low_var_kl: k3)"],
  [/^entropy_coeff$/, "use entropy_coef"],
  [/^(ppo_epochs|max_epochs)$/, "use num_iterations"],
  [/^ppo_mini_batch_size$/, "use per_device_train_batch_size, in completions"],
  [/^(train_batch_size|rollout_batch_size|batch_size)$/, "use per_device_train_batch_size, in completions a step"],
  [/^(ppo_max_token_len_per_gpu|ppo_micro_batch_size(_per_gpu)?|micro_batch_size)$/, "use micro_batch_tokens"],
  [
    /^(use_dynamic_bsz|use_remove_padding|packing_samples)$/,
    "sequences are always packed and never padded: leave it out",
  ],
  [/^(n|n_samples_per_prompt)$/, "use num_generations"],
  [/^(max_response_length|max_new_tokens)$/, "use max_completion_length"],
  [/^(filter_groups|dynamic_filtering)(_enable)?$/, "use dynamic_sampling"],
  [/^metric$/, "use dynamic_sampling_reward"],
  [/^max_num_gen_batches$/, "use dynamic_sampling_max_batches"],
  [/^overlong_buffer(_len)?$/, "use the reward soft_overlong with soft_punish_cache"],
  [/^(lambd|gae_lambda)$/, "use lam"],
  [/^value_clip$/, "use cliprange_value"],
  [/^(rollout_is|is_correction_enable|is_correction_type)$/, "use importance_sampling_correction and _mode"],
  [/^(rollout_is_threshold|is_correction_threshold)$/, "use importance_sampling_clip_max and _min"],
  [/^lr$/, "use learning_rate, or critic_learning_rate"],
  [/^(clip_grad|max_norm)$/, "use max_grad_norm"],
  [/^total_epochs$/, "use num_train_epochs"],
  [/^save_freq$/, "use save_steps"],
  [/^test_freq$/, "use eval_steps"],
  [/^resume_mode$/, "use resume_from_checkpoint"],
];

/** Why another trainer's setting does not exist here and what to do instead; undefined where the name is not one of those. */
export function cureFor(key: string): string | undefined {
  const last = key.slice(key.lastIndexOf(".") + 1);
  const find = (table: typeof cures, name: string) => table.find(([pattern]) => pattern.test(name))?.[1];
  return find(cures, key) ?? find(otherTrainers, last);
}

/** Values that mean the same under another spelling. */
export function ownValue(key: string, value: unknown): unknown {
  switch (key) {
    case "scale_rewards":
      if (value === true || value === "true" || value === "True") return "group";
      if (value === false || value === "false" || value === "False") return "none";
      return value;
    case "reward_funcs":
      return Array.isArray(value)
        ? value.map((name) => (typeof name === "string" ? ownRewardName(name) : name))
        : value;
    case "dynamic_sampling_reward":
      return typeof value === "string" ? ownRewardName(value) : value;
    case "max_steps":
      return value === -1 ? null : value;
    case "min_p":
      return value === null || value === "None" ? 0 : value;
    case "top_k":
      return value === -1 ? 0 : value;
    case "dtype":
      return value === "auto" ? null : value;
    case "resume_from_checkpoint":
      return value === false ? null : value;
    default:
      return value;
  }
}
