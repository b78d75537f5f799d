/**
 * What recipes written for TRL contain and we take under another name or another spelling of its value. What it has beyond
 * our settings, and what verl and OpenRLHF call them, is in `trainers/`.
 */
import { entryOf } from "./entry.ts";
import { ownRewardName } from "./reward-names.ts";
import { trackers } from "./settings/output.ts";

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
  stop_strings: "stop",
  num_ppo_epochs: "num_iterations",
  cliprange: "epsilon",
  kl_coef: "beta",
};

/** Where None leaves a setting as if it had not been written; where it has a meaning of its own the setting allows null. */
const unsetByNone: ReadonlySet<string> = new Set([
  "chat_template_kwargs",
  "generation_kwargs",
  "eval_num_generations",
  "num_completions_to_print",
  "output_dir",
  "shuffle_dataset",
  "dataset_split",
  "eval_split",
  "report_to",
]);

/** Whether None was written for a setting that has no None. */
export const isUnset = (key: string, raw: unknown): boolean =>
  unsetByNone.has(key) && (raw === null || raw === "None" || raw === "null");

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
    case "report_to": {
      const names = Array.isArray(value) ? value : [value];
      return names.flatMap((name) => (name === "all" ? trackers : name === "none" ? [] : [name]));
    }
    case "dynamic_sampling_reward":
      return typeof value === "string" ? ownRewardName(value) : value;
    case "max_steps":
    case "eval_steps":
      return value === -1 ? null : value;
    case "save_steps":
      return value === -1 ? 0 : value;
    case "min_p":
      return value === null || value === "None" ? 0 : value;
    case "top_k":
      return value === -1 ? 0 : value;
    case "dtype": {
      if (value === "auto") return null;
      if (typeof value !== "string") return value;
      const name = value.replace(/^torch\./, "");
      return entryOf({ bf16: "bfloat16", fp32: "float32", float: "float32" }, name) ?? name;
    }
    case "optim":
      if (typeof value !== "string") return value;
      if (adamW.test(value)) return "adamw_torch";
      return value === "adamw_bnb_8bit" ? "adamw_8bit" : value;
    case "debug":
      // TrainingArguments' debug is a text or a list, by default an empty one.
      return value === "" || (Array.isArray(value) && value.length === 0) ? false : value;
    case "resume_from_checkpoint":
      return value === false ? null : value;
    default:
      return value;
  }
}

/** Other implementations of the same optimizer. */
const adamW =
  /^(default_optim|adamw(_torch|_hf|_apex|_torch_fused|_apex_fused|_anyprecision|_torch_npu_fused|_torch_xla)?)$/;

/** What to write for a value that is another trainer's, or that is written elsewhere here. */
export function valueCure(key: string, value: unknown): string | undefined {
  switch (key) {
    case "dtype":
      return /^(float16|fp16|half)$/.test(String(value)) ? "float16 is not supported in training" : undefined;
    case "optim":
      return /8bit/.test(String(value)) ? "use adamw_8bit" : "the optimizer is AdamW: leave it out";
    case "report_to":
      return "other trackers have no counterpart here: wandb and tensorboard write files that many can import";
    case "advantage_estimator":
      return entryOf(
        {
          group_norm: "that is grpo",
          dr_grpo: "that is grpo with scale_rewards none",
          reinforce: "that is reinforce_plus_plus",
          reinforce_baseline: "that is reinforce_plus_plus_baseline",
        },
        String(value),
      );
    case "loss_type":
      return entryOf({ "token-mean": "that is dapo", "seq-mean-token-mean": "that is grpo" }, String(value));
    default:
      return undefined;
  }
}
