/** What settings must hold together. A contradiction is refused; what is legal but probably not meant becomes a remark. */
import { existsSync } from "node:fs";
import { InputError } from "../errors.ts";
import { foreignReward } from "./reward-names.ts";
import { scheduleShape } from "./schedules.ts";
import type { CommandName, EvalConfig, GenerateConfig, OptimizerConfig, TrainConfig, UpdateConfig } from "./schema.ts";
import { rewardFunctionSettings } from "./settings/rewards.ts";

/** Runs a check where none of the settings it looks at is refused already; what it gives, or undefined. */
export type Attempt = <T>(keys: readonly string[], check: () => T) => T | undefined;

/**
 * @param config the complete settings of `command`, each checked by itself
 * @param given keys in snake_case that the user wrote
 * @param attempt takes the refusals
 * @returns remarks, one line each
 */
export function checkTogether(
  command: CommandName,
  config: unknown,
  given: ReadonlySet<string>,
  attempt: Attempt,
): string[] {
  const remarks: string[] = [];
  const collect = (keys: readonly string[], check: () => readonly string[]) =>
    remarks.push(...(attempt(keys, check) ?? []));
  const output = ["overwrite", "resume_from_checkpoint"];
  const clipping = ["delta", "epsilon", "epsilon_high", "loss_type", "entropy_coef_min", "entropy_coef_max"];
  const evaluation = ["eval_num_generations", "eval_temperature"];
  const rewards = ["reward_funcs", "reward_weights", "soft_punish_cache", "max_completion_length"];
  const best = ["load_best_model_at_end", "metric_for_best_model", "greater_is_better", "early_stopping_patience"];
  const schedule = ["lr_scheduler_type", "lr_scheduler_kwargs", "learning_rate", "warmup_steps", "max_steps"];
  switch (command) {
    case "train":
    case "plan": {
      const settings = config as TrainConfig;
      const batch = ["per_device_train_batch_size", "gradient_accumulation_steps", "num_generations"];
      attempt([...batch, "steps_per_generation"], () => checkBatch(settings));
      for (const name of settings.rewardFuncs ?? []) attempt(["reward_funcs"], () => checkRewardName(name));
      attempt(rewards, () => checkRewards(settings));
      attempt(["num_generations", "dynamic_sampling_probe"], () => checkDynamicSampling(settings));
      attempt(output, () => checkOutput(settings));
      attempt(best, () => checkBestModel(settings, settings.dataset === null));
      collect([], () => groupRemarks(settings));
      collect(["stop"], () => stopRemarks(settings));
      collect([], () => advantageRemarks(settings, given));
      collect([], () => rewardRemarks(settings, given));
      collect([], () => dynamicRemarks(settings, given));
      collect(clipping, () => lossRemarks(settings, given));
      collect(schedule, () => scheduleRemarks(settings, settings.maxSteps));
      collect(evaluation, () => evaluationRemarks(settings, given));
      collect(best, () => bestModelRemarks(settings, given));
      return remarks;
    }
    case "update": {
      const settings = config as UpdateConfig;
      attempt(output, () => checkOutput(settings));
      collect([], () => advantageRemarks(settings, given));
      collect(clipping, () => lossRemarks(settings, given));
      collect(schedule, () => scheduleRemarks(settings, null));
      return remarks;
    }
    case "sft": {
      const settings = config as TrainConfig;
      attempt(output, () => checkOutput(settings));
      attempt(best, () => checkBestModel(settings, false));
      attempt(["verifier", "eval_dataset"], () => checkSupervisedJudge(settings));
      collect(schedule, () => scheduleRemarks(settings, settings.maxSteps));
      collect(evaluation, () => evaluationRemarks(settings, given));
      collect(best, () => bestModelRemarks(settings, given));
      collect(["stop"], () => stopRemarks(settings));
      return remarks;
    }
    case "eval": {
      const settings = config as EvalConfig;
      attempt(["pass_at_k", "num_generations"], () => checkPassAtK(settings));
      for (const name of settings.rewardFuncs ?? []) attempt(["reward_funcs"], () => checkRewardName(name));
      attempt([...rewards, "verifier"], () => checkEvalRewards(settings));
      collect([], () => repeatRemarks(settings));
      collect(["stop"], () => stopRemarks(settings));
      return remarks;
    }
    case "generate": {
      const settings = config as GenerateConfig;
      attempt(["prompt", "input"], () => checkPrompt(settings));
      collect([], () => repeatRemarks(settings));
      collect(["stop"], () => stopRemarks(settings));
      return remarks;
    }
    case "score":
      return [];
  }
}

function checkBatch(config: TrainConfig): void {
  const group = config.numGenerations;
  const perGeneration = config.stepsPerGeneration;
  // A generation has whole groups; a step need not.
  const factor = perGeneration ?? config.gradientAccumulationSteps;
  const batch = config.perDeviceTrainBatchSize * factor;
  if (batch % group !== 0) {
    const below = Math.floor(batch / group) * group;
    const near = below > 0 ? `${below} or ${below + group}` : String(group);
    throw new InputError(
      `per_device_train_batch_size ${config.perDeviceTrainBatchSize} × ` +
        `${perGeneration === null ? "gradient_accumulation_steps" : "steps_per_generation"} ${factor} = ${batch} completions ` +
        `a generation is not a multiple of num_generations ${group}; take a product of ${near}`,
    );
  }
  const accumulated = config.gradientAccumulationSteps;
  if (perGeneration !== null && perGeneration % accumulated !== 0) {
    const next = Math.ceil(perGeneration / accumulated) * accumulated;
    // TRL takes this too; the weights stay the same while gradients accumulate.
    const cure =
      accumulated % perGeneration === 0
        ? `take ${accumulated}: a step's generations are one then, by the same weights`
        : `the weights change once a step, so a generation serves whole steps; take ${next}`;
    throw new InputError(
      `steps_per_generation ${perGeneration} is not a multiple of gradient_accumulation_steps ${accumulated}; ${cure}`,
    );
  }
}

function checkRewardName(name: string): void {
  const why = foreignReward(name);
  if (why !== undefined && !existsSync(name)) throw new InputError(`reward_funcs: ${name}: ${why}`);
}

/** @throws InputError where an evaluation of `sft` would have nothing to judge by */
function checkSupervisedJudge({
  verifier,
  evalDataset,
}: {
  readonly verifier: string;
  readonly evalDataset: string | null;
}): void {
  if (verifier === "none" && evalDataset !== null)
    throw new InputError(
      "verifier none: sft has no reward functions, so nothing would judge eval_dataset; leave it out",
    );
}

function checkEvalRewards(config: EvalConfig): void {
  if (config.rewardFuncs !== null) {
    checkRewards(config);
    return;
  }
  if (config.rewardWeights !== null) throw new InputError("reward_weights: there are no reward_funcs to weigh");
  if (config.verifier === "none")
    throw new InputError(
      "verifier none and no reward_funcs: nothing would say what an answer is worth; give one of them",
    );
}

function checkRewards(config: TrainConfig | EvalConfig): void {
  const { rewardFuncs, rewardWeights } = config;
  const functions = rewardFuncs?.length ?? 1;
  if (rewardWeights !== null && rewardWeights.length !== functions) {
    const names = rewardFuncs === null ? "the default one" : rewardFuncs.join(",");
    throw new InputError(
      `reward_weights ${rewardWeights.join(",")}: ${rewardWeights.length} weights for ${functions} reward_funcs (${names})`,
    );
  }
  const twice = rewardFuncs?.find((name, i) => rewardFuncs.indexOf(name) !== i);
  if (twice !== undefined) throw new InputError(`reward_funcs: ${twice} is named twice; use reward_weights`);
  const { softPunishCache: cache, softPunishMaxLen, maxCompletionLength } = config;
  const longest = softPunishMaxLen ?? maxCompletionLength;
  if (cache !== null && cache > longest) {
    const limit = softPunishMaxLen === null ? "max_completion_length" : "soft_punish_max_len";
    throw new InputError(
      `soft_punish_cache ${cache}: more than ${limit} ${longest} would punish every length; lower it`,
    );
  }
}

/** Which built-in reward reads a parameter. */
const parameterReward = (key: string) => key.match(/^(cosine|repetition)_/)?.[1] ?? "soft_overlong";

const readsParameter = (name: string, reward: string) =>
  name === reward || (name === "get_soft_overlong_punishment" && reward === "soft_overlong");

function rewardRemarks({ rewardFuncs }: TrainConfig, given: ReadonlySet<string>): string[] {
  const unused = Object.keys(rewardFunctionSettings).find(
    (key) => given.has(key) && !rewardFuncs?.some((name) => readsParameter(name, parameterReward(key))),
  );
  return unused === undefined ? [] : [`${unused} is not used: reward_funcs has no ${parameterReward(unused)}`];
}

function checkDynamicSampling({ dynamicSampling, dynamicSamplingProbe: probe, numGenerations }: TrainConfig): void {
  if (!dynamicSampling) return;
  if (numGenerations < 2)
    throw new InputError("dynamic_sampling: a group of one completion never has signal; raise num_generations");
  if (probe !== null && probe >= numGenerations)
    throw new InputError(
      `dynamic_sampling_probe ${probe}: it must lie below num_generations ${numGenerations}; lower it or leave it out`,
    );
}

/** The first of `keys` that was given does nothing: a remark. */
function unusedRemark(given: ReadonlySet<string>, keys: readonly string[], why: string): string[] {
  const key = keys.find((name) => given.has(name));
  return key === undefined ? [] : [`${key} is not used: ${why}`];
}

function dynamicRemarks(config: TrainConfig, given: ReadonlySet<string>): string[] {
  const sampling = ["max_batches", "ahead", "probe", "reward"].map((name) => `dynamic_sampling_${name}`);
  const moving = ["ref_model_mixup_alpha", "ref_model_sync_steps"];
  return [
    ...(config.dynamicSampling ? [] : unusedRemark(given, sampling, "dynamic_sampling is false")),
    ...(config.syncRefModel ? [] : unusedRemark(given, moving, "sync_ref_model is false")),
  ];
}

function checkOutput(config: {
  readonly overwrite: boolean;
  readonly resumeFromCheckpoint: true | string | null;
}): void {
  if (config.overwrite && config.resumeFromCheckpoint !== null) {
    throw new InputError("overwrite starts anew and resume_from_checkpoint goes on: give one of the two");
  }
}

/** The setting that asks which evaluation is the best; undefined: none does. */
function bestModelKey(config: TrainConfig): string | undefined {
  if (config.loadBestModelAtEnd) return "load_best_model_at_end";
  if (config.earlyStoppingPatience !== null) return "early_stopping_patience";
  return config.metricForBestModel === null ? undefined : "metric_for_best_model";
}

/** @param bundled whether there is something to evaluate on without an eval_dataset */
function checkBestModel(config: TrainConfig, bundled: boolean): void {
  const key = bestModelKey(config);
  if (key === undefined) return;
  if (config.evalDataset === null && !bundled)
    throw new InputError(`${key} needs evaluations: give eval_dataset and eval_steps`);
  // The bundled run evaluates by itself.
  if (config.evalSteps === null && !(bundled && config.model === null))
    throw new InputError(`${key} needs evaluations while the run goes on: give eval_steps`);
  if (/^(eval_)?loss$/.test(config.metricForBestModel ?? ""))
    throw new InputError(
      `metric_for_best_model ${config.metricForBestModel}: an evaluation samples answers and has no loss; use eval_reward or eval_accuracy`,
    );
}

function bestModelRemarks(config: TrainConfig, given: ReadonlySet<string>): string[] {
  if (bestModelKey(config) === undefined && given.has("greater_is_better"))
    return ["greater_is_better is not used: there is no metric_for_best_model"];
  if (config.earlyStoppingPatience === null && given.has("early_stopping_threshold"))
    return ["early_stopping_threshold is not used: there is no early_stopping_patience"];
  return [];
}

function checkPassAtK(config: EvalConfig): void {
  const tooMany = config.passAtK?.find((k) => k > config.numGenerations);
  if (tooMany !== undefined) {
    throw new InputError(
      `pass_at_k ${tooMany}: more than num_generations ${config.numGenerations}; raise num_generations`,
    );
  }
}

function checkPrompt(config: GenerateConfig): void {
  if (config.prompt === null && config.input === null) throw new InputError("give --prompt TEXT or --input FILE.jsonl");
  if (config.prompt !== null && config.input !== null)
    throw new InputError("--prompt and --input: give one of the two");
}

function repeatRemarks(config: { readonly numGenerations: number; readonly temperature: number }): string[] {
  if (config.numGenerations === 1 || config.temperature > 0) return [];
  return [
    `num_generations ${config.numGenerations} at temperature 0 gives the same answer every time; try --temperature 1`,
  ];
}

/** A shell passes "\\n" on as two characters, and no text contains them by chance. */
function stopRemarks({ stop }: Pick<TrainConfig, "stop">): string[] {
  const escaped = stop?.find((text) => /\\[nrt]/.test(text));
  if (escaped === undefined) return [];
  return [
    `stop ${JSON.stringify(escaped)}: a backslash and a letter, as written; for a line break give a JSON list, '["\\n"]'`,
  ];
}

function groupRemarks({ numGenerations: group, advantageEstimator: estimator }: TrainConfig): string[] {
  // These two take no baseline from the group.
  if (estimator === "gae" || estimator === "reinforce_plus_plus") return [];
  if (group === 1) {
    return [
      "num_generations 1: a group of one is its own baseline, so every advantage is 0 and no reward is learned from",
    ];
  }
  // RLOO's paper has groups of 2 and 4.
  if (group < 8 && estimator !== "rloo")
    return [`num_generations ${group}: a small group is a noisy baseline; 16 or more is usual`];
  return [];
}

function advantageRemarks(config: TrainConfig | UpdateConfig, given: ReadonlySet<string>): string[] {
  const remarks: string[] = [];
  const { advantageEstimator: estimator } = config;
  const unused = (keys: readonly string[], why: string) => remarks.push(...unusedRemark(given, keys, why));
  if (estimator !== "grpo") {
    unused(["scale_rewards", "multi_objective_aggregation"], `advantage_estimator ${estimator} has its own scale`);
  }
  if (estimator === "grpo" || estimator === "rloo") {
    unused(["gamma"], `advantage_estimator ${estimator} has one advantage for all tokens`);
  }
  if (estimator !== "gae") {
    unused(
      ["critic_model", "critic_learning_rate", "lam", "whiten_advantages", "cliprange_value", "vf_coef"],
      `advantage_estimator ${estimator} has no critic`,
    );
  }
  if (config.useKlInReward && config.beta === 0) remarks.push("use_kl_in_reward changes nothing: beta is 0");
  if (config.useKlInReward && config.beta !== 0) {
    unused(["use_bias_correction_kl", "kl_estimator"], "use_kl_in_reward leaves no KL in the loss");
  }
  if (!config.useKlInReward) unused(["kl_in_reward_estimator"], "use_kl_in_reward is false");
  return remarks;
}

function lossRemarks(config: TrainConfig | UpdateConfig, given: ReadonlySet<string>): string[] {
  const remarks: string[] = [];
  const high = config.epsilonHigh ?? config.epsilon;
  if (config.delta !== null && config.delta <= 1 + config.epsilon) {
    throw new InputError(
      `delta ${config.delta}: it must lie above 1 + epsilon = ${1 + config.epsilon}, or clipping never acts; raise delta or leave it out`,
    );
  }
  if (config.lossType === "cispo" && high < 1) {
    remarks.push(
      `loss_type cispo caps the ratio itself at epsilon_high, here ${high}: on-policy tokens are scaled down; 5 is usual`,
    );
  }
  if (config.lossType === "luspo" && config.importanceSamplingLevel === "token") {
    remarks.push("loss_type luspo is defined with importance_sampling_level sequence; here it is token");
  }
  const clips = !["cispo", "sapo", "vespo"].includes(config.lossType);
  if (clips && config.importanceSamplingLevel === "token" && high < 0.01) {
    remarks.push(
      `epsilon ${high} is of the size that sequence ratios need (GSPO), and importance_sampling_level is token: nearly every token will be clipped after the first step`,
    );
  }
  if (clips && config.importanceSamplingLevel === "sequence" && given.has("importance_sampling_level") && high >= 0.1) {
    remarks.push(
      `importance_sampling_level sequence with epsilon ${high}: a sequence's mean ratio hardly ever moves so far, so nothing is clipped; GSPO takes 3e-4 and epsilon_high 4e-4`,
    );
  }
  if (config.useAdaptiveEntropy && config.entropyCoefMin > config.entropyCoefMax) {
    throw new InputError(
      `entropy_coef_min ${config.entropyCoefMin} lies above entropy_coef_max ${config.entropyCoefMax}; swap them`,
    );
  }
  const adaptive = ["entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"];
  if (!config.useAdaptiveEntropy) remarks.push(...unusedRemark(given, adaptive, "use_adaptive_entropy is false"));
  if (config.beta === 0) remarks.push(...unusedRemark(given, ["ref_model"], "beta is 0"));
  const correction = ["importance_sampling_mode", "importance_sampling_clip_max", "importance_sampling_clip_min"];
  if (!config.importanceSamplingCorrection)
    remarks.push(...unusedRemark(given, correction, "importance_sampling_correction is false"));
  return remarks;
}

function scheduleRemarks(config: OptimizerConfig, steps: number | null): string[] {
  scheduleShape(config.lrSchedulerType, config.lrSchedulerKwargs ?? {}, config.learningRate);
  if (config.lrSchedulerType === "constant" && (config.warmupSteps > 0 || config.warmupRatio > 0)) {
    const key = config.warmupSteps > 0 ? "warmup_steps" : "warmup_ratio";
    return [`${key} is not used: lr_scheduler_type constant has no warm-up; constant_with_warmup has`];
  }
  if (config.warmupSteps > 0 && config.warmupRatio > 0) {
    return [`warmup_ratio ${config.warmupRatio} is not used: warmup_steps ${config.warmupSteps} goes before`];
  }
  if (steps !== null && config.warmupSteps >= steps) {
    return [`warmup_steps ${config.warmupSteps} of max_steps ${steps}: the learning rate never reaches its peak`];
  }
  return [];
}

function evaluationRemarks(
  config: Pick<TrainConfig, "evalDataset" | "dataset" | "model" | "evalNumGenerations" | "evalTemperature">,
  given: ReadonlySet<string>,
): string[] {
  if (config.evalNumGenerations > 1 && config.evalTemperature === 0) {
    throw new InputError(
      `eval_num_generations ${config.evalNumGenerations} at eval_temperature 0: all answers would be the same; raise eval_temperature`,
    );
  }
  const bundled = config.dataset === null;
  if (config.evalDataset !== null || bundled) return [];
  const keys = ["eval_steps", "eval_samples", "eval_split", "eval_num_generations", "eval_temperature"];
  return unusedRemark(given, keys, "there is no eval_dataset");
}
