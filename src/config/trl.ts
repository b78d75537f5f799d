/**
 * What recipes written for TRL contain and we take under another name or value, or do not need. Nothing is ignored in
 * silence: what has no counterpart is refused with the reason.
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
  vllm_importance_sampling_correction: "importance_sampling_correction",
  vllm_importance_sampling_mode: "importance_sampling_mode",
  vllm_importance_sampling_clip_max: "importance_sampling_clip_max",
  vllm_importance_sampling_clip_min: "importance_sampling_clip_min",
  vllm_importance_sampling_cap: "importance_sampling_clip_max",
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
  [/^optim$/, "the optimizer is AdamW: leave it out"],
  [/^save_strategy$/, "use save_steps (0: no checkpoints but at Ctrl-C)"],
  [/^(eval_strategy|evaluation_strategy)$/, "use eval_steps"],
  [/^logging_strategy$/, "use logging_steps"],
  [/^per_device_eval_batch_size$/, "use max_concurrent_sequences"],
  [/^(report_to|run_name|logging_dir)$/, "metrics go to metrics.jsonl in output_dir: leave it out"],
  [/^remove_unused_columns$/, "every column reaches the reward functions: leave it out"],
  [/^trust_remote_code$/, "no code of a model is ever run: leave it out"],
  [/^dataloader_.*$/, "rows are read from a mapped file: leave it out"],
];

/** Why a TRL setting does not exist here and what to do instead; undefined where the name is not one of those. */
export function cureFor(key: string): string | undefined {
  return cures.find(([pattern]) => pattern.test(key))?.[1];
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
    case "lr_scheduler_type":
      return value === "constant_with_warmup" ? "constant" : value;
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
