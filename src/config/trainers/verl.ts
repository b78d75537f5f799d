/**
 * verl 0.7, by the full path of a setting (`actor_rollout_ref.actor.clip_ratio_high=0.28`): what it is here, with the number
 * converted. verl counts prompts where we count completions and generations where we count optimizer steps, and its defaults
 * are token means with a dual clip of 3.
 */
import { entryOf } from "../entry.ts";
import { oneProcess, otherAdapters, ownEngine, packed, tracked } from "./reasons.ts";
import {
  checkpointing,
  countedInSteps,
  drop,
  dropped,
  droppedUnlessOff,
  isFalse,
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
  short,
  silently,
  type Trainer,
  textOf,
  useInstead,
} from "./rule.ts";

const noTurns = "an answer is one turn, without tools: leave it out";
/** verl's own default is 16 and every projection. */
const lora = loraRules((part) => `actor_rollout_ref.model.${part === "target_modules" ? part : `lora_${part}`}`, 16);
const python = "reward functions are TypeScript modules, named by path (./my-reward.ts)";

/** The loss as verl names it, even where it is written in our names. */
function lossMode(other: Lookup): string {
  const ours = textOf(other("loss_type"));
  const level = textOf(other("importance_sampling_level"));
  const known = ours === "cispo" || ours === "sapo" ? ours : level === "sequence" ? "gspo" : "vanilla";
  return textOf(other("policy_loss.loss_mode")) ?? known;
}
const answers = (other: Lookup): number => numberOf(other("rollout.n") ?? other("num_generations")) ?? 1;

/** Prompts per optimizer step, if given. */
const miniBatch = (other: Lookup): number | undefined =>
  numberOf(other("actor.ppo_mini_batch_size") ?? other("ppo_mini_batch_size"));

/** Optimizer steps per generation, over all passes: one step of verl's trainer, and of its learning rate. */
function stepsPerGeneration(other: Lookup): number {
  const prompts = numberOf(other("data.train_batch_size")) ?? 1024;
  const passes = numberOf(other("actor.ppo_epochs") ?? other("ppo_epochs") ?? other("num_iterations")) ?? 1;
  const steps = numberOf(other("steps_per_generation")) ?? prompts / (miniBatch(other) ?? Math.min(256, prompts));
  return steps * passes;
}

const inSteps = countedInSteps(stepsPerGeneration);

const estimators: Readonly<Record<string, readonly [string, unknown]>> = {
  grpo: ["advantage_estimator", "grpo"],
  grpo_vectorized: ["advantage_estimator", "grpo"],
  rloo: ["advantage_estimator", "rloo"],
  rloo_vectorized: ["advantage_estimator", "rloo"],
  reinforce_plus_plus: ["advantage_estimator", "reinforce_plus_plus"],
  reinforce_plus_plus_baseline: ["advantage_estimator", "reinforce_plus_plus_baseline"],
  gae: ["advantage_estimator", "gae"],
  gdpo: ["multi_objective_aggregation", "normalize_then_sum"],
};

const estimator: Rule = (value) => {
  const name = String(value).replace(/^AdvantageEstimator\./, "");
  const ours = entryOf(estimators, name.toLowerCase());
  return ours
    ? useInstead(ours)
    : refuse(`there is no ${textOf(value) ?? "such"} estimator; use one of ours`, ["advantage_estimator"]);
};

/** Prompts per generation; a step is ppo_mini_batch_size of them. */
const generation: Rule = (value, other) => {
  const prompts = numberOf(value);
  const step = miniBatch(other);
  if (prompts === undefined) return refuse("it counts the prompts of a generation", ["steps_per_generation"]);
  const completions = prompts * answers(other);
  const counted = `a generation is ${prompts} prompts × ${answers(other)} answers = ${completions} completions`;
  const size = step ?? Math.min(256, prompts);
  if (prompts % size !== 0)
    return refuse(`${counted}, and is whole steps of ppo_mini_batch_size ${size}`, ["steps_per_generation"]);
  const perStep = step === undefined ? [["per_device_train_batch_size", size * answers(other)] as const] : [];
  return refuse(counted, ["steps_per_generation", prompts / size], ...perStep);
};

/** Prompts per step. */
const step: Rule = (value, other) => {
  const prompts = numberOf(value);
  if (prompts === undefined) return refuse("completions are counted", ["per_device_train_batch_size"]);
  const steps = 1024 / prompts;
  const perGeneration =
    other("data.train_batch_size") === undefined && Number.isInteger(steps)
      ? [["steps_per_generation", steps] as const]
      : [];
  return refuse(
    `completions are counted: ${prompts} prompts × ${answers(other)} answers`,
    ["per_device_train_batch_size", prompts * answers(other)],
    ...perGeneration,
  );
};

/** Its batches are in prompts, and those it takes where none are given grow with the answers. */
const answersEach: Rule = (value, other) => {
  const each = numberOf(value) ?? 1;
  const given = other("data.train_batch_size") ?? miniBatch(other) ?? other("per_device_train_batch_size");
  if (each === 1 || given !== undefined) return renamed("num_generations")(value, other);
  return refuse(
    `a step is 256 prompts × ${each} answers`,
    ["num_generations", each],
    ["per_device_train_batch_size", 256 * each],
  );
};

const aggregates: Readonly<Record<string, string>> = {
  "token-mean": "dapo",
  "seq-mean-token-mean": "grpo",
  "seq-mean-token-sum-norm": "dr_grpo",
};

const aggregate: Rule = (value, other) => {
  const mode = lossMode(other);
  if (mode === "vanilla" && other("loss_type") !== undefined) return drop("loss_type determines how it is averaged");
  if (mode === "cispo" && String(value) !== "token-mean") return refuse("cispo is averaged over tokens: leave it out");
  if (mode !== "vanilla") return mode === "cispo" ? silently : drop(`loss_mode ${mode} has its own mean`);
  const ours = entryOf(aggregates, String(value));
  if (ours === undefined)
    return refuse("token-mean is dapo, seq-mean-token-mean grpo, seq-mean-token-sum-norm dr_grpo", ["loss_type"]);
  const note =
    ours === "dr_grpo"
      ? "verl does not divide by the number of completions in a step, this does: the gradient is smaller by a " +
        "constant factor, which AdamW cancels and max_grad_norm does not"
      : "";
  return refuse(note, ["loss_type", ours]);
};

const policyLoss: Rule = (value, other) => {
  switch (String(value)) {
    case "vanilla":
      return silently;
    case "gspo":
      // Without the dual clip that verl's other loss has.
      return useInstead(["loss_type", "grpo"], ["importance_sampling_level", "sequence"], ["delta", null]);
    case "sapo":
      return useInstead(["loss_type", "sapo"]);
    case "cispo":
      return other("clip_ratio_high") === undefined
        ? refuse("its cap 1 + clip_ratio_high is the cap itself here", ["loss_type", "cispo"], ["epsilon_high", 1.2])
        : useInstead(["loss_type", "cispo"]);
    default:
      return refuse("there is no such loss; use one of ours", ["loss_type"]);
  }
};

const clipLow: Rule = (value, other) => {
  const mode = lossMode(other);
  if (mode === "cispo") return drop("cispo has no lower bound on the ratio here");
  if (mode === "sapo") return drop("sapo clips nothing");
  // Above it stays at 0.2 there, and goes with the lower one here.
  const above = other("clip_ratio_high") ?? other("clip_ratio") ?? other("epsilon_high");
  return above === undefined && numberOf(value) !== 0.2
    ? useInstead(["epsilon", same(value)], ["epsilon_high", 0.2])
    : useInstead(["epsilon", same(value)]);
};

/** Both sides, unless each is given. */
const clip: Rule = (value, other) => {
  if (lossMode(other) === "sapo") return drop("sapo clips nothing");
  if (lossMode(other) === "cispo")
    return other("clip_ratio_high") === undefined ? clipHigh(value, other) : drop("clip_ratio_high overrides it");
  return (other("clip_ratio_low") ?? other("epsilon")) === undefined
    ? useInstead(["epsilon", same(value)])
    : drop("each side has its own range");
};

/** CISPO clips to [1 − low, 1 + high] there; here epsilon_high is the cap itself. */
const clipHigh: Rule = (value, other) => {
  const high = numberOf(value);
  if (lossMode(other) === "sapo") return drop("sapo clips nothing");
  if (lossMode(other) !== "cispo" || high === undefined) return refuse("", ["epsilon_high", same(value)]);
  return refuse("the cap of cispo is the ratio itself, 1 + clip_ratio_high", ["epsilon_high", short(1 + high)]);
};

const withKlLoss: Rule = (value, other) => {
  if (isTrue(value))
    return (other("kl_loss_coef") ?? other("beta")) === undefined ? useInstead(["beta", 0.001]) : silently;
  return isTrue(other("use_kl_in_reward")) || other("beta") !== undefined ? silently : useInstead(["beta", 0]);
};

/** Off there by default. */
const klLossWeight: Rule = (value, other) =>
  isTrue(other("use_kl_loss")) ? useInstead(["beta", same(value)]) : drop("use_kl_loss is not true");

/** Only the loss of PPO has one. */
const dualClip: Rule = (value, other) => {
  const mode = lossMode(other);
  return mode === "vanilla"
    ? renamed("delta", same, "there it defaults to 3, here it is off")(value, other)
    : drop(`loss_mode ${mode} has no dual clip`);
};

const klKinds: Readonly<Record<string, string>> = {
  kl: "k1",
  k1: "k1",
  mse: "k2",
  k2: "k2",
  low_var_kl: "k3",
  k3: "k3",
};

/** A + gives the value of the estimator before it and the gradient of k2, and only the gradient trains. */
const klInLoss: Rule = (value, other) => {
  const kind = String(value);
  if (!isTrue(other("use_kl_loss"))) return drop("use_kl_loss is not true");
  if (!kind.endsWith("+")) return klKind("kl_estimator")(value, other);
  return refuse("an estimator with + has the gradient of k2", ["kl_estimator", "k2"]);
};

const klKind =
  (key: string): Rule =>
  (value) => {
    const ours = entryOf(klKinds, String(value).replace(/\+$/, ""));
    return ours ? useInstead([key, ours]) : refuse("kl is k1, mse k2, low_var_kl k3", [key]);
  };

const klInReward: Rule = (value, other) => {
  if (!isTrue(value)) return silently;
  const weight = other("kl_ctrl.kl_coef") === undefined ? [["beta", 0.001] as const] : [];
  return useInstead(["use_kl_in_reward", true], ...weight);
};

const klInRewardWeight: Rule = (value, other) =>
  isTrue(other("use_kl_in_reward")) ? useInstead(["beta", same(value)]) : drop("use_kl_in_reward is false");

/** One file is a dataset. */
const files =
  (key: string): Rule =>
  (value) => {
    const paths = listOf(value);
    if (isNone(value)) return silently;
    return paths.length > 1
      ? refuse("one file is read: put the rows into one", [key])
      : useInstead(paths.length === 1 ? [key, paths[0]] : [key]);
  };

const maxLength: Rule = dropped("prompts are never cut; rows that do not fit the model's context are skipped");

const filterMetric: Rule = (value) =>
  /^acc/.test(String(value))
    ? useInstead(["dynamic_sampling_reward", "auto"])
    : refuse("left out, it is the weighted sum of the rewards", ["dynamic_sampling_reward"]);

/** Its scores of mathematics are 1 and -1 where ours are 1 and 0: twice the distance. */
const punishedDapo = (other: Lookup): boolean => /dapo/i.test(String(other("reward_manager") ?? ""));

const overlong: Rule = (value, other) => {
  if (isOff(value)) return silently;
  const rewards: Setting = ["reward_funcs", ["auto", "soft_overlong"]];
  const factor = numberOf(other("overlong_buffer_cfg.penalty_factor") ?? other("overlong_buffer.penalty_factor")) ?? 1;
  const right = punishedDapo(other) ? 2 : 1;
  if (right === 1 && factor === 1) return useInstead(rewards);
  const note = right === 2 ? "a wrong answer scores -1 with the dapo manager, and 0 here" : "";
  return refuse(note, rewards, ["reward_weights", [right, factor]]);
};

const punishes = (other: Lookup): boolean =>
  isTrue(other("overlong_buffer_cfg.enable") ?? other("overlong_buffer.enable")) ||
  listOf(other("reward_funcs")).includes("soft_overlong");

const overlongLength: Rule = (value, other) =>
  punishes(other) ? useInstead(["soft_punish_cache", same(value)]) : drop("overlong_buffer.enable is not true");

/** Weighed with the reward itself. */
const overlongWeight: Rule = (value, other) => {
  if (numberOf(value) === 1 || punishes(other)) return silently;
  return drop("overlong_buffer.enable is not true");
};

const modelReward: Rule = (value, other) =>
  isOff(value) || (other("reward_model.model.path") ?? other("reward_funcs")) !== undefined
    ? silently
    : refuse("name the reward model's folder or hub id", ["reward_funcs"]);

/** Its bound is 2 by default. */
const correction: Rule = (value, other) => {
  if (isOff(value)) return silently;
  const level = String(value) === "sequence" ? "sequence_truncate" : "token_truncate";
  const bound = other("rollout_is_threshold") === undefined ? [["importance_sampling_clip_max", 2] as const] : [];
  return useInstead(["importance_sampling_correction", true], ["importance_sampling_mode", level], ...bound);
};

/** A mask of what lies beyond the bounds, by several statistics; ours also weighs what is left. */
const rejection: Rule = (value) =>
  isOff(value)
    ? silently
    : refuse("the modes token_mask and sequence_mask also weight what they keep; without it nothing is masked", [
        "importance_sampling_mode",
      ]);

const rejectionBounds: Rule = (value) => {
  if (isNone(value)) return silently;
  const [low, high] = String(value).split("_").map(numberOf);
  return high === undefined
    ? useInstead(["importance_sampling_clip_max", low])
    : useInstead(["importance_sampling_clip_min", low], ["importance_sampling_clip_max", high]);
};

const modelPath =
  (enable: string): Rule =>
  (value, other) => {
    const enabled = other(enable);
    if (enabled !== undefined && isOff(enabled)) return drop(`${enable} is false`);
    return renamed("reward_funcs", () => [value])(value, other);
  };

const correctionBound: Rule = (value, other) =>
  isOff(other("rollout_is")) && other("importance_sampling_correction") === undefined
    ? drop("rollout_is is not given")
    : renamed("importance_sampling_clip_max")(value, other);

/** Its constant rate has a warm-up. */
const schedule: Rule = (value, other) => {
  if (isNone(value)) return silently;
  const floor = numberOf(other("optim.min_lr_ratio")) ?? 0;
  return String(value) === "cosine" && floor > 0
    ? useInstead(["lr_scheduler_type", "cosine_with_min_lr"], ["lr_scheduler_kwargs", { min_lr_rate: floor }])
    : useInstead(["lr_scheduler_type", String(value) === "constant" ? "constant_with_warmup" : value]);
};

const betas: Rule = (value) => {
  const [first, second] = listOf(value).map(numberOf);
  return useInstead(["adam_beta1", first], ["adam_beta2", second]);
};

const evalGreedily: Rule = (value, other) =>
  isTrue(value) && (other("val_kwargs.temperature") ?? other("eval_temperature")) === undefined
    ? useInstead(["eval_temperature", 1])
    : silently;

const evalTemperature: Rule = (value, other) =>
  isFalse(other("val_kwargs.do_sample") ?? "true") ? silently : useInstead(["eval_temperature", same(value)]);

const resume: Rule = (value, other) => {
  if (/^disable$/.test(String(value))) return silently;
  const path = textOf(other("resume_from_path"));
  return useInstead(["resume_from_checkpoint", String(value) === "resume_path" && path !== undefined ? path : true]);
};

const nothingLikeIt = refused("there is nothing like it here: leave it out");

const lines = (path: string, rule: Rule, names: readonly string[]): Line[] =>
  names.map((name) => [`${path}.${name}`, rule]);

export const verl: Trainer = {
  name: "verl",
  lines: [
    ["*._target_", dropped("classes are verl's own")],
    // Algorithm
    ["algorithm.adv_estimator", estimator],
    [
      "algorithm.norm_adv_by_std_in_grpo",
      (value) => (isFalse(value) ? useInstead(["scale_rewards", "none"]) : silently),
    ],
    ["algorithm.use_kl_in_reward", klInReward],
    ["algorithm.kl_penalty", klKind("kl_in_reward_estimator")],
    ["algorithm.kl_ctrl.kl_coef", klInRewardWeight],
    ["algorithm.kl_ctrl.type", only(/^fixed$/, "the weight of the KL is constant", ["beta"])],
    ["algorithm.kl_ctrl.*", dropped("the weight of the KL is constant")],
    ["algorithm.gamma", (value) => (numberOf(value) === 1 ? silently : useInstead(["gamma", same(value)]))],
    ["algorithm.lam", renamed("lam")],
    ["algorithm.filter_groups.enable", (value) => (isTrue(value) ? useInstead(["dynamic_sampling", true]) : silently)],
    ["algorithm.filter_groups.metric", filterMetric],
    [
      "algorithm.filter_groups.max_num_gen_batches",
      (value) => (numberOf(value) === 0 ? silently : useInstead(["dynamic_sampling_max_batches", same(value)])),
    ],
    ["algorithm.rollout_correction.rollout_is", correction],
    ["algorithm.rollout_correction.rollout_is_threshold", correctionBound],
    ["algorithm.rollout_correction.rollout_rs", rejection],
    ["algorithm.rollout_correction.rollout_rs_threshold", rejectionBounds],
    ["algorithm.rollout_correction.rollout_rs_threshold_lower", renamed("importance_sampling_clip_min")],
    ["algorithm.rollout_is", correction],
    ["algorithm.rollout_is_threshold", correctionBound],
    ...lines("algorithm", droppedUnlessOff("the correction is by importance_sampling_mode"), [
      ...["rollout_correction.bypass_mode", "rollout_correction.loss_type"],
      "rollout_correction.rollout_is_batch_normalize",
    ]),
    ["algorithm.pf_ppo.*", dropped("answers are not reweighted")],
    ["algorithm.use_pf_ppo", onlyOff("answers are not reweighted: leave it out")],
    // Data
    ["data.train_files", files("dataset")],
    ["data.val_files", files("eval_dataset")],
    ["data.train_batch_size", generation],
    ["data.gen_batch_size", droppedUnlessOff("dynamic_sampling samples as many prompts as it needs")],
    ["data.val_batch_size", droppedUnlessOff("sequences sampled at once are max_concurrent_sequences")],
    ["algorithm.*", nothingLikeIt],
    ["data.max_prompt_length", maxLength],
    ["data.max_response_length", renamed("max_completion_length")],
    ["data.filter_overlong_prompts", maxLength],
    ["data.filter_overlong_prompts_workers", maxLength],
    ["data.truncation", maxLength],
    ["data.shuffle", (value) => (isFalse(value) ? useInstead(["shuffle_dataset", false]) : silently)],
    ["data.validation_shuffle", droppedUnlessOff("evaluation takes the rows in their order")],
    ["data.seed", renamed("seed")],
    ["data.prompt_key", renamed("prompt_column")],
    ["data.reward_fn_key", dropped("rewards are named by reward_funcs")],
    [
      "data.val_max_samples",
      (value) => ((numberOf(value) ?? 1) < 0 ? silently : useInstead(["eval_samples", same(value)])),
    ],
    ["data.train_max_samples", only(/^-1$/, "all rows are used: cut the file", ["dataset"])],
    [
      "data.apply_chat_template_kwargs",
      (value) => (isOff(value) ? silently : useInstead(["chat_template_kwargs", value])),
    ],
    ["data.apply_chat_template_kwargs.*", refused("an object in JSON", ["chat_template_kwargs"])],
    ["data.custom_cls.path", onlyOff("rows come from a file: convert it", ["dataset"])],
    ["data.sampler.class_path", onlyOff("rows are drawn in a seeded order: leave it out")],
    ...lines("data", dropped("rows are read as they are in the file"), [
      ...["tokenizer", "use_shm", "return_*", "dataloader_num_workers", "image_*", "video_key", "trust_remote_code"],
      ...["custom_cls.*", "sampler.*", "datagen.*", "tool_config_path"],
    ]),
    ["data.*", nothingLikeIt],
    // Policy
    ["actor_rollout_ref.model.path", renamed("model")],
    ["actor_rollout_ref.model.lora_rank", lora.rank],
    ["actor_rollout_ref.model.lora_alpha", lora.detail("lora_alpha")],
    ["actor_rollout_ref.model.lora_adapter_path", onlyOff("an adapter's folder is a model", ["model"])],
    ["actor_rollout_ref.model.target_modules", lora.detail("lora_target_modules", listOf)],
    ["actor_rollout_ref.model.exclude_modules", onlyOff(otherAdapters)],
    ["actor_rollout_ref.model.lora.rank", onlyOff("it is called lora_rank: use that")],
    ["actor_rollout_ref.model.lora*", dropped(otherAdapters)],
    ["actor_rollout_ref.model.use_remove_padding", dropped(packed)],
    ["actor_rollout_ref.model.enable_gradient_checkpointing", checkpointing],
    ["actor_rollout_ref.model.trust_remote_code", droppedUnlessOff("no code of a model is ever run")],
    ["actor_rollout_ref.model.custom_chat_template", renamed("chat_template", (value) => value)],
    ...lines("actor_rollout_ref.model", dropped("the model is what its folder says"), [
      ...["use_shm", "external_lib", "hf_config_path", "tokenizer_path", "use_liger", "use_fused_kernels"],
      ...["fused_kernel_options.*", "enable_activation_offload", "override_config*", "mtp.*", "tiled_mlp.*"],
    ]),
    ["actor_rollout_ref.model.*", nothingLikeIt],
    ["actor_rollout_ref.actor.optim.lr", renamed("learning_rate")],
    ["actor_rollout_ref.actor.optim.weight_decay", renamed("weight_decay")],
    ["actor_rollout_ref.actor.optim.betas", betas],
    ["actor_rollout_ref.actor.optim.lr_warmup_steps", inSteps("warmup_steps")],
    ["actor_rollout_ref.actor.optim.lr_warmup_steps_ratio", renamed("warmup_ratio")],
    ["actor_rollout_ref.actor.optim.lr_scheduler_type", schedule],
    ["actor_rollout_ref.actor.optim.lr_decay_style", schedule],
    ["actor_rollout_ref.actor.optim.warmup_style", schedule],
    ["actor_rollout_ref.actor.optim.min_lr_ratio", droppedUnlessOff("lr_scheduler_type determines the final rate")],
    ["actor_rollout_ref.actor.optim.clip_grad", renamed("max_grad_norm")],
    ["actor_rollout_ref.actor.optim.*", dropped("the optimizer is AdamW over all steps")],
    ["actor_rollout_ref.actor.grad_clip", renamed("max_grad_norm")],
    ["actor_rollout_ref.actor.ppo_mini_batch_size", step],
    ["actor_rollout_ref.actor.ppo_max_token_len_per_gpu", renamed("micro_batch_tokens")],
    ["actor_rollout_ref.actor.ppo_micro_batch_size", dropped(packed)],
    ["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", dropped(packed)],
    ["actor_rollout_ref.actor.use_dynamic_bsz", dropped(packed)],
    ["actor_rollout_ref.actor.ppo_epochs", renamed("num_iterations")],
    ["actor_rollout_ref.actor.clip_ratio", clip],
    ["actor_rollout_ref.actor.clip_ratio_low", clipLow],
    ["actor_rollout_ref.actor.clip_ratio_high", clipHigh],
    ["actor_rollout_ref.actor.clip_ratio_c", dualClip],
    ["actor_rollout_ref.actor.loss_agg_mode", aggregate],
    // Before 0.3: what is now a mode.
    [
      "actor_rollout_ref.actor.use_token_level_loss",
      (value, other) => aggregate(isTrue(value) ? "token-mean" : "seq-mean-token-mean", other),
    ],
    [
      "actor_rollout_ref.actor.loss_scale_factor",
      onlyOff("dr_grpo divides by max_completion_length", ["max_completion_length"]),
    ],
    ["actor_rollout_ref.actor.policy_loss.loss_mode", policyLoss],
    ["actor_rollout_ref.actor.policy_loss.*", dropped("it belongs to losses that do not exist here")],
    ["actor_rollout_ref.actor.tau_pos", renamed("sapo_temperature_pos")],
    ["actor_rollout_ref.actor.tau_neg", renamed("sapo_temperature_neg")],
    [
      "actor_rollout_ref.actor.entropy_coeff",
      (value) => (isOff(value) ? silently : useInstead(["entropy_coef", same(value)])),
    ],
    ["actor_rollout_ref.actor.use_kl_loss", withKlLoss],
    ["actor_rollout_ref.actor.kl_loss_coef", klLossWeight],
    ["actor_rollout_ref.actor.kl_loss_type", klInLoss],
    ["actor_rollout_ref.actor.shuffle", droppedUnlessOff("the completions of a generation keep their order")],
    ...lines("actor_rollout_ref.actor", dropped("how the policy is computed is the trainer's own"), [
      ...["fsdp_config.*", "megatron.*", "veomni.*", "profiler.*", "checkpoint.*", "router_replay.*", "strategy"],
      ...["ulysses_sequence_parallel_size", "use_torch_compile", "use_fused_kernels", "use_prefix_grouper"],
      ...["calculate_*", "entropy_*", "data_loader_seed", "rollout_n", "load_weight", "freeze_vision_tower"],
      ...["ppo_infer_*", "log_prob_*", "use_remove_padding", "sum_pi_squared_*"],
    ]),
    ["actor_rollout_ref.actor.*", nothingLikeIt],
    ["actor_rollout_ref.ref.model.path", renamed("ref_model")],
    ["actor_rollout_ref.ref.*", dropped("how the reference is computed is the trainer's own")],
    // Rollout
    ["actor_rollout_ref.rollout.n", answersEach],
    ["actor_rollout_ref.rollout.temperature", renamed("temperature")],
    ["actor_rollout_ref.rollout.top_p", renamed("top_p")],
    ["actor_rollout_ref.rollout.top_k", renamed("top_k", (value) => ((numberOf(value) ?? 0) < 0 ? 0 : same(value)))],
    ["actor_rollout_ref.rollout.max_num_seqs", renamed("max_concurrent_sequences")],
    ["actor_rollout_ref.rollout.response_length", renamed("max_completion_length")],
    [
      "actor_rollout_ref.rollout.do_sample",
      (value) => (isFalse(value) ? refuse("training samples", ["temperature"]) : silently),
    ],
    ["actor_rollout_ref.rollout.ignore_eos", onlyOff("an answer ends with the end token: leave it out")],
    ["actor_rollout_ref.rollout.val_kwargs.n", renamed("eval_num_generations")],
    ["actor_rollout_ref.rollout.val_kwargs.temperature", evalTemperature],
    ["actor_rollout_ref.rollout.val_kwargs.do_sample", evalGreedily],
    [
      "actor_rollout_ref.rollout.val_kwargs.top_p",
      only(/^1(\.0*)?$/, "evaluation samples as training does, except for eval_temperature", ["top_p"]),
    ],
    [
      "actor_rollout_ref.rollout.val_kwargs.top_k",
      only(/^(-1|0)$/, "evaluation samples as training does, except for eval_temperature", ["top_k"]),
    ],
    ["actor_rollout_ref.rollout.multi_turn.enable", onlyOff(noTurns)],
    ["actor_rollout_ref.rollout.multi_turn.*", dropped("an answer is one turn, without tools")],
    ["actor_rollout_ref.rollout.*", dropped(ownEngine)],
    ["actor_rollout_ref.*", dropped(oneProcess)],
    // Critic
    ["critic.model.path", renamed("critic_model")],
    ["critic.optim.lr", renamed("critic_learning_rate")],
    ["critic.cliprange_value", renamed("cliprange_value")],
    ["critic.optim.*", dropped("the critic's optimizer is the policy's, except for critic_learning_rate")],
    ["critic.*", dropped("how the critic is computed is the trainer's own")],
    // Rewards
    ["reward_model.enable", modelReward],
    ["reward.reward_model.enable", modelReward],
    ["reward_model.model.path", modelPath("reward_model.enable")],
    ["reward.reward_model.model_path", modelPath("reward.reward_model.enable")],
    ["custom_reward_function.path", onlyOff(python, ["reward_funcs"])],
    ["reward.custom_reward_function.path", onlyOff(python, ["reward_funcs"])],
    ["*custom_reward_function.name", dropped("a reward module's default export is called")],
    ["*custom_reward_function.*", dropped("a reward module takes its columns by name")],
    ["*overlong_buffer_cfg.enable", overlong],
    ["*overlong_buffer.enable", overlong],
    ["*overlong_buffer_cfg.len", overlongLength],
    ["*overlong_buffer.len", overlongLength],
    ["*overlong_buffer_cfg.penalty_factor", overlongWeight],
    ["*overlong_buffer.penalty_factor", overlongWeight],
    ["*overlong_buffer_cfg.*", dropped("every reward is recorded by its name")],
    ["*overlong_buffer.*", dropped("every reward is recorded by its name")],
    ["*reward_kwargs.max_resp_len", renamed("max_completion_length")],
    ["reward_manager.*", dropped("rewards are named by reward_funcs")],
    ["reward_model.*", dropped("rewards are named by reward_funcs")],
    ["reward.*", dropped("rewards are named by reward_funcs")],
    // Trainer
    ["trainer.total_epochs", renamed("num_train_epochs")],
    ["trainer.total_training_steps", inSteps("max_steps")],
    ["trainer.save_freq", inSteps("save_steps", 0)],
    ["trainer.test_freq", inSteps("eval_steps")],
    ["trainer.val_before_train", dropped("evaluation always begins before the first step")],
    ["trainer.val_only", onlyOff("use grpo eval")],
    ["trainer.resume_mode", resume],
    [
      "trainer.resume_from_path",
      (value, other) =>
        isNone(value) || (other("resume_mode") ?? other("resume_from_checkpoint")) !== undefined
          ? silently
          : useInstead(["resume_from_checkpoint", value]),
    ],
    ["trainer.default_local_dir", renamed("output_dir")],
    ["trainer.max_actor_ckpt_to_keep", renamed("save_total_limit")],
    ["trainer.critic_warmup", onlyOff("policy and critic learn from the first step: leave it out")],
    ["trainer.device", only(/^(cuda|cpu)$/, "cpu or cuda", ["device"])],
    ["trainer.logger", dropped(tracked)],
    ["trainer.project_name", dropped(tracked)],
    ["trainer.experiment_name", dropped(tracked)],
    ["trainer.n_gpus_per_node", dropped(oneProcess)],
    ["trainer.nnodes", dropped(oneProcess)],
    ["trainer.log_val_generations", dropped("every rollout is recorded in output_dir/completions")],
    ["trainer.rollout_data_dir", droppedUnlessOff("every rollout is recorded in output_dir/completions")],
    ["trainer.validation_data_dir", droppedUnlessOff("evaluation is logged as accuracy")],
    ...lines("trainer", dropped(oneProcess), [
      ...["balance_batch", "esi_redundant_time", "default_hdfs_dir", "del_local_ckpt_after_load", "ray_*"],
      ...["use_legacy_worker_impl", "max_critic_ckpt_to_keep", "profile_*"],
    ]),
    ["trainer.*", nothingLikeIt],
    ["rollout.nnodes", dropped(oneProcess)],
    ["rollout.n_gpus_per_node", dropped(oneProcess)],
    ["ray_kwargs.*", dropped(oneProcess)],
    ["ray_init.*", dropped(oneProcess)],
    ["global_profiler.*", dropped("BUN_GRPO_TRACE=1 prints the time of every kernel")],
    ["transfer_queue.*", dropped(oneProcess)],
    ["config_path", dropped("settings are given one by one")],
    ["config_name", dropped("settings are given one by one")],
    ["hydra.*", dropped("output_dir determines where everything goes")],
  ],
};
