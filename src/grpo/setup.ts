/**
 * Turns a training run's settings into everything it needs, planned but not yet allocated: device, problems, tokenizer,
 * batch shape and memory. `grpo plan` stops here; the trainer continues.
 */

import { baseNameOf, isAdapterFolder } from "../checkpoint/adapter.ts";
import { resolveModel } from "../checkpoint/hub.ts";
import { type ModelFolder, placesOf, readModelConfig } from "../checkpoint/huggingface.ts";
import { createClosers } from "../closing.ts";
import type { TrainConfig } from "../config/schema.ts";
import type { Device } from "../device/device.ts";
import { InputError } from "../errors.ts";
import { auxLossCoef } from "../model/expert-load.ts";
import { maxMicroBatchTokens } from "../model/micro-batches.ts";
import { type Ranks, solo, type Team } from "../ranks/ranks.ts";
import { parseRewardSpec } from "../rewards/specs.ts";
import type { RolloutLimits } from "../rollout/buffers.ts";
import { type OnDevice, onDevice, openTeamDevice } from "../run/device.ts";
import { openTrainingProblems, type ProblemSource } from "../run/prompts.ts";
import { rolloutLimits } from "../run/rollout-limits.ts";
import { trainedAdapters } from "../session/adapters.ts";
import { type ModelAssets, savedReference } from "../session/checkpointing.ts";
import { type CriticRequest, planCritic } from "../session/critic.ts";
import type { HeldCompletions } from "../session/memory.ts";
import { loadModelTokenizer } from "../session/model-tokenizer.ts";
import { planPolicy, planSampling, planTraining } from "../session/policy.ts";
import { openReference, planReference, referenceWithoutAdapters } from "../session/reference.ts";
import { planRewardModels, type RewardModelRequest, rewardSequenceLimit } from "../session/reward-model.ts";
import { type PlannedSession, planSession, type Session } from "../session/session.ts";
import type { SessionPlan } from "../session/tenant.ts";
import { readChatTemplate, type Tokenizer } from "../tokenizer/tokenizer.ts";

/** Says what takes long: a download, a conversion. */
type Note = (text: string) => void;

/** The sizes of steps and generations, by TRL's rules. */
interface BatchShape {
  /** Completions of one optimizer step; it may hold a part of a group. */
  readonly stepCompletions: number;
  /** Completions sampled at once, and their prompts. */
  readonly generationCompletions: number;
  readonly generationPrompts: number;
  /** Optimizer steps that one generation serves, iterations included. */
  readonly stepsPerGeneration: number;
}

/**
 * @param devices that each compute `per_device_train_batch_size` completions
 * @throws InputError when the batch cannot be cut into groups
 */
function batchShape(config: TrainConfig, devices: number): BatchShape {
  const { perDeviceTrainBatchSize, gradientAccumulationSteps, numGenerations, numIterations } = config;
  const stepCompletions = perDeviceTrainBatchSize * gradientAccumulationSteps * devices;
  const stepsPerGeneration = config.stepsPerGeneration ?? gradientAccumulationSteps;
  const generationCompletions = perDeviceTrainBatchSize * stepsPerGeneration * devices;
  if (generationCompletions % numGenerations !== 0 || generationCompletions % stepCompletions !== 0)
    throw new InputError(
      `a generation has ${generationCompletions} completions: it must be a multiple of num_generations (${numGenerations}), and of the ${stepCompletions} completions of a step, per_device_train_batch_size × gradient_accumulation_steps${devices > 1 ? ` × ${devices} ranks` : ""}`,
    );
  return {
    stepCompletions,
    generationCompletions,
    generationPrompts: generationCompletions / numGenerations,
    stepsPerGeneration: (generationCompletions / stepCompletions) * numIterations,
  };
}

/** A run's models and sizes, from which memory is planned. */
interface TrainingModels {
  /** Folder of the policy's weights. */
  readonly folder: string;
  /** Of the model that training starts from. */
  readonly startFolder: string;
  readonly reference: string | null;
  readonly critic: CriticRequest | null;
  readonly rewardModels: readonly RewardModelRequest[];
  readonly rollout: RolloutLimits;
  /** Tokens of the largest packed pass. */
  readonly tokens: number;
  /** Completions of a generation, all of which each rank holds. */
  readonly generation: HeldCompletions;
}

/** The policy's folder; a checkpoint's adapters belong to the model that the run started from. */
function openPolicy(plan: SessionPlan, { folder, startFolder }: TrainingModels): ModelFolder {
  return plan.folder(folder, "lm", placesOf(startFolder).config);
}

/** Plans the tenants of a training session. */
function planTenants(plan: SessionPlan, config: TrainConfig, models: TrainingModels, { division }: Team) {
  const { longestPrompt, maxCompletion } = models.rollout;
  const sizes = { tokens: models.tokens, longestPrompt };
  const from = openPolicy(plan, models);
  const adapters = trainedAdapters(from, config, models.folder !== models.startFolder);
  const isOwn = adapters !== null && models.reference === models.startFolder && !isAdapterFolder(models.startFolder);
  const referenceFrom =
    models.reference === null || isOwn ? null : openReference(plan, models.reference, from, config.syncRefModel);
  const model = planPolicy(plan, from, {
    ...{ dtype: config.dtype, positions: longestPrompt + maxCompletion, adapters, fourBit: config.loadIn4bit },
  });
  const reference = isOwn
    ? referenceWithoutAdapters(model)
    : referenceFrom && planReference(plan, referenceFrom, model);
  const policy = planTraining(plan, model, sizes, config.gradientCheckpointing, division, config);
  const rollout = planSampling(plan, model, models.rollout);
  plan.holds(models.generation);
  const critic =
    models.critic && planCritic(plan, models.critic, model, sizes, config.gradientCheckpointing, division, config);
  const rewardModels = planRewardModels(plan, models.rewardModels, {
    dtype: config.dtype,
    duringRollout: config.dynamicSampling,
  });
  return { policy, reference, rollout, critic, rewardModels };
}

type TrainingTenants = ReturnType<typeof planTenants>;
export type TrainingSession = Session<TrainingTenants>;

export interface TrainingPaths {
  readonly model: string;
  readonly dataset: string;
  readonly evalDataset: string | null;
}

export interface TrainingSetup {
  readonly config: OnDevice<TrainConfig>;
  readonly device: Device;
  /** Folder of the model that training starts from, which is also the reference's by default. */
  readonly startFolder: string;
  readonly tokenizer: Tokenizer;
  readonly problems: ProblemSource;
  readonly evalProblems: ProblemSource | null;
  readonly batch: BatchShape;
  readonly team: Team;
  /** Longest prompt that the plan has room for; longer rows are skipped and counted. */
  readonly longestPrompt: number;
  readonly planned: PlannedSession<TrainingTenants>;
  /** Saved with the weights. */
  readonly assets: ModelAssets;
  close(): void;
}

/**
 * The reward models of `reward_funcs`, in order; each scores `sequences` at a time of up to `longest` policy tokens.
 */
export async function rewardModels(
  config: Pick<OnDevice<TrainConfig>, "rewardFuncs" | "microBatchTokens">,
  longest: number,
  sequences: number,
  note: Note,
): Promise<RewardModelRequest[]> {
  const requests: RewardModelRequest[] = [];
  for (const name of config.rewardFuncs ?? []) {
    const spec = parseRewardSpec(name);
    if (typeof spec === "string" || !("model" in spec)) continue;
    const folder = await resolveModel(spec.model, { note });
    const { microBatchTokens } = config;
    requests.push({ folder, longest: rewardSequenceLimit(folder, longest), microBatchTokens, sequences });
  }
  return requests;
}

/** The reference's folder; null if the KL has no weight. */
async function referenceFolder(config: TrainConfig, startFolder: string, checkpoint: string | null, note: Note) {
  if (config.beta === 0) return null;
  if (config.syncRefModel && checkpoint !== null) return savedReference(checkpoint);
  return config.refModel === null ? startFolder : await resolveModel(config.refModel, { note });
}

/**
 * Plans a training run.
 *
 * @param weightsFolder the checkpoint to resume from, whose weights the policy takes; null: the start model's
 * @param team the ranks that train; this process alone by default
 * @throws InputError for anything wrong with model, data or settings
 */
export async function setUpTraining(
  config: TrainConfig,
  paths: TrainingPaths,
  note: Note,
  weightsFolder: string | null = null,
  team: Team = solo(),
): Promise<TrainingSetup> {
  const startFolder = await resolveModel(paths.model, { revision: config.modelRevision, note });
  const modelConfig = readModelConfig(startFolder);
  auxLossCoef(modelConfig, config.routerAuxLossCoef, paths.model);
  const batch = batchShape(config, team.devices);
  const chatTemplate = readChatTemplate(config.chatTemplate);
  const tokenizer = loadModelTokenizer(startFolder, chatTemplate);
  const open = createClosers();
  try {
    const { problems, evalProblems } = await openTrainingProblems(tokenizer, paths, config, note);
    open.add(problems);
    if (evalProblems) open.add(evalProblems);
    const { maxCompletionLength } = config;
    const context = modelConfig.maxPositionEmbeddings;
    if (maxCompletionLength >= context)
      throw new InputError(
        `max_completion_length ${maxCompletionLength}: the model's context is ${context} tokens; lower it`,
      );
    const longest = Math.max(problems.longestPrompt(), evalProblems?.longestPrompt() ?? 1);
    const longestPrompt = Math.min(longest, context - maxCompletionLength);
    const device = open.add(await openTeamDevice(config, team, note));
    const settled = onDevice(config, device);
    const sizes = { longestPrompt, evaluates: evalProblems !== null, ranks: team.ranks };
    const models = await trainingModels(settled, { startFolder, weightsFolder }, batch, sizes, note);
    const named = { name: paths.model, revision: config.modelRevision };
    const base = baseNameOf(startFolder, named);
    const criticBase = models.critic
      ? baseNameOf(models.critic.folder, {
          name: config.criticModel ?? paths.model,
          revision: config.criticModel === null ? config.modelRevision : null,
        })
      : base;
    const planned = open.add(planSession(device, (plan) => planTenants(plan, config, models, team), note));
    return {
      ...{
        config: settled,
        device,
        startFolder,
        tokenizer,
        problems,
        evalProblems,
        batch,
        longestPrompt,
        planned,
        team,
      },
      assets: { folder: startFolder, chatTemplate, base, criticBase },
      close: open.close,
    };
  } catch (error) {
    open.abandon();
    throw error;
  }
}

/**
 * The plan of the same run under other settings of memory, or of another of its ranks: what decides about rows, prompts and
 * device must be the same.
 */
export async function planAgain(
  { device, startFolder, evalProblems, longestPrompt, team: own }: TrainingSetup,
  config: TrainConfig,
  team: Team = own,
): Promise<PlannedSession<TrainingTenants>> {
  const models = await trainingModels(
    onDevice(config, device),
    { startFolder, weightsFolder: null },
    batchShape(config, team.devices),
    { longestPrompt, evaluates: evalProblems !== null, ranks: team.ranks },
    () => {},
  );
  return planSession(device, (plan) => planTenants(plan, config, models, team));
}

async function trainingModels(
  config: OnDevice<TrainConfig>,
  { startFolder, weightsFolder }: { readonly startFolder: string; readonly weightsFolder: string | null },
  batch: BatchShape,
  sizes: { readonly longestPrompt: number; readonly evaluates: boolean; readonly ranks: Pick<Ranks, "rank" | "size"> },
  note: Note,
): Promise<TrainingModels> {
  const { maxCompletionLength, criticModel } = config;
  const {
    longestPrompt,
    evaluates,
    ranks: { rank, size: ranks },
  } = sizes;
  // The largest share of a generation that one rank samples and scores.
  const prompts = Math.ceil(batch.generationPrompts / ranks);
  const completions = prompts * config.numGenerations;
  return {
    folder: weightsFolder ?? startFolder,
    startFolder,
    tokens: maxMicroBatchTokens({
      budget: config.microBatchTokens,
      longestPrompt,
      longestCompletion: maxCompletionLength,
      // Of a generation, not of a step: the reference scores all of it at once.
      groups: prompts,
      completions,
    }),
    generation: {
      ...{ completions: batch.generationCompletions, longest: maxCompletionLength },
      recorded: config.saveCompletions && rank === 0,
    },
    reference: await referenceFolder(config, startFolder, weightsFolder, note),
    critic:
      config.advantageEstimator === "gae"
        ? {
            folder: criticModel === null ? startFolder : await resolveModel(criticModel, { note }),
            resumeFrom: weightsFolder,
            adapters: config,
          }
        : null,
    rewardModels: await rewardModels(config, longestPrompt + maxCompletionLength, completions, note),
    rollout: rolloutLimits({
      maxConcurrentSequences: config.maxConcurrentSequences,
      completions,
      samples: config.numGenerations,
      evaluates,
      longestPrompt,
      maxCompletion: maxCompletionLength,
      repetitionPenalty: config.repetitionPenalty,
    }),
  };
}

/** Steps of the whole run, from `max_steps` or from epochs. */
export function totalSteps({ config, problems, batch }: TrainingSetup): number {
  if (config.maxSteps !== null) return config.maxSteps;
  const generations = Math.floor((problems.dataset.numRows * config.numTrainEpochs) / batch.generationPrompts);
  return Math.max(1, generations) * batch.stepsPerGeneration;
}
