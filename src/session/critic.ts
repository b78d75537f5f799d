/**
 * PPO's critic in a session: a model with a scalar head, trained on the same tokens as the policy, in its own phase.
 * Its update is in ../grpo/learner/critic-update.ts.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { placesOf } from "../checkpoint/huggingface.ts";
import type { AdapterConfigSettings } from "../config/schema.ts";
import { InputError } from "../errors.ts";
import { withScalarHead } from "../families/config.ts";
import { parameterBlocks } from "../families/parameters.ts";
import { type PassSizes, planForwardBackward } from "../model/activations.ts";
import { type ScalarActivations, scalarHead } from "../model/scalar-head.ts";
import { planOptimizer, startOptimizer, trainedSizes } from "../optim/adamw.ts";
import { type FormSettings, usualForm } from "../optim/form.ts";
import type { Division } from "../ranks/ranks.ts";
import { trainedAdapters } from "./adapters.ts";
import { type GradientCheckpointing, keepLayers } from "./gradient-checkpointing.ts";
import { ownedRanges, planGradientShards } from "./gradient-shards.ts";
import { type PlannedModel, planModel, planPass } from "./planned-model.ts";
import { requireTrainable, type TrainedModel } from "./policy.ts";
import type { SessionPlan, Tenant } from "./tenant.ts";

export interface CriticRequest {
  /**
   * A sequence classification model with one label, or a language model, whose new head (and so all values) starts at
   * 0.
   */
  readonly folder: string;
  /** The checkpoint-N folder whose critic to resume; null: start from `folder`. */
  readonly resumeFrom?: string | null;
  /** Whether it trains adapters, and which; left out: all of its weights. */
  readonly adapters?: (AdapterConfigSettings & { readonly seed: number }) | null;
}

/** A value model that is trained. */
export type Critic = TrainedModel<ScalarActivations>;

/** The critic's folder in a checkpoint, and in the output. */
export const criticFolder = "critic";

/** @throws InputError for a checkpoint that holds no critic */
function sourceOf({ folder, resumeFrom }: CriticRequest): string {
  if (!resumeFrom) return folder;
  const saved = join(resumeFrom, criticFolder);
  if (existsSync(saved)) return saved;
  throw new InputError(
    `${resumeFrom}: holds no ${criticFolder} folder, so it was written without a critic; resume with the advantage_estimator it was trained with`,
  );
}

/**
 * Plans the critic. It reads the policy's tokens, so its vocabulary must cover them.
 *
 * @throws InputError for a model with a smaller vocabulary or too short a context
 */
export function planCritic(
  plan: SessionPlan,
  request: CriticRequest,
  policy: PlannedModel,
  sizes: PassSizes,
  checkpointing: GradientCheckpointing = true,
  division: Division | null = null,
  settings: FormSettings = usualForm,
): Tenant<Critic> {
  const { device } = plan;
  const { dtype, positions } = policy;
  const folder = sourceOf(request);
  const isResumed = Boolean(request.resumeFrom);
  const from = plan.folder(folder, isResumed ? "score" : "either", placesOf(request.folder).config);
  const config = withScalarHead(from.config);
  if (config.vocabSize < policy.config.vocabSize)
    throw new InputError(
      `critic_model ${folder}: vocab_size is ${config.vocabSize}, the policy's is ${policy.config.vocabSize}; the critic must have the policy's tokenizer`,
    );
  if (config.maxPositionEmbeddings < positions)
    throw new InputError(
      `critic_model ${folder}: prompt and completion take up to ${positions} tokens, the critic's context is ${config.maxPositionEmbeddings}; lower max_completion_length`,
    );
  const adapters = request.adapters ? trainedAdapters({ ...from, config }, request.adapters, isResumed) : null;
  const own = { prefix: "critic", dtype, positions, config, fourBit: adapters !== null && policy.fourBit };
  const critic = planModel(plan, from, adapters ? { ...own, adapters, companion: policy } : own);
  requireTrainable(critic);
  const memory = plan.memory.of("critic");
  const owner = { prefix: "critic ", phase: "critic" } as const;
  const blocks = parameterBlocks(critic.config, device.rowBlock);
  const trained = trainedSizes(device, blocks, dtype);
  const form = { ...settings, embeddings: new Set([critic.config.embedding.name]) };
  const owned = ownedRanges(division, trained);
  const hostMemory = plan.hostMemory.of("critic");
  const bindOptimizer = planOptimizer(memory, device, blocks, dtype, owner, owned, form, hostMemory);
  const bindShards = planGradientShards(memory, device, division, trained, owner);
  const passes = { device, config: critic.config, dtype, sizes, prefix: "critic", lifetime: ["critic"] } as const;
  const bindActivations = planForwardBackward(memory, scalarHead, passes, keepLayers(plan, checkpointing));
  planPass(plan, critic, { tokens: sizes.tokens, headRows: sizes.tokens, sequences: 1 }, true);
  return {
    async open(place) {
      const model = await place.open(critic);
      const optimizer = bindOptimizer(place.tensors, model.weights.all);
      startOptimizer(device, optimizer);
      const shards = bindShards(place.tensors, optimizer);
      return { model, activations: bindActivations(place.tensors), optimizer, shards };
    },
  };
}
