/**
 * The policy in a session, and what is done with it: scoring of recorded tokens, training, sampling. One copy of its weights
 * serves them all (promise 1); scoring and training are packed passes in the same phase, sampling has a phase of its own.
 */
import type { ModelFolder } from "../checkpoint/huggingface.ts";
import { InputError } from "../errors.ts";
import { parameterSpecs } from "../families/parameters.ts";
import { type Activations, packedSizes, planActivations, type ScalarSizes } from "../model/activations.ts";
import type { Model } from "../model/model.ts";
import { type OptimizerState, planOptimizer, resetOptimizer } from "../optim/adamw.ts";
import { planRollout, type RolloutLimits, rolloutSizes } from "../rollout/buffers.ts";
import { createRolloutEngine, type RolloutEngine } from "../rollout/engine.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import { computeDType, type PlannedModel, planModel, planPass } from "./planned-model.ts";
import type { SessionPlan, Tenant } from "./tenant.ts";

/** A model with the buffers of packed passes. */
export interface ScoringModel<A = Activations> {
  readonly model: Model;
  readonly activations: A;
}

/** A model that learns. */
export interface TrainedModel<A = Activations> extends ScoringModel<A> {
  readonly optimizer: OptimizerState;
}

/**
 * @param options.dtype null: the checkpoint's own (float16 computes in float32)
 * @param options.positions tokens of the longest prompt and completion
 * @throws InputError for too long a context, and as `planModel` does
 */
export function planPolicy(
  plan: SessionPlan,
  from: ModelFolder,
  { dtype, positions }: { readonly dtype: ComputeDType | null; readonly positions: number },
): PlannedModel {
  const { config, folder } = from;
  if (positions > config.maxPositionEmbeddings)
    throw new InputError(
      `${folder}: prompt and completion take up to ${positions} tokens, the model's context is ${config.maxPositionEmbeddings}; lower max_completion_length`,
    );
  return planModel(plan, from, { prefix: "policy", dtype: computeDType(config, dtype), positions });
}

/** Plans packed passes over recorded tokens, forward only. */
export function planScoring(plan: SessionPlan, policy: PlannedModel, sizes: ScalarSizes): Tenant<ScoringModel> {
  const bindActivations = planPasses(plan, policy, sizes, false);
  return {
    async open(place) {
      return { model: await place.open(policy), activations: bindActivations(place.tensors) };
    },
  };
}

/** A model that will learn. */
export interface PlannedTraining extends Tenant<TrainedModel> {
  readonly model: PlannedModel;
}

/** Plans gradients, masters and moments, and packed passes forward and backward. */
export function planTraining(plan: SessionPlan, policy: PlannedModel, sizes: ScalarSizes): PlannedTraining {
  const { device, memory } = plan;
  const bindOptimizer = planOptimizer(memory, device, parameterSpecs(policy.config), policy.dtype);
  const bindActivations = planPasses(plan, policy, sizes, true);
  return {
    model: policy,
    async open(place) {
      const model = await place.open(policy);
      const optimizer = bindOptimizer(place.tensors, model.weights.all);
      resetOptimizer(device, optimizer);
      return { model, activations: bindActivations(place.tensors), optimizer };
    },
  };
}

function planPasses(plan: SessionPlan, policy: PlannedModel, passes: ScalarSizes, training: boolean) {
  const { device, memory } = plan;
  const { config, dtype } = policy;
  const sizes = packedSizes(device, config, passes);
  planPass(plan, policy, { tokens: sizes.tokens, headRows: sizes.headChunk, sequences: 1 });
  const options = { prefix: training ? "update" : "score", training, lifetime: ["update"] } as const;
  return planActivations(memory, device, config, dtype, sizes, options);
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
