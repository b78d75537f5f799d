/**
 * The policy in a session, for scoring recorded tokens, training and sampling. All share one copy of its weights
 * (promise 1); scoring and training are packed passes in the same phase, sampling has its own phase.
 */
import type { ModelFolder } from "../checkpoint/huggingface.ts";
import { InputError } from "../errors.ts";
import { trainedFourBits } from "../families/four-bit.ts";
import { parameterBlocks } from "../families/parameters.ts";
import {
  type LayerActivations,
  type PassSizes,
  planForward,
  planForwardBackward,
  type WithGradients,
} from "../model/activations.ts";
import { type Activations, lmHead, logprobSizes } from "../model/lm-head.ts";
import type { Model } from "../model/model.ts";
import { type OptimizerState, planOptimizer, startOptimizer, trainedSizes } from "../optim/adamw.ts";
import { type FormSettings, usualForm } from "../optim/form.ts";
import type { Division } from "../ranks/ranks.ts";
import { planRollout, type RolloutLimits, rolloutSizes } from "../rollout/buffers.ts";
import { createRolloutEngine, type RolloutEngine } from "../rollout/engine.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import type { AdapterPlan } from "./adapters.ts";
import { type GradientCheckpointing, keepLayers } from "./gradient-checkpointing.ts";
import { type GradientShards, ownedRanges, planGradientShards } from "./gradient-shards.ts";
import { computeDType, type PlannedModel, planModel, planPass } from "./planned-model.ts";
import type { SessionPlan, Tenant } from "./tenant.ts";

/** A model with the buffers for packed passes. */
export interface ScoringModel<A extends LayerActivations = Activations> {
  readonly model: Model;
  readonly activations: A;
}

/** A model with its optimizer. */
export interface TrainedModel<A extends LayerActivations = Activations> extends ScoringModel<WithGradients<A>> {
  readonly optimizer: OptimizerState;
  /** How its optimizer steps are divided; null: they are not. */
  readonly shards: GradientShards | null;
}

/**
 * @param options.dtype null: the checkpoint's own (float16 computes in float32)
 * @param options.positions tokens of the longest prompt plus the longest completion
 * @param options.adapters that are trained; left out, those of the folder if there are any, as they are
 * @throws InputError if they exceed the model's context, and as `planModel` does
 */
export function planPolicy(
  plan: SessionPlan,
  from: ModelFolder,
  options: {
    readonly dtype: ComputeDType | null;
    readonly positions: number;
    readonly adapters?: AdapterPlan | null;
    /** Its projections in NF4 (`load_in_4bit`). */
    readonly fourBit?: boolean;
  },
): PlannedModel {
  const { positions, adapters, fourBit = false } = options;
  const { config, folder } = from;
  if (positions > config.maxPositionEmbeddings)
    throw new InputError(
      `${folder}: prompt and completion take up to ${positions} tokens, the model's context is ${config.maxPositionEmbeddings}; lower max_completion_length`,
    );
  const dtype = computeDType(config, options.dtype);
  return planModel(plan, from, {
    prefix: "policy",
    dtype,
    positions,
    fourBit,
    ...(adapters !== undefined && { adapters }),
  });
}

/** Plans packed passes over recorded tokens, forward only. */
export function planScoring(plan: SessionPlan, policy: PlannedModel, sizes: PassSizes): Tenant<ScoringModel> {
  const bindActivations = planForward(plan.memory, lmHead, planLogprobs(plan, policy, sizes, "score"));
  return {
    async open(place) {
      return { model: await place.open(policy), activations: bindActivations(place.tensors) };
    },
  };
}

/** A trained model during planning. */
export interface PlannedTraining extends Tenant<TrainedModel> {
  readonly model: PlannedModel;
}

/** Plans gradients, masters and moments, and packed passes forward and backward. */
export function planTraining(
  plan: SessionPlan,
  policy: PlannedModel,
  sizes: PassSizes,
  checkpointing: GradientCheckpointing = true,
  division: Division | null = null,
  settings: FormSettings = usualForm,
): PlannedTraining {
  const { device, memory } = plan;
  requireTrainable(policy);
  const blocks = parameterBlocks(policy.config, device.rowBlock);
  const trained = trainedSizes(device, blocks, policy.dtype);
  const owned = ownedRanges(division, trained);
  const form = { ...settings, embeddings: new Set([policy.config.embedding.name]) };
  const bindOptimizer = planOptimizer(memory, device, blocks, policy.dtype, undefined, owned, form, plan.hostMemory);
  const bindShards = planGradientShards(memory, device, division, trained);
  const passes = planLogprobs(plan, policy, sizes, "update", true);
  const bindActivations = planForwardBackward(memory, lmHead, passes, keepLayers(plan, checkpointing));
  return {
    model: policy,
    async open(place) {
      const model = await place.open(policy);
      const optimizer = bindOptimizer(place.tensors, model.weights.all);
      startOptimizer(device, optimizer);
      const shards = bindShards(place.tensors, optimizer);
      return { model, activations: bindActivations(place.tensors), optimizer, shards };
    },
  };
}

/** @throws InputError if weights in 4 bits would be trained */
export function requireTrainable({ config, folder }: Pick<PlannedModel, "config" | "folder">): void {
  const name = trainedFourBits(config);
  if (name !== undefined)
    throw new InputError(
      `${folder}: ${name} is in 4 bits, which is not trained; set use_peft, which trains adapters beside it`,
    );
}

function planLogprobs(plan: SessionPlan, policy: PlannedModel, passes: PassSizes, prefix: string, trained = false) {
  const { device } = plan;
  const { config, dtype } = policy;
  const sizes = logprobSizes(device, config, passes);
  planPass(plan, policy, { tokens: sizes.tokens, headRows: sizes.headChunk, sequences: 1 }, trained);
  return { device, config, dtype, sizes, prefix, lifetime: ["update"] } as const;
}

/** Plans sampling from the policy. */
export function planSampling(plan: SessionPlan, policy: PlannedModel, limits: RolloutLimits): Tenant<RolloutEngine> {
  const { device, memory } = plan;
  const act = device.activationDType(policy.dtype);
  const sequences = device.decodeBucket(limits.maxSequences);
  planPass(plan, policy, { tokens: rolloutSizes(limits).prefillTokens, headRows: sequences, sequences });
  const bindRollout = planRollout(memory, device, policy.config, act, limits, ["rollout"]);
  return {
    async open(place) {
      const engine = createRolloutEngine(await place.open(policy), bindRollout(place.tensors));
      place.closes(engine);
      return engine;
    },
  };
}
