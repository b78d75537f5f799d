/**
 * TRL 1.16 (GRPOConfig, RLOOConfig, ModelConfig, ScriptArguments, its older PPOConfig) and open-r1's scripts: what they have
 * beyond our settings. What transformers' TrainingArguments have is in transformers.ts.
 */
import { mapped, noUpload, oneProcess, otherAdapters, ownEngine, recomputed, tracked } from "./reasons.ts";
import {
  dropped,
  droppedUnlessOff,
  isFalse,
  isNone,
  isOff,
  listOf,
  numberOf,
  type Outcome,
  only,
  onlyOff,
  type Rule,
  refuse,
  refused,
  renamed,
  type Setting,
  same,
  silently,
  type Trainer,
  taken,
  textOf,
  useInstead,
} from "./rule.ts";

/** TRL counts what one generation makes; we count its steps. */
const generationBatch: Rule = (value, other) => {
  if (isNone(value)) return silently;
  const given = numberOf(other("per_device_train_batch_size"));
  const step = (given ?? 8) * (numberOf(other("num_processes") ?? other("nproc_per_node")) ?? 1);
  const steps = (numberOf(value) ?? Number.NaN) / step;
  // A configuration that TRL has written out has both.
  if (numberOf(other("steps_per_generation")) === steps) return silently;
  // TRL's step size, unless it is given.
  const whole: Setting[] =
    given === undefined && other("preset") !== "trl" ? [["per_device_train_batch_size", step]] : [];
  return Number.isInteger(steps) && steps > 0
    ? useInstead(["steps_per_generation", steps], ...whole)
    : refuse("it is per_device_train_batch_size × steps_per_generation", ["steps_per_generation"]);
};

const modelOptions: Rule = (value) => {
  if (isOff(value)) return silently;
  const text = typeof value === "string" ? value : JSON.stringify(value);
  const dtype = /"(?:torch_)?dtype"\s*:\s*"(?:torch\.)?(\w+)"/.exec(text)?.[1];
  return refuse("of these only the number format is a setting", dtype ? ["dtype", dtype] : ["dtype"]);
};

/** A mixture of datasets; one alone has a name. */
const mixture: Rule = (value) => {
  if (isOff(value)) return silently;
  const parts = Array.isArray(value) ? value : [];
  const path = (parts[0] as { readonly path?: unknown } | undefined)?.path;
  const note = "one dataset is trained on: put the rows of several into one file";
  return parts.length === 1 && typeof path === "string" ? useInstead(["dataset", path]) : refuse(note, ["dataset"]);
};

/** Each process has a batch of its own there. */
const processes: Rule = (value, other) => {
  const count = numberOf(value) ?? 1;
  if (count <= 1) return silently;
  const each = numberOf(other("per_device_train_batch_size")) ?? 8;
  return refuse(`one process computes the batches of all ${count}`, ["per_device_train_batch_size", each * count]);
};

const rewardModel: Rule = (value) => (isNone(value) ? silently : useInstead(["reward_funcs", [textOf(value)]]));

const clipRange: Rule = (value): Outcome =>
  isOff(value) ? silently : refuse("rewards are not clipped: clip them in a reward function (a TypeScript module)");

const trlLines: Trainer["lines"] = [
  ["vllm_structured_outputs_regex", onlyOff("answers are sampled freely: leave it out")],
  ["vllm_guided_decoding_regex", onlyOff("answers are sampled freely: leave it out")],
  ["vllm_sampling_params", onlyOff("what it holds are settings", ["generation_kwargs"])],
  ["vllm_importance_sampling_cap", taken("importance_sampling_clip_max")],
  ["use_vllm", droppedUnlessOff(ownEngine)],
  ["vllm_*", droppedUnlessOff(ownEngine)],
  ["use_transformers_paged", droppedUnlessOff(ownEngine)],
  ["use_transformers_continuous_batching", droppedUnlessOff(ownEngine)],
  ["transformers_continuous_batching_config", droppedUnlessOff(ownEngine)],
  ["ds3_gather_for_generation", dropped("sampling and training are one engine")],
  ["cache_implementation", droppedUnlessOff("sampling and training are one engine")],
  ["model_init_kwargs", modelOptions],
  ["trust_remote_code", droppedUnlessOff("no code of a model is ever run")],
  ["disable_dropout", dropped("no model has dropout here")],
  ["cast_lm_head_to_fp32", dropped("logits are float32 already")],
  ["pad_to_multiple_of", dropped("sequences are always packed and never padded")],
  ["packing", droppedUnlessOff("sequences are always packed and never padded")],
  ["padding_free", droppedUnlessOff("sequences are always packed and never padded")],
  ["generation_batch_size", generationBatch],
  [
    "max_prompt_length",
    droppedUnlessOff("prompts are never cut; rows that do not fit the model's context are skipped"),
  ],
  ["max_tool_calling_iterations", onlyOff("answers call no tools: leave it out")],
  ["log_multimodal", dropped("there are no images")],
  ["log_unique_prompts", droppedUnlessOff("every rollout is recorded in output_dir/completions")],
  ["wandb_log_unique_prompts", dropped("every rollout is recorded in output_dir/completions")],
  ["log_completions_hub_repo", onlyOff(noUpload)],
  ["reward_model_name_or_path", rewardModel],
  ["normalize_advantages", onlyOff("advantages of rloo have their own scale: leave it out")],
  ["reward_clip_range", clipRange],
  ["rloo_k", renamed("num_generations")],
  ["token_level_kl", only(/^(false)$/i, "advantage_estimator decides where the KL goes", ["use_kl_in_reward"])],
  ["num_mini_batches", only(/^1$/, "steps of a generation are counted", ["steps_per_generation"])],
  ["response_length", renamed("max_completion_length")],
  ["total_episodes", onlyOff("optimizer steps are counted, not answers", ["max_steps"])],
  ["whiten_rewards", onlyOff("advantages are normalized, not rewards", ["whiten_advantages"])],
  ["missing_eos_penalty", onlyOff("answers cut at the limit", ["mask_truncated_completions", true])],
  ["use_liger_loss", droppedUnlessOff("the loss is always fused with the language-model head")],
  ["unbiased_kl_estimator", renamed("use_bias_correction_kl")],
  // SFTConfig
  ["max_seq_length", renamed("max_length", same, "sft has max_length; in train, answers end at max_completion_length")],
  [
    "dataset_text_field",
    only(/^(text|messages|prompt)$/, "prompt and answer are columns", ["prompt_column"], ["answer_column"]),
  ],
  ["dataset_num_proc", droppedUnlessOff(mapped)],
  ["dataset_kwargs", droppedUnlessOff(mapped)],
  ["packing_strategy", dropped("sequences are always packed and never padded")],
  ["eval_packing", droppedUnlessOff("sequences are always packed and never padded")],
  ["assistant_only_loss", onlyOff("a row has one answer", ["completion_only_loss", true])],
  ["activation_offloading", droppedUnlessOff(recomputed)],
  ["eos_token", onlyOff("the model folder defines how an answer ends: set it in its generation_config.json")],
  ["pad_token", droppedUnlessOff("sequences are always packed and never padded")],
  ["chat_template_path", renamed("chat_template")],
  // ModelConfig
  ["attn_implementation", dropped("attention is the trainer's own")],
  ["lora_modules_to_save", taken("modules_to_save", listOf)],
  ["lora_target_parameters", onlyOff(otherAdapters, ["lora_target_modules"])],
  ["lora_task_type", dropped("it follows from the model")],
  ["use_dora", onlyOff(otherAdapters)],
  ["load_in_8bit", onlyOff("weights are float32 or bfloat16: leave it out")],
  ["bnb_4bit_quant_type", only(/^nf4$/i, "4-bit weights are NF4: leave it out")],
  ["bnb_*", dropped("products with 4-bit weights are computed in dtype, from single bytes")],
  ["use_bnb_nested_quant", dropped("4-bit weights always have double quantization")],
  // ScriptArguments, DatasetMixtureConfig, the parser's own
  ["datasets", mixture],
  ["dataset_mixture", mixture],
  ["streaming", droppedUnlessOff(mapped)],
  ["dataset_streaming", droppedUnlessOff(mapped)],
  ["test_split_size", onlyOff("split the rows beforehand and name the held-out ones", ["eval_dataset"])],
  ["ignore_bias_buffers", droppedUnlessOff(oneProcess)],
  ["gradient_checkpointing_use_reentrant", dropped(recomputed)],
  // `accelerate launch` and TRL's command line
  ["num_processes", processes],
  ["nproc_per_node", processes],
  ["accelerate_config", droppedUnlessOff(oneProcess)],
  ["config_file", droppedUnlessOff(oneProcess)],
  ["num_machines", only(/^1$/, "one process computes: leave it out")],
  ["machine_rank", dropped(oneProcess)],
  ["main_process_*", dropped(oneProcess)],
  ["multi_gpu", droppedUnlessOff(oneProcess)],
  ["gpu_ids", dropped("device selects the GPU")],
  ["mixed_precision", dropped("dtype sets the number format, float32 or bfloat16; by default it is the checkpoint's")],
  ["env", dropped("environment variables are set in the shell")],
];

const noCode = "programs are not run to judge an answer, unless a reward function (a TypeScript module) does so";

/** open-r1's GRPOConfig and GRPOScriptArguments. */
const openR1Lines: Trainer["lines"] = [
  ["dataset_prompt_column", taken("prompt_column")],
  ["benchmarks", onlyOff("evaluate afterwards with grpo eval --benchmark: leave it out")],
  ["callbacks", onlyOff("there are no callbacks: leave it out")],
  ["hub_model_revision", taken("hub_revision", (value) => (value === "main" ? null : value))],
  ["overwrite_hub_revision", droppedUnlessOff("a push adds a commit to its branch")],
  ["push_to_hub_revision", (value) => (isOff(value) ? silently : useInstead(["push_to_hub", true]))],
  ["wandb_*", dropped(tracked)],
  ["code_*", dropped(noCode)],
  ["parallel_code_exec_per_proc", dropped(noCode)],
  ["e2b_router_url", droppedUnlessOff(noCode)],
  ["morph_router_url", droppedUnlessOff(noCode)],
  ["ioi_provider", dropped(noCode)],
  ["max_completion_len", refused("the soft punishment ends at max_completion_length", ["max_completion_length"])],
];

/** What Unsloth's notebooks add to GRPOConfig and give to its models. */
const unslothLines: Trainer["lines"] = [
  ["unsloth_*", dropped(ownEngine)],
  ["fast_inference", droppedUnlessOff(ownEngine)],
  ["gpu_memory_utilization", dropped(ownEngine)],
  ["use_gradient_checkpointing", taken("gradient_checkpointing", (value) => !isFalse(value))],
  ["full_finetuning", dropped("all weights are trained")],
  ["max_lora_rank", dropped("adapters are sampled with as they are trained")],
  ["random_state", renamed("seed")],
];

export const trl: Trainer = { name: "TRL", lines: [...trlLines, ...openR1Lines, ...unslothLines] };
