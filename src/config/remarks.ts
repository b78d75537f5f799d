/** Settings that are legal but probably not intended: a line each. Contradictions, which are refused, are in checks.ts. */
import { bestModelKey } from "./checks.ts";
import type {
  AdapterConfigSettings,
  CommandName,
  ConfigOf,
  EvalConfig,
  GenerateConfig,
  OptimizerConfig,
  SftConfig,
  TrainConfig,
  UpdateConfig,
} from "./schema.ts";
import { adapterSettings } from "./settings/adapters.ts";
import { rewardFunctionSettings } from "./settings/rewards.ts";

type Given = ReadonlySet<string>;
type Remark<C> = (config: C, given: Given) => readonly string[];

/** Settings that do nothing: a remark on the first of them that was given. */
interface Idle<C> {
  readonly keys: readonly string[];
  readonly unless: (config: C) => boolean;
  readonly why: string | ((config: C) => string);
}

const idleWithoutAdapters: Idle<AdapterConfigSettings> = {
  keys: Object.keys(adapterSettings).filter((key) => key !== "use_peft"),
  unless: ({ usePeft }) => usePeft,
  why: "use_peft is false",
};

const idleInUpdate: readonly Idle<TrainConfig | UpdateConfig>[] = [
  idleWithoutAdapters,
  {
    keys: ["scale_rewards", "multi_objective_aggregation"],
    unless: ({ advantageEstimator }) => advantageEstimator === "grpo",
    why: ({ advantageEstimator }) => `advantage_estimator ${advantageEstimator} has its own scale`,
  },
  {
    keys: ["gamma"],
    unless: ({ advantageEstimator }) => advantageEstimator !== "grpo" && advantageEstimator !== "rloo",
    why: ({ advantageEstimator }) => `advantage_estimator ${advantageEstimator} has one advantage for all tokens`,
  },
  {
    keys: ["critic_model", "critic_learning_rate", "lam", "whiten_advantages", "cliprange_value", "vf_coef"],
    unless: ({ advantageEstimator }) => advantageEstimator === "gae",
    why: ({ advantageEstimator }) => `advantage_estimator ${advantageEstimator} has no critic`,
  },
  {
    keys: ["use_bias_correction_kl", "kl_estimator"],
    unless: ({ useKlInReward, beta }) => !useKlInReward || beta === 0,
    why: "use_kl_in_reward leaves no KL in the loss",
  },
  {
    keys: ["kl_in_reward_estimator"],
    unless: ({ useKlInReward }) => useKlInReward,
    why: "use_kl_in_reward is false",
  },
  {
    keys: ["entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"],
    unless: ({ useAdaptiveEntropy }) => useAdaptiveEntropy,
    why: "use_adaptive_entropy is false",
  },
  { keys: ["ref_model"], unless: ({ beta }) => beta !== 0, why: "beta is 0" },
  {
    keys: ["importance_sampling_mode", "importance_sampling_clip_max", "importance_sampling_clip_min"],
    unless: ({ importanceSamplingCorrection }) => importanceSamplingCorrection,
    why: "importance_sampling_correction is false",
  },
];

const evaluationKeys = ["eval_steps", "eval_samples", "eval_split", "eval_num_generations", "eval_temperature"];

const idleWithoutPush: Idle<TrainConfig | SftConfig> = {
  keys: ["hub_model_id", "hub_strategy", "hub_private_repo", "hub_revision", "hub_token"],
  unless: ({ pushToHub }) => pushToHub,
  why: "push_to_hub is false",
};

const idleWithoutBest: readonly Idle<TrainConfig | SftConfig>[] = [
  {
    keys: ["greater_is_better"],
    unless: (config) => bestModelKey(config) !== undefined,
    why: "there is no metric_for_best_model",
  },
  {
    keys: ["early_stopping_threshold"],
    unless: ({ earlyStoppingPatience }) => earlyStoppingPatience !== null,
    why: "there is no early_stopping_patience",
  },
];

/** The parameters of a built-in reward that is not among the functions. */
const idleParameters = (reward: string, keys: RegExp, ...names: readonly string[]): Idle<TrainConfig> => ({
  keys: Object.keys(rewardFunctionSettings).filter((key) => keys.test(key)),
  unless: ({ rewardFuncs }) => [reward, ...names].some((name) => rewardFuncs?.includes(name)),
  why: `reward_funcs has no ${reward}`,
});

const idleInTraining: readonly Idle<TrainConfig>[] = [
  ...idleInUpdate,
  idleParameters("cosine", /^cosine_/),
  idleParameters("repetition", /^repetition_/),
  idleParameters("soft_overlong", /^soft_punish_/, "get_soft_overlong_punishment"),
  {
    keys: ["max_batches", "ahead", "probe", "reward"].map((name) => `dynamic_sampling_${name}`),
    unless: ({ dynamicSampling }) => dynamicSampling,
    why: "dynamic_sampling is false",
  },
  {
    keys: ["ref_model_mixup_alpha", "ref_model_sync_steps"],
    unless: ({ syncRefModel }) => syncRefModel,
    why: "sync_ref_model is false",
  },
  {
    keys: evaluationKeys,
    // The bundled problems are evaluated without one.
    unless: ({ evalDataset, dataset }) => evalDataset !== null || dataset === null,
    why: "there is no eval_dataset",
  },
  ...idleWithoutBest,
  idleWithoutPush,
];

const idleInSft: readonly Idle<SftConfig>[] = [
  idleWithoutAdapters,
  { keys: evaluationKeys, unless: ({ evalDataset }) => evalDataset !== null, why: "there is no eval_dataset" },
  ...idleWithoutBest,
  idleWithoutPush,
];

const unused =
  <C>(table: readonly Idle<C>[]): Remark<C> =>
  (config, given) =>
    table.flatMap(({ keys, unless, why }) => {
      const key = keys.find((name) => given.has(name));
      if (key === undefined || unless(config)) return [];
      return [`${key} is not used: ${typeof why === "string" ? why : why(config)}`];
    });

const training: readonly Remark<TrainConfig>[] = [
  groupRemarks,
  stopRemarks,
  klRemarks,
  lossRemarks,
  (config) => scheduleRemarks(config, config.maxSteps),
  unused(idleInTraining),
];

const remarks: { readonly [C in CommandName]: readonly Remark<ConfigOf<C>>[] } = {
  train: training,
  plan: training,
  update: [klRemarks, lossRemarks, (config) => scheduleRemarks(config, null), unused(idleInUpdate)],
  sft: [stopRemarks, (config) => scheduleRemarks(config, config.maxSteps), unused(idleInSft)],
  eval: [repeatRemarks, stopRemarks],
  generate: [repeatRemarks, stopRemarks, chatRemarks],
  score: [],
};

/**
 * @param config the complete settings of `command`, which nothing contradicts
 * @param given keys in snake_case that the user wrote
 */
export function remarksOn<C extends CommandName>(command: C, config: ConfigOf<C>, given: Given): string[] {
  return remarks[command].flatMap((remark) => remark(config, given));
}

function repeatRemarks({ numGenerations, temperature }: EvalConfig | GenerateConfig): string[] {
  if (numGenerations === 1 || temperature > 0) return [];
  return [`num_generations ${numGenerations} at temperature 0 gives the same answer every time; try --temperature 1`];
}

/** Memory is planned for the prompts where they are known. */
function chatRemarks(_: GenerateConfig, given: Given): string[] {
  if (!given.has("max_model_length") || !(given.has("prompt") || given.has("input"))) return [];
  return ["max_model_length is not used: memory is planned for the prompts that are given"];
}

/** A shell passes "\\n" on as two characters, and no text contains them by chance. */
function stopRemarks({ stop }: Pick<TrainConfig, "stop">): string[] {
  const escaped = stop?.find((text) => /\\[nrt]/.test(text));
  if (escaped === undefined) return [];
  return [
    `stop ${JSON.stringify(escaped)}: taken literally, a backslash and a letter; for a line break use a JSON list, '["\\n"]'`,
  ];
}

function groupRemarks({ numGenerations: group, advantageEstimator: estimator }: TrainConfig): string[] {
  // These two take no baseline from the group.
  if (estimator === "gae" || estimator === "reinforce_plus_plus") return [];
  if (group === 1)
    return ["num_generations 1: a group of one is its own baseline, so every advantage is 0 and nothing is learned"];
  // RLOO's paper has groups of 2 and 4.
  if (group < 8 && estimator !== "rloo")
    return [`num_generations ${group}: a small group is a noisy baseline; 16 or more is usual`];
  return [];
}

function klRemarks({ useKlInReward, beta }: TrainConfig | UpdateConfig): string[] {
  return useKlInReward && beta === 0 ? ["use_kl_in_reward changes nothing: beta is 0"] : [];
}

function lossRemarks(config: TrainConfig | UpdateConfig, given: Given): string[] {
  const { lossType, importanceSamplingLevel: level } = config;
  const high = config.epsilonHigh ?? config.epsilon;
  const found: string[] = [];
  if (lossType === "cispo" && high < 1)
    found.push(
      `loss_type cispo caps the ratio itself at epsilon_high, here ${high}: on-policy tokens are scaled down; 5 is usual`,
    );
  if (lossType === "luspo" && level === "token")
    found.push("loss_type luspo is defined with importance_sampling_level sequence; here it is token");
  if (["cispo", "sapo", "vespo"].includes(lossType)) return found;
  if (level === "token" && high < 0.01)
    found.push(
      `epsilon ${high} suits sequence ratios (GSPO), but importance_sampling_level is token: nearly every token will be ` +
        "clipped after the first step",
    );
  if (level === "sequence" && given.has("importance_sampling_level") && high >= 0.1)
    found.push(
      `importance_sampling_level sequence with epsilon ${high}: a sequence's mean ratio hardly ever moves that far, so ` +
        "nothing is clipped; GSPO uses 3e-4, and 4e-4 for epsilon_high",
    );
  return found;
}

function scheduleRemarks(config: OptimizerConfig, steps: number | null): string[] {
  const { lrSchedulerType: type, warmupSteps, warmupRatio } = config;
  if (type === "constant" && (warmupSteps > 0 || warmupRatio > 0)) {
    const key = warmupSteps > 0 ? "warmup_steps" : "warmup_ratio";
    return [`${key} is not used: lr_scheduler_type constant has no warm-up; use constant_with_warmup`];
  }
  if (warmupSteps > 0 && warmupRatio > 0)
    return [`warmup_ratio ${warmupRatio} is not used: warmup_steps ${warmupSteps} overrides it`];
  if (steps !== null && warmupSteps >= steps)
    return [`warmup_steps ${warmupSteps} of max_steps ${steps}: the learning rate never reaches its peak`];
  return [];
}
