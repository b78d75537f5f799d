/**
 * Reward models and PPO's critic in a session: their place in the memory plan, and how they come out of it. Each is a
 * model of its own, with one number per row where the policy has logits. Scoring texts is reward-model.ts.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { ModelFolder } from "../checkpoint/huggingface.ts";
import type { Device, ScratchSizes } from "../device/device.ts";
import { InputError } from "../errors.ts";
import { type ModelConfig, withScalarHead } from "../families/config.ts";
import { parameterSpecs } from "../families/parameters.ts";
import { planScalarActivations, type ScalarActivations, type ScalarSizes, scratchSizes } from "../model/activations.ts";
import type { Model } from "../model/model.ts";
import { type OptimizerState, planOptimizer, resetOptimizer } from "../optim/adamw.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import type { Phase, PlanBuilder } from "../tensor/plan.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { computeDType, openModelFolder, planModel } from "./planned-model.ts";

export interface CriticRequest {
  /** A sequence classification model with one label, or a language model: its head then starts at zeros, and so do values. */
  readonly folder: string;
  /** Folder of the checkpoint-N whose critic goes on; null: from `folder`. */
  readonly resumeFrom?: string | null;
}

export interface RewardModelRequest {
  readonly folder: string;
  /** Tokens of the longest sequence to be scored; the model's context, where that is less. */
  readonly longest: number;
  /** Tokens scored at once. */
  readonly microBatchTokens: number;
  /** Sequences of the largest call, where known: a few short ones need no whole budget. */
  readonly sequences?: number;
}

/** A model of values, trained beside the policy. */
export interface Critic {
  readonly model: Model;
  readonly activations: ScalarActivations;
  readonly optimizer: OptimizerState;
}

export interface RewardModel {
  /** Its name in the memory plan: "reward model", "reward model 2", … */
  readonly name: string;
  readonly folder: string;
  readonly model: Model;
  readonly activations: ScalarActivations;
  /** Longest sequence it can score, in tokens. */
  readonly longest: number;
  readonly microBatchTokens: number;
}

/** A model in the plan: `open` loads it into its buffers. */
export interface PlannedScalarModel<T> {
  readonly scratch: readonly ScratchSizes[];
  open(tensors: ReadonlyMap<string, Tensor>): Promise<T>;
  close(): void;
}

/** The critic's folder in a checkpoint, and in the output. */
export const criticFolder = "critic";

/** One number per row: no logits, nothing sampled. */
function scalarScratch(config: ModelConfig, tokens: number, longest: number): ScratchSizes[] {
  return scratchSizes(config, { vocabSize: 1, headRows: tokens, sequences: 1, longest, tokens });
}

/**
 * Plans PPO's critic. It sees the policy's tokens, so it must know them all.
 *
 * @throws InputError for a model of another vocabulary, or with too short a context
 */
export function planCritic(
  plan: PlanBuilder,
  device: Device,
  request: CriticRequest,
  policy: {
    readonly config: ModelConfig;
    readonly dtype: ComputeDType;
    readonly sizes: ScalarSizes;
    readonly positions: number;
  },
): PlannedScalarModel<Critic> {
  const { resumeFrom } = request;
  const folder = resumeFrom ? join(resumeFrom, criticFolder) : request.folder;
  if (resumeFrom && !existsSync(folder))
    throw new InputError(
      `${resumeFrom}: holds no ${criticFolder} folder, so it was written without a critic; resume with the advantage_estimator it was trained with`,
    );
  const from = openModelFolder(folder, resumeFrom ? "score" : "either");
  const { dtype, sizes, positions } = policy;
  const config = withScalarHead(from.config);
  const refuse = (problem: string): never => {
    from.checkpoint.close();
    throw new InputError(`critic_model ${folder}: ${problem}`);
  };
  if (config.vocabSize < policy.config.vocabSize)
    refuse(
      `vocab_size is ${config.vocabSize}, the policy's is ${policy.config.vocabSize}; the critic must have the policy's tokenizer`,
    );
  if (config.maxPositionEmbeddings < positions)
    refuse(
      `prompt and completion take up to ${positions} tokens, the critic's context is ${config.maxPositionEmbeddings}; lower max_completion_length`,
    );
  const load = closingOnFailure(from, () =>
    planModel(plan, device, from, { prefix: "critic", dtype, positions, config }),
  );
  const owner = { prefix: "critic ", phase: "critic" } as const;
  const bindOptimizer = planOptimizer(plan, device, parameterSpecs(config), dtype, owner);
  const options = { prefix: "critic", training: true, lifetime: ["critic"] } as const;
  const bindActivations = planScalarActivations(plan, device, config, dtype, sizes, options);
  return {
    scratch: scalarScratch(config, sizes.tokens, positions),
    async open(tensors) {
      const model = await load(tensors);
      const optimizer = bindOptimizer(tensors, model.weights.all);
      resetOptimizer(device, optimizer);
      return { model, activations: bindActivations(tensors), optimizer };
    },
    close: () => from.checkpoint.close(),
  };
}

/**
 * Plans a reward model: forward only.
 *
 * @param lifetime when it scores
 * @throws InputError for a folder that is no sequence classification model with one label
 */
export function planRewardModel(
  plan: PlanBuilder,
  device: Device,
  name: string,
  request: RewardModelRequest,
  asked: ComputeDType | null,
  lifetime: readonly Phase[],
): PlannedScalarModel<RewardModel> {
  const { folder, sequences = Infinity } = request;
  const from = openModelFolder(folder, "score");
  const { config } = from;
  const longest = Math.min(request.longest, config.maxPositionEmbeddings);
  const dtype = computeDType(config, asked);
  const load = closingOnFailure(from, () => planModel(plan, device, from, { prefix: name, dtype, positions: longest }));
  const tokens = Math.max(longest, Math.min(request.microBatchTokens, sequences * longest));
  const microBatchTokens = Math.min(request.microBatchTokens, tokens);
  const sizes = { tokens, longestPrompt: longest };
  const options = { prefix: name, training: false, lifetime };
  const bindActivations = planScalarActivations(plan, device, config, dtype, sizes, options);
  return {
    scratch: scalarScratch(config, sizes.tokens, longest),
    async open(tensors) {
      const model = await load(tensors);
      return { name, folder, model, activations: bindActivations(tensors), longest, microBatchTokens };
    },
    close: () => from.checkpoint.close(),
  };
}

function closingOnFailure<T>({ checkpoint }: ModelFolder, work: () => T): T {
  try {
    return work();
  } catch (error) {
    checkpoint.close();
    throw error;
  }
}
