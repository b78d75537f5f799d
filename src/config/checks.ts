/** Settings that contradict each other, refused with the cure. What is legal but probably not intended is in remarks.ts. */
import { existsSync } from "node:fs";
import { InputError } from "../errors.ts";
import { Faults } from "./faults.ts";
import { foreignReward } from "./reward-names.ts";
import { scheduleShape } from "./schedules.ts";
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

/** Runs a check unless one of the settings it looks at is refused already, and takes its refusal. */
export type Attempt = (keys: readonly string[], check: () => void) => void;

interface Check<C> {
  /** The settings it looks at. */
  readonly keys: readonly string[];
  /** @throws InputError where they contradict each other */
  readonly check: (config: C) => void;
}

const output: Check<TrainConfig | SftConfig | UpdateConfig> = {
  keys: ["overwrite", "resume_from_checkpoint"],
  check: checkOutput,
};
const clipping: Check<TrainConfig | UpdateConfig> = { keys: ["delta", "epsilon"], check: checkClipping };
const entropy: Check<TrainConfig | UpdateConfig> = {
  keys: ["use_adaptive_entropy", "entropy_coef_min", "entropy_coef_max"],
  check: checkEntropy,
};
const schedule: Check<OptimizerConfig> = {
  keys: ["lr_scheduler_type", "lr_scheduler_kwargs", "learning_rate"],
  check: (config) => scheduleShape(config.lrSchedulerType, config.lrSchedulerKwargs ?? {}, config.learningRate),
};
const evaluation: Check<TrainConfig | SftConfig> = {
  keys: ["eval_num_generations", "eval_temperature"],
  check: checkEvaluation,
};
const rewardNames: Check<TrainConfig | EvalConfig> = { keys: ["reward_funcs"], check: checkRewardNames };
const rewardKeys = ["reward_funcs", "reward_weights", "soft_punish_cache", "max_completion_length"];
const bestKeys = [
  "load_best_model_at_end",
  "metric_for_best_model",
  "early_stopping_patience",
  "eval_dataset",
  "eval_steps",
];

const batchKeys = [
  "per_device_train_batch_size",
  "gradient_accumulation_steps",
  "num_generations",
  "steps_per_generation",
];

const adapters: Check<AdapterConfigSettings & { readonly loadIn4bit: boolean }> = {
  keys: ["use_peft", "lora_dropout", "load_in_4bit"],
  check({ usePeft, loraDropout, loadIn4bit }) {
    if (loadIn4bit && !usePeft)
      throw new InputError(
        "load_in_4bit: weights in 4 bits are not trained; set use_peft, which trains adapters beside them, or leave load_in_4bit out",
      );
    if (usePeft && loraDropout > 0)
      throw new InputError(
        `lora_dropout ${loraDropout}: must be 0, since dropout would train another model than the one that samples; leave it out`,
      );
  },
};
const movingReference: Check<TrainConfig> = {
  keys: ["use_peft", "sync_ref_model"],
  check({ usePeft, syncRefModel }) {
    if (usePeft && syncRefModel)
      throw new InputError(
        "sync_ref_model: with use_peft the reference is the policy without its adapters, which cannot move; leave one of them out",
      );
  },
};

const training: readonly Check<TrainConfig>[] = [
  adapters,
  movingReference,
  { keys: batchKeys, check: checkBatch },
  rewardNames,
  { keys: rewardKeys, check: checkRewards },
  { keys: ["num_generations", "dynamic_sampling_probe"], check: checkDynamicSampling },
  output,
  { keys: bestKeys, check: (config) => checkBestModel(config, config.dataset === null) },
  clipping,
  entropy,
  schedule,
  evaluation,
];

const checks: { readonly [C in CommandName]: readonly Check<ConfigOf<C>>[] } = {
  train: training,
  plan: training,
  update: [adapters, output, clipping, entropy, schedule],
  sft: [
    adapters,
    output,
    { keys: bestKeys, check: (config) => checkBestModel(config, false) },
    { keys: ["verifier", "eval_dataset"], check: checkSupervisedJudge },
    schedule,
    evaluation,
  ],
  eval: [
    { keys: ["pass_at_k", "num_generations"], check: checkPassAtK },
    rewardNames,
    { keys: [...rewardKeys, "verifier"], check: checkEvalRewards },
  ],
  generate: [{ keys: ["prompt", "input"], check: checkPrompt }],
  score: [],
};

/**
 * @param config the complete settings of `command`, each checked by itself
 * @param attempt takes the refusals
 */
export function checkTogether<C extends CommandName>(command: C, config: ConfigOf<C>, attempt: Attempt): void {
  for (const { keys, check } of checks[command]) attempt(keys, () => check(config));
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
        `${perGeneration === null ? "gradient_accumulation_steps" : "steps_per_generation"} ${factor} = ${batch} ` +
        `completions per generation is not a multiple of num_generations ${group}; choose a product of ${near}`,
    );
  }
  const accumulated = config.gradientAccumulationSteps;
  if (perGeneration !== null && perGeneration % accumulated !== 0) {
    const next = Math.ceil(perGeneration / accumulated) * accumulated;
    // TRL takes this too; the weights stay the same while gradients accumulate.
    const cure =
      accumulated % perGeneration === 0
        ? `use ${accumulated}: the generations of a step become one, sampled by the same weights`
        : `the weights change once per step, so a generation must serve whole steps; use ${next}`;
    throw new InputError(
      `steps_per_generation ${perGeneration} is not a multiple of gradient_accumulation_steps ${accumulated}; ${cure}`,
    );
  }
}

function checkRewardNames({ rewardFuncs }: TrainConfig | EvalConfig): void {
  const faults = new Faults();
  for (const name of rewardFuncs ?? []) {
    const why = foreignReward(name);
    if (why !== undefined && !existsSync(name)) faults.add(`reward_funcs: ${name}: ${why}`);
  }
  faults.throwAny();
}

/** An evaluation of `sft` has nothing but the verifier to judge by. */
function checkSupervisedJudge({ verifier, evalDataset }: SftConfig): void {
  if (verifier === "none" && evalDataset !== null)
    throw new InputError(
      "verifier none: sft has no reward functions, so nothing would judge eval_dataset; leave verifier out",
    );
}

function checkEvalRewards(config: EvalConfig): void {
  if (config.rewardFuncs !== null) {
    checkRewards(config);
    return;
  }
  if (config.rewardWeights !== null) throw new InputError("reward_weights: there are no reward_funcs to weight");
  if (config.verifier === "none")
    throw new InputError("verifier none and no reward_funcs: nothing would judge the answers; set one of them");
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
  if (twice !== undefined) throw new InputError(`reward_funcs: ${twice} is listed twice; use reward_weights`);
  const { softPunishCache: cache, softPunishMaxLen, maxCompletionLength } = config;
  const longest = softPunishMaxLen ?? maxCompletionLength;
  if (cache !== null && cache > longest) {
    const limit = softPunishMaxLen === null ? "max_completion_length" : "soft_punish_max_len";
    throw new InputError(
      `soft_punish_cache ${cache}: exceeds ${limit} ${longest}, so every length is punished; lower it`,
    );
  }
}

function checkDynamicSampling({ dynamicSampling, dynamicSamplingProbe: probe, numGenerations }: TrainConfig): void {
  if (!dynamicSampling) return;
  if (numGenerations < 2)
    throw new InputError("dynamic_sampling: a group of one completion never has signal; raise num_generations");
  if (probe !== null && probe >= numGenerations)
    throw new InputError(
      `dynamic_sampling_probe ${probe}: must be less than num_generations ${numGenerations}; lower it or leave it out`,
    );
}

function checkOutput({ overwrite, resumeFromCheckpoint }: TrainConfig | SftConfig | UpdateConfig): void {
  if (overwrite && resumeFromCheckpoint !== null)
    throw new InputError("overwrite starts anew and resume_from_checkpoint resumes: use only one of them");
}

/** The setting that asks which evaluation is the best; undefined: none does. */
export function bestModelKey(config: TrainConfig | SftConfig): string | undefined {
  if (config.loadBestModelAtEnd) return "load_best_model_at_end";
  if (config.earlyStoppingPatience !== null) return "early_stopping_patience";
  return config.metricForBestModel === null ? undefined : "metric_for_best_model";
}

/** @param bundled whether there is something to evaluate on without an eval_dataset */
function checkBestModel(config: TrainConfig | SftConfig, bundled: boolean): void {
  const key = bestModelKey(config);
  if (key === undefined) return;
  if (config.evalDataset === null && !bundled)
    throw new InputError(`${key} needs evaluations: set eval_dataset and eval_steps`);
  // The bundled run evaluates by itself.
  if (config.evalSteps === null && !(bundled && config.model === null))
    throw new InputError(`${key} needs evaluations during the run: set eval_steps`);
  if (/^(eval_)?loss$/.test(config.metricForBestModel ?? ""))
    throw new InputError(
      `metric_for_best_model ${config.metricForBestModel}: an evaluation samples answers and has no loss; ` +
        "use eval_reward or eval_accuracy",
    );
}

function checkPassAtK({ passAtK, numGenerations }: EvalConfig): void {
  const tooMany = passAtK?.find((k) => k > numGenerations);
  if (tooMany !== undefined)
    throw new InputError(`pass_at_k ${tooMany}: exceeds num_generations ${numGenerations}; raise num_generations`);
}

function checkPrompt({ prompt, input }: GenerateConfig): void {
  if (prompt === null && input === null) throw new InputError("give --prompt TEXT or --input FILE.jsonl");
  if (prompt !== null && input !== null) throw new InputError("--prompt and --input: use only one of them");
}

function checkClipping({ delta, epsilon }: TrainConfig | UpdateConfig): void {
  if (delta !== null && delta <= 1 + epsilon)
    throw new InputError(
      `delta ${delta}: must be greater than 1 + epsilon = ${1 + epsilon}, or clipping never applies; ` +
        "raise delta or leave it out",
    );
}

function checkEntropy({ useAdaptiveEntropy, entropyCoefMin, entropyCoefMax }: TrainConfig | UpdateConfig): void {
  if (useAdaptiveEntropy && entropyCoefMin > entropyCoefMax)
    throw new InputError(
      `entropy_coef_min ${entropyCoefMin} is greater than entropy_coef_max ${entropyCoefMax}; swap them`,
    );
}

function checkEvaluation({ evalNumGenerations, evalTemperature }: TrainConfig | SftConfig): void {
  if (evalNumGenerations > 1 && evalTemperature === 0)
    throw new InputError(
      `eval_num_generations ${evalNumGenerations} at eval_temperature 0: all answers would be the same; ` +
        "raise eval_temperature",
    );
}
