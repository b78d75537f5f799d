/**
 * From the settings of a training run to everything it needs, planned but not yet allocated: device, problems,
 * tokenizer, batch shape and memory. `grpo plan` stops here; the trainer goes on.
 */

import { readModelConfig } from "../checkpoint/huggingface.ts";
import type { TrainConfig } from "../config/schema.ts";
import type { Device } from "../device/device.ts";
import { InputError } from "../errors.ts";
import { maxMicroBatchTokens } from "../model/micro-batches.ts";
import { parseRewardSpec } from "../rewards/specs.ts";
import { modelFolder, openRunDevice, packedSizes, rolloutLimits } from "../run/inputs.ts";
import { openProblems, type ProblemSource } from "../run/prompts.ts";
import { savedReference } from "../session/checkpointing.ts";
import { rewardSequenceLimit } from "../session/reward-model.ts";
import type { RewardModelRequest } from "../session/scalar-models.ts";
import { type PlannedSession, planSession } from "../session/session.ts";
import { loadTokenizer, readChatTemplate, type Tokenizer } from "../tokenizer/tokenizer.ts";

/** What a step is made of, by TRL's rules. */
export interface BatchShape {
  /** Completions of one optimizer step; it may hold a part of a group. */
  readonly stepCompletions: number;
  /** Completions sampled at once, and the prompts they belong to. */
  readonly generationCompletions: number;
  readonly generationPrompts: number;
  /** Optimizer steps that one generation serves, iterations included. */
  readonly stepsPerGeneration: number;
}

/** @throws InputError when the batch cannot be cut into groups */
export function batchShape(config: TrainConfig): BatchShape {
  const { perDeviceTrainBatchSize, gradientAccumulationSteps, numGenerations, numIterations } = config;
  const stepCompletions = perDeviceTrainBatchSize * gradientAccumulationSteps;
  const stepsPerGeneration = config.stepsPerGeneration ?? gradientAccumulationSteps;
  const generationCompletions = perDeviceTrainBatchSize * stepsPerGeneration;
  if (generationCompletions % numGenerations !== 0 || generationCompletions % stepCompletions !== 0)
    throw new InputError(
      `a generation has ${generationCompletions} completions: it must be a multiple of num_generations (${numGenerations}), and of the ${stepCompletions} completions of a step, per_device_train_batch_size × gradient_accumulation_steps`,
    );
  return {
    stepCompletions,
    generationCompletions,
    generationPrompts: generationCompletions / numGenerations,
    stepsPerGeneration: (generationCompletions / stepCompletions) * numIterations,
  };
}

export interface TrainingSetup {
  readonly config: TrainConfig;
  readonly device: Device;
  /** Folder of the model that training starts from, which is also the reference's by default. */
  readonly startFolder: string;
  readonly tokenizer: Tokenizer;
  readonly problems: ProblemSource;
  readonly evalProblems: ProblemSource | null;
  readonly batch: BatchShape;
  /** Longest prompt the plan holds; rows beyond it are skipped and counted. */
  readonly longestPrompt: number;
  readonly planned: PlannedSession;
  close(): void;
}

/** The reward models of `reward_funcs`, in order, for `sequences` at a time of at most `longest` of the policy's tokens. */
export async function rewardModels(
  config: Pick<TrainConfig, "rewardFuncs" | "microBatchTokens">,
  longest: number,
  sequences: number,
): Promise<RewardModelRequest[]> {
  const requests: RewardModelRequest[] = [];
  for (const name of config.rewardFuncs ?? []) {
    const spec = parseRewardSpec(name);
    if (typeof spec === "string" || !("model" in spec)) continue;
    const folder = await modelFolder(spec.model);
    const { microBatchTokens } = config;
    requests.push({ folder, longest: rewardSequenceLimit(folder, longest), microBatchTokens, sequences });
  }
  return requests;
}

/** Folder of the reference; null where the KL has no weight. */
async function referenceFolder(config: TrainConfig, startFolder: string, checkpoint: string | null) {
  if (config.beta === 0) return null;
  if (config.syncRefModel && checkpoint !== null) return savedReference(checkpoint);
  return config.refModel === null ? startFolder : await modelFolder(config.refModel);
}

/**
 * Plans a training run.
 *
 * @param weightsFolder where the policy's weights come from: the start model, or the checkpoint to go on from
 * @throws InputError for anything wrong with model, data or settings
 */
export async function setUpTraining(
  config: TrainConfig,
  paths: { readonly model: string; readonly dataset: string; readonly evalDataset: string | null },
  note: (text: string) => void,
  weightsFolder: string | null = null,
): Promise<TrainingSetup> {
  const startFolder = await modelFolder(paths.model);
  const modelConfig = readModelConfig(startFolder);
  const batch = batchShape(config);
  const chatTemplate = readChatTemplate(config.chatTemplate);
  const tokenizer = loadTokenizer(startFolder, chatTemplate);
  const { maxCompletionLength, promptColumn, answerColumn, chatTemplateKwargs } = config;
  const shared = { promptColumn, answerColumn, chatTemplateKwargs, systemPrompt: config.systemPrompt ?? undefined };
  const problems = await openProblems(tokenizer, {
    ...shared,
    path: paths.dataset,
    config: config.datasetConfig,
    split: config.datasetSplit,
  });
  const evalProblems =
    paths.evalDataset === null
      ? null
      : await openProblems(tokenizer, {
          ...shared,
          path: paths.evalDataset,
          config: paths.evalDataset === paths.dataset ? config.datasetConfig : null,
          split: config.evalSplit,
        });
  const context = modelConfig.maxPositionEmbeddings;
  if (maxCompletionLength >= context)
    throw new InputError(
      `max_completion_length ${maxCompletionLength}: the model's context is ${context} tokens; lower it`,
    );
  const longest = Math.max(problems.longestPrompt(), evalProblems?.longestPrompt() ?? 1);
  const longestPrompt = Math.min(longest, context - maxCompletionLength);
  const device = await openRunDevice(config, note);
  const tokens = maxMicroBatchTokens({
    budget: config.microBatchTokens,
    longestPrompt,
    longestCompletion: maxCompletionLength,
    // A generation and not a step: the reference scores all of it at once.
    groups: batch.generationPrompts,
    completions: batch.generationCompletions,
  });
  const planned = planSession({
    device,
    folder: weightsFolder ?? startFolder,
    assets: startFolder,
    chatTemplate,
    dtype: config.dtype,
    packed: packedSizes(device, modelConfig, tokens, longestPrompt),
    training: true,
    reference: await referenceFolder(config, startFolder, weightsFolder),
    movingReference: config.syncRefModel,
    critic:
      config.advantageEstimator === "gae"
        ? {
            folder: config.criticModel === null ? startFolder : await modelFolder(config.criticModel),
            resumeFrom: weightsFolder,
          }
        : null,
    rewardModels: await rewardModels(config, longestPrompt + maxCompletionLength, batch.generationCompletions),
    scoringDuringRollout: config.dynamicSampling,
    rollout: rolloutLimits({
      maxConcurrentSequences: config.maxConcurrentSequences,
      completions: batch.generationCompletions,
      samples: config.numGenerations,
      evaluates: evalProblems !== null,
      longestPrompt,
      maxCompletion: maxCompletionLength,
      repetitionPenalty: config.repetitionPenalty,
    }),
    positions: longestPrompt + maxCompletionLength,
  });
  return {
    config,
    device,
    startFolder,
    tokenizer,
    problems,
    evalProblems,
    batch,
    longestPrompt,
    planned,
    close() {
      planned.close();
      problems.close();
      evalProblems?.close();
      device.close();
    },
  };
}

/** Steps of the whole run, by `max_steps` or by passes over the data. */
export function totalSteps({ config, problems, batch }: TrainingSetup): number {
  if (config.maxSteps !== null) return config.maxSteps;
  const generations = Math.floor((problems.dataset.numRows * config.numTrainEpochs) / batch.generationPrompts);
  return Math.max(1, generations) * batch.stepsPerGeneration;
}
