/**
 * OpenRLHF 0.11 by the full path of a setting (`--rollout.n_samples_per_prompt 8`), and the flat names of its earlier command
 * line: what it is here. There, a generation counts prompts and a step completions, and what is done every N steps here is
 * done every N generations; the default loss is the token mean.
 */
import { entryOf } from "../entry.ts";
import { oneProcess, otherAdapters, ownEngine, packed, recomputed, tracked } from "./reasons.ts";
import {
  checkpointing,
  countedInSteps,
  drop,
  dropped,
  droppedUnlessOff,
  isNone,
  isOff,
  isTrue,
  type Line,
  type Lookup,
  listOf,
  loraRules,
  numberOf,
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
  useInstead,
} from "./rule.ts";

const noImages = "there are no images";

const lora = loraRules((part) => `ds.lora.${part}`, 16);

const estimators: Readonly<Record<string, readonly (readonly [string, unknown])[]>> = {
  group_norm: [["advantage_estimator", "grpo"]],
  // Its dr_grpo takes the deviation away and keeps the token mean.
  dr_grpo: [
    ["advantage_estimator", "grpo"],
    ["scale_rewards", "none"],
  ],
  rloo: [["advantage_estimator", "rloo"]],
  reinforce: [["advantage_estimator", "reinforce_plus_plus"]],
  reinforce_baseline: [["advantage_estimator", "reinforce_plus_plus_baseline"]],
  gae: [["advantage_estimator", "gae"]],
};

const estimator: Rule = (value) => {
  const ours = entryOf(estimators, String(value));
  return ours
    ? useInstead(...ours)
    : refuse("group_norm is grpo, reinforce reinforce_plus_plus, reinforce_baseline reinforce_plus_plus_baseline", [
        "advantage_estimator",
      ]);
};

const answers = (other: Lookup): number =>
  numberOf(other("rollout.n_samples_per_prompt") ?? other("n_samples_per_prompt") ?? other("num_generations")) ?? 1;

const promptsAGeneration = (other: Lookup): number | undefined =>
  numberOf(other("rollout.batch_size") ?? other("rollout_batch_size"));

/** Completions per step. */
const stepSize = (other: Lookup): number =>
  numberOf(other("train.batch_size") ?? other("train_batch_size") ?? other("per_device_train_batch_size")) ?? 128;

const stepsAPass = (other: Lookup): number =>
  numberOf(other("steps_per_generation")) ?? ((promptsAGeneration(other) ?? 1024) * answers(other)) / stepSize(other);

/** Optimizer steps per generation, over all passes. */
const stepsPerGeneration = (other: Lookup): number =>
  stepsAPass(other) * (numberOf(other("train.max_epochs") ?? other("max_epochs") ?? other("num_iterations")) ?? 1);

const inSteps = countedInSteps(stepsPerGeneration);

/** With the steps of a generation of 1,024 prompts where the generation is not given, which follow from this number. */
const withGeneration =
  (key: string): Rule =>
  (value, other) => {
    const implied = promptsAGeneration(other) === undefined && other("steps_per_generation") === undefined;
    const steps = stepsAPass(other);
    if (!implied || steps === 8 || !Number.isInteger(steps)) return renamed(key)(value, other);
    const counted = `a generation is 1024 prompts × ${answers(other)} answers, in steps of ${stepSize(other)}`;
    return refuse(counted, [key, same(value)], ["steps_per_generation", steps]);
  };

/** Its flat names that are ours as well count generations there. */
function countedOtherwise(other: Lookup): string {
  if (other("rollout_batch_size") === undefined || stepsPerGeneration(other) === 1) return "";
  const names = ["save_steps", "eval_steps", "logging_steps"].filter((name) => (numberOf(other(name)) ?? 0) > 0);
  return names.length === 0 ? "" : `; ${names.join(" and ")}: generations there, steps here`;
}

/** Prompts per generation, in steps of train.batch_size completions. */
const generation: Rule = (value, other) => {
  const prompts = numberOf(value);
  if (prompts === undefined) return refuse("it counts the prompts of a generation", ["steps_per_generation"]);
  const completions = prompts * answers(other);
  const step = stepSize(other);
  const counted = `a generation is ${prompts} prompts × ${answers(other)} answers = ${completions} completions${countedOtherwise(other)}`;
  return completions % step === 0
    ? refuse(`${counted}, in steps of ${step}`, ["steps_per_generation", completions / step])
    : refuse(`${counted}, and is whole steps of ${step}`, ["steps_per_generation"]);
};

const klInLoss = (other: Lookup): boolean => isTrue(other("kl.use_loss") ?? other("use_kl_loss"));

const inReward: Rule = (value, other) =>
  isOff(value) ? useInstead(["beta", 0]) : useInstead(["beta", same(value)], ["use_kl_in_reward", !klInLoss(other)]);

const klEstimator: Rule = (value, other) =>
  useInstead([klInLoss(other) ? "kl_estimator" : "kl_in_reward_estimator", value]);

const useLoss: Rule = (value, other) => {
  if (isOff(value)) return silently;
  const weight = other("kl.init_coef") ?? other("init_kl_coef") ?? other("beta");
  const kind = other("kl.estimator") ?? other("kl_estimator") ?? other("use_kl_estimator_k3");
  const use: Setting[] = kind === undefined ? [["kl_estimator", "k1"]] : [];
  if (weight === undefined) use.push(["beta", 0.01], ["use_kl_in_reward", false]);
  return use.length === 0 ? silently : useInstead(...use);
};

const pair =
  (first: string, second: string): Rule =>
  (value) => {
    const [low, high] = listOf(value).map(numberOf);
    return isNone(value) && value !== undefined ? silently : useInstead([first, low], [second, high]);
  };

const correctionModes: Readonly<Record<string, string>> = {
  tis: "token_truncate",
  icepop: "token_mask",
};

/** With its own defaults unless given: token ratios limited to 0.5 and 5. */
const correction: Rule = (value, other) => {
  if (isOff(value)) return silently;
  const use: Setting[] = [["importance_sampling_correction", true]];
  if ((other("is_correction_type") ?? other("use_icepop")) === undefined)
    use.push(["importance_sampling_mode", "token_truncate"]);
  if ((other("is_correction_threshold") ?? other("vllm_is_truncated_threshold")) === undefined)
    use.push(["importance_sampling_clip_min", 0.5], ["importance_sampling_clip_max", 5]);
  return useInstead(...use);
};

const correctionMode: Rule = (value) => {
  const ours = entryOf(correctionModes, String(value));
  return ours
    ? useInstead(["importance_sampling_mode", ours])
    : refuse("tis is token_truncate, icepop token_mask; there is no mask by a sequence's mean ratio", [
        "importance_sampling_mode",
      ]);
};

const lengthBound: Rule = (value, other) => {
  const answer = other("rollout.max_new_tokens") ?? other("generate_max_len") ?? other("max_completion_length");
  return numberOf(answer) !== undefined
    ? drop("rows that do not fit the model's context are skipped")
    : refuse("there it is prompt and answer together, here the answer alone", ["max_completion_length", same(value)]);
};

/** 100 million by default. */
const rowLimit: Rule = (value) =>
  isNone(value) || (numberOf(value) ?? 0) >= 1e8
    ? silently
    : refuse("the first rows of a file are all of it: cut the file, or end the run", ["max_steps"]);

const truncated: Rule = (value) =>
  isNone(value)
    ? silently
    : refuse("it changes the reward of answers cut at the limit; this leaves them out of the loss", [
        "mask_truncated_completions",
      ]);

/** It is about what is normalized over the batch; group_norm divides in any case. */
const noDeviation: Rule = (value, other) => {
  if (isOff(value)) return silently;
  const kind = String(other("advantage.estimator") ?? other("advantage_estimator") ?? "gae");
  return /^(group_norm|grpo|dr_grpo|rloo)$/.test(kind)
    ? drop(`the estimator ${kind} is not normalized over the batch`)
    : refuse("what is normalized over the batch is divided by its deviation: leave it out");
};

const lossKind: Rule = (value) =>
  String(value) === "ppo" ? silently : useInstead(["loss_type", "grpo"], ["importance_sampling_level", "sequence"]);

const overlong: Rule = (value) =>
  isOff(value) ? silently : useInstead(["reward_funcs", ["auto", "soft_overlong"]], ["soft_punish_cache", same(value)]);

const overlongWeight: Rule = (value) =>
  numberOf(value) === 1 ? silently : useInstead(["reward_weights", [1, numberOf(value)]]);

const rewardModel: Rule = (value) =>
  isNone(value) && value !== undefined ? silently : useInstead(["reward_funcs", listOf(value)]);

const remoteReward = onlyOff("a reward function (a TypeScript module) may ask a server", ["reward_funcs"]);

const schedule: Rule = (value, other) => {
  const floor = numberOf(other("actor.min_lr_ratio")) ?? 0.1;
  return String(value) === "cosine_with_min_lr"
    ? useInstead(["lr_scheduler_type", value], ["lr_scheduler_kwargs", { min_lr_rate: floor }])
    : useInstead(["lr_scheduler_type", value]);
};

const criticOwn = dropped("the critic's optimizer is the policy's, except for critic_learning_rate");
const dtype: Rule = (value) =>
  String(value) === "fp16"
    ? refuse("float16 is not supported in training", ["dtype", "bfloat16"])
    : useInstead(["dtype", "bfloat16"]);
const dotted: readonly Line[] = [
  ["actor.model_name_or_path", renamed("model")],
  ["actor.eps_clip", renamed("epsilon")],
  ["actor.eps_clip_low_high", pair("epsilon", "epsilon_high")],
  ["actor.dual_clip", renamed("delta")],
  ["actor.policy_loss_type", lossKind],
  ["actor.entropy_coef", (value) => (isOff(value) ? silently : useInstead(["entropy_coef", same(value)]))],
  ["actor.aux_loss_coef", onlyOff("there are no mixtures of experts: leave it out")],
  ["actor.optim", only(/^adam$/, "the optimizer is AdamW: leave it out")],
  ["actor.muon.*", dropped("the optimizer is AdamW")],
  ["actor.adam.lr", renamed("learning_rate")],
  ["actor.adam.betas", pair("adam_beta1", "adam_beta2")],
  ["actor.adam.eps", renamed("adam_epsilon")],
  ["actor.adam.weight_decay", renamed("weight_decay")],
  ["actor.lr_scheduler", schedule],
  ["actor.lr_warmup_ratio", renamed("warmup_ratio")],
  ["actor.min_lr_ratio", dropped("lr_scheduler_type determines the final rate")],
  ["actor.max_norm", renamed("max_grad_norm")],
  ["actor.gradient_checkpointing_enable", checkpointing],
  ["actor.gradient_checkpointing_*", dropped(recomputed)],
  ["actor.freeze_visual_encoder", droppedUnlessOff(noImages)],
  ["actor.num_nodes", dropped(oneProcess)],
  ["actor.num_gpus_per_node", dropped(oneProcess)],
  ["critic.model_name_or_path", renamed("critic_model")],
  ["critic.value_clip", renamed("cliprange_value")],
  ["critic.adam.lr", renamed("critic_learning_rate")],
  ["critic.optim", only(/^adam$/, "the optimizer is AdamW: leave it out")],
  ["critic.lr_scheduler", dropped("the critic's schedule is the policy's")],
  ["critic.lr_warmup_ratio", criticOwn],
  ["critic.min_lr_ratio", criticOwn],
  ["critic.max_norm", criticOwn],
  ["critic.freezing_steps", only(/^-1$/, "policy and critic learn from the first step: leave it out")],
  ["critic.save_value_network", dropped("a checkpoint has the critic")],
  ["critic.num_nodes", dropped(oneProcess)],
  ["critic.num_gpus_per_node", dropped(oneProcess)],
  ["algo.advantage.estimator", estimator],
  ["algo.advantage.gamma", (value) => (numberOf(value) === 1 ? silently : useInstead(["gamma", same(value)]))],
  ["algo.advantage.lambd", renamed("lam")],
  ["algo.advantage.no_std_norm", noDeviation],
  ["algo.advantage.is_correction_enable", correction],
  ["algo.advantage.is_correction_type", correctionMode],
  ["algo.advantage.is_correction_threshold", pair("importance_sampling_clip_min", "importance_sampling_clip_max")],
  ["algo.dynamic_filtering_enable", onlyOff("", ["dynamic_sampling", true])],
  ["algo.dynamic_filtering_range", dropped("dynamic_sampling keeps every group whose rewards differ")],
  ["algo.kl.estimator", klEstimator],
  ["algo.kl.init_coef", inReward],
  ["algo.kl.use_loss", useLoss],
  ["algo.kl.target", onlyOff("the weight of the KL is constant", ["beta"])],
  ["algo.kl.horizon", dropped("the weight of the KL is constant")],
  ["rollout.batch_size", generation],
  ["rollout.n_samples_per_prompt", withGeneration("num_generations")],
  ["rollout.max_new_tokens", renamed("max_completion_length")],
  ["rollout.temperature", renamed("temperature")],
  ["rollout.top_p", renamed("top_p")],
  ["rollout.micro_batch_size", dropped(packed)],
  ["rollout.max_tokens_per_gpu", droppedUnlessOff(packed)],
  ["rollout.vllm_generate_batch_size", droppedUnlessOff(ownEngine)],
  ["train.batch_size", withGeneration("per_device_train_batch_size")],
  ["train.max_epochs", renamed("num_iterations")],
  ["train.num_episodes", renamed("num_train_epochs")],
  ["train.seed", renamed("seed")],
  ["train.micro_batch_size", dropped(packed)],
  ["train.max_tokens_per_gpu", renamed("micro_batch_tokens")],
  ["train.dynamic_batch_enable", dropped(packed)],
  ["train.full_determinism_enable", dropped("the same run always gives the same bits")],
  ["train.enable_ema", onlyOff("no average of the weights is kept: leave it out")],
  ["train.ema_beta", dropped("no average of the weights is kept")],
  ["train.async_enable", onlyOff("sampling and training take turns: leave it out")],
  ["train.async_queue_size", dropped("sampling and training take turns")],
  ["train.partial_rollout_enable", onlyOff("sampling and training take turns: leave it out")],
  [
    "train.agent_func_path",
    onlyOff("an answer is one turn, without tools; a reward is a TypeScript module", ["reward_funcs"]),
  ],
  ["train.colocate_*", dropped(oneProcess)],
  ["data.prompt_dataset", renamed("dataset")],
  ["data.prompt_split", renamed("dataset_split")],
  ["data.prompt_probs", onlyOff("one dataset is trained on: put the rows of several into one file", ["dataset"])],
  ["data.input_key", renamed("prompt_column")],
  ["data.label_key", renamed("answer_column")],
  ["data.input_template", onlyOff("the model's chat template makes the prompt", ["system_prompt"])],
  ["data.apply_chat_template", dropped("the chat template is used if the model has one")],
  ["data.tokenizer_chat_template", renamed("chat_template", (value) => value)],
  ["tokenizer_chat_template", renamed("chat_template", (value) => value)],
  ["data.max_len", lengthBound],
  ["data.max_samples", rowLimit],
  ["data.image_key", dropped(noImages)],
  ["data.max_images_per_prompt", onlyOff("there are no images: leave it out")],
  ["data.disable_fast_tokenizer", droppedUnlessOff("the tokenizer is the trainer's own")],
  ["eval.dataset", renamed("eval_dataset")],
  ["eval.split", renamed("eval_split")],
  ["eval.steps", inSteps("eval_steps")],
  ["eval.temperature", renamed("eval_temperature")],
  ["eval.n_samples_per_prompt", renamed("eval_num_generations")],
  ["reward.model_name_or_path", rewardModel],
  ["reward.remote_url", remoteReward],
  ["reward.clip_range", refused("rewards are not clipped: clip them in a reward function, or leave it out")],
  ["reward.normalize_enable", onlyOff("advantages are normalized, not rewards: leave it out")],
  ["reward.overlong_buffer_len", overlong],
  ["reward.overlong_penalty_factor", overlongWeight],
  ["reward.stop_properly_penalty_coef", truncated],
  ["reward.num_nodes", dropped(oneProcess)],
  ["reward.num_gpus_per_node", dropped(oneProcess)],
  ["reward.offload", droppedUnlessOff("all memory is planned before the first step")],
  ["ref.num_nodes", dropped(oneProcess)],
  ["ref.num_gpus_per_node", dropped(oneProcess)],
  ["ref.offload", droppedUnlessOff("all memory is planned before the first step")],
  ["ckpt.output_dir", renamed("output_dir")],
  ["ckpt.path", dropped("checkpoints go to output_dir")],
  ["ckpt.save_steps", inSteps("save_steps", 0)],
  ["ckpt.max_num", renamed("save_total_limit")],
  ["ckpt.max_mem", dropped("save_total_limit limits the number of checkpoints")],
  ["ckpt.load_enable", onlyOff("", ["resume_from_checkpoint", true])],
  ["ckpt.save_hf", dropped("checkpoints are Hugging Face folders")],
  ["ckpt.disable_ds", dropped("checkpoints are Hugging Face folders")],
  [
    "ckpt.best_metric_key",
    (value) =>
      /^(none)?$/i.test(String(value ?? ""))
        ? silently
        : useInstead(["metric_for_best_model", value === true ? undefined : value], ["load_best_model_at_end", true]),
  ],
  ["logger.logging_steps", inSteps("logging_steps")],
  ["logger.*", droppedUnlessOff(tracked)],
  ["ds.lora.rank", lora.rank],
  ["ds.lora.alpha", lora.detail("lora_alpha")],
  ["ds.lora.dropout", lora.detail("lora_dropout")],
  ["ds.lora.target_modules", lora.detail("lora_target_modules", listOf)],
  ["ds.lora.*", dropped(otherAdapters)],
  ["ds.load_in_4bit", renamed("load_in_4bit")],
  ["ds.param_dtype", dtype],
  ["ds.attn_implementation", dropped("attention is the trainer's own")],
  ["ds.packing_samples", dropped(packed)],
  ["ds.use_liger_kernel", dropped("the loss is always fused with the language-model head")],
  ["ds.*", dropped(oneProcess)],
  ["vllm.*", dropped(ownEngine)],
  ["use_ms", onlyOff("download the model and name its folder", ["model"])],
];

/** The command line before its names had dots. */
const flat: readonly Line[] = [
  ["pretrain", renamed("model")],
  ["reward_pretrain", rewardModel],
  ["critic_pretrain", renamed("critic_model")],
  ["remote_rm_url", remoteReward],
  ["prompt_data", renamed("dataset")],
  ["input_key", renamed("prompt_column")],
  ["label_key", renamed("answer_column")],
  ["apply_chat_template", dropped("the chat template is used if the model has one")],
  ["prompt_max_len", dropped("prompts are never cut; rows that do not fit the model's context are skipped")],
  ["generate_max_len", renamed("max_completion_length")],
  ["rollout_batch_size", generation],
  ["train_batch_size", withGeneration("per_device_train_batch_size")],
  ["max_len", lengthBound],
  ["max_samples", rowLimit],
  ["micro_train_batch_size", dropped(packed)],
  ["micro_rollout_batch_size", dropped(packed)],
  ["actor_learning_rate", renamed("learning_rate")],
  ["init_kl_coef", inReward],
  ["use_kl_loss", useLoss],
  ["use_kl_estimator_k3", (value, other) => (isOff(value) ? silently : klEstimator("k3", other))],
  ["kl_target", onlyOff("the weight of the KL is constant", ["beta"])],
  ["kl_horizon", dropped("the weight of the KL is constant")],
  ["no_advantage_std_norm", noDeviation],
  ["enable_vllm_is_correction", correction],
  ["use_icepop", onlyOff("", ["importance_sampling_mode", "token_mask"])],
  ["vllm_is_truncated_threshold", pair("importance_sampling_clip_min", "importance_sampling_clip_max")],
  ["entropy_loss_coef", (value) => (isOff(value) ? silently : useInstead(["entropy_coef", same(value)]))],
  ["l2", renamed("weight_decay")],
  ["adam_betas", pair("adam_beta1", "adam_beta2")],
  ["ptx_coef", onlyOff("there is no pretraining loss besides the policy's: leave it out")],
  ["pretrain_data", onlyOff("there is no pretraining loss besides the policy's: leave it out")],
  ["prompt_data_probs", onlyOff("one dataset is trained on: put the rows of several into one file", ["dataset"])],
  ["prompt_split", renamed("dataset_split")],
  ["eval_n_samples_per_prompt", renamed("eval_num_generations")],
  ["freezing_actor_steps", only(/^-1$/, "policy and critic learn from the first step: leave it out")],
  ["async_train", onlyOff("sampling and training take turns: leave it out")],
  ["num_episodes", renamed("num_train_epochs")],
  ["save_path", renamed("output_dir")],
  ["ckpt_path", dropped("checkpoints go to output_dir")],
  ["max_ckpt_num", renamed("save_total_limit")],
  ["load_checkpoint", onlyOff("", ["resume_from_checkpoint", true])],
  ["save_hf_ckpt", dropped("checkpoints are Hugging Face folders")],
  ["normalize_reward", onlyOff("advantages are normalized, not rewards: leave it out")],
  ["dynamic_filtering", onlyOff("", ["dynamic_sampling", true])],
  ["dynamic_filtering_reward_range", dropped("dynamic_sampling keeps every group whose rewards differ")],
  ["packing_samples", dropped(packed)],
  ["flash_attn", dropped("attention is the trainer's own")],
  ["zero_stage", dropped(oneProcess)],
  ["adam_offload", dropped(oneProcess)],
  ["colocate_*", dropped(oneProcess)],
  ["actor_num_*", dropped(oneProcess)],
  ["critic_num_*", dropped(oneProcess)],
  ["ref_num_*", dropped(oneProcess)],
  ["reward_num_*", dropped(oneProcess)],
  ["use_wandb", dropped(tracked)],
  ["use_tensorboard", dropped(tracked)],
  ["perf", dropped(tracked)],
  ["enforce_eager", dropped(ownEngine)],
  ["enable_prefix_caching", dropped(ownEngine)],
  ["deepspeed_enable_sleep", dropped(oneProcess)],
  ["ref_reward_offload", dropped(oneProcess)],
  ["ring_*", dropped(oneProcess)],
  ["ds_tensor_parallel_size", dropped(oneProcess)],
];

export const openRlhf: Trainer = { name: "OpenRLHF", lines: [...dotted, ...flat] };
