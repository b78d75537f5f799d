/**
 * A model made ready to run: what a command needs (policy, reference, critic, reward models, optimizers, buffers) is
 * planned first, then allocated in one piece and filled from a model folder. Train, sft, eval, generate, score and
 * update all start here. Saving and resuming is checkpointing.ts.
 */
import type { ModelFolder } from "../checkpoint/huggingface.ts";
import { breathe } from "../device/breathe.ts";
import type { Device, DeviceMemory } from "../device/device.ts";
import { InputError } from "../errors.ts";
import type { ModelConfig } from "../families/config.ts";
import { differentSize, parameterSpecs } from "../families/parameters.ts";
import { type ActivationSizes, type Activations, planActivations, scratchSizes } from "../model/activations.ts";
import type { Model } from "../model/model.ts";
import { type OptimizerState, planOptimizer, resetOptimizer } from "../optim/adamw.ts";
import { planRollout, type RolloutLimits, rolloutSizes } from "../rollout/buffers.ts";
import { createRolloutEngine, type RolloutEngine } from "../rollout/engine.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import { placeTensors, planMemory } from "../tensor/plan.ts";
import { tensor } from "../tensor/tensor.ts";
import { estimateMemory, type MemoryEstimate, requireMemory } from "./memory.ts";
import { computeDType, openModelFolder, planModel } from "./planned-model.ts";
import {
  type Critic,
  type CriticRequest,
  planCritic,
  planRewardModel,
  type RewardModel,
  type RewardModelRequest,
} from "./scalar-models.ts";

export interface SessionRequest {
  readonly device: Device;
  /** Folder of the policy. */
  readonly folder: string;
  /**
   * Folder with the tokenizer's files that go into what is saved; null: the policy's own. A run that goes on from a
   * checkpoint takes the model's, as the checkpoint may be removed meanwhile.
   */
  readonly assets?: string | null;
  /** The chat template that goes into what is saved, in place of the one among the assets. */
  readonly chatTemplate?: string | null;
  /** null: the checkpoint's own (float16 computes in float32). */
  readonly dtype: ComputeDType | null;
  /** Packed passes over recorded tokens: scoring, or training when `training`. */
  readonly packed: ActivationSizes | null;
  /** Gradients, masters and moments. */
  readonly training: boolean;
  /** Folder of the reference model. */
  readonly reference: string | null;
  /** The reference moves towards the policy (moving-reference.ts), so it belongs into checkpoints. */
  readonly movingReference?: boolean;
  /** PPO's critic: takes the packed passes that the policy takes, so it needs `packed`. */
  readonly critic?: CriticRequest | null;
  readonly rewardModels?: readonly RewardModelRequest[];
  /** Reward models score while sequences are still sampled (dynamic sampling), so neither may use the other's memory. */
  readonly scoringDuringRollout?: boolean;
  readonly rollout: RolloutLimits | null;
  /** Positions that rotary tables must reach. */
  readonly positions: number;
}

export interface Session {
  readonly device: Device;
  readonly config: ModelConfig;
  readonly dtype: ComputeDType;
  /** Folder with the tokenizer's files. */
  readonly assets: string;
  /** A chat template in place of theirs. */
  readonly chatTemplate: string | null;
  readonly policy: Model;
  readonly reference: Model | null;
  readonly activations: Activations | null;
  readonly optimizer: OptimizerState | null;
  readonly rollout: RolloutEngine | null;
  readonly movingReference: boolean;
  readonly critic: Critic | null;
  readonly rewardModels: readonly RewardModel[];
  readonly memory: MemoryEstimate;
  close(): void;
}

export interface PlannedSession {
  readonly config: ModelConfig;
  readonly dtype: ComputeDType;
  readonly memory: MemoryEstimate;
  /**
   * Allocates what was planned and loads the weights.
   *
   * @throws InputError when the machine has not enough memory
   */
  open(): Promise<Session>;
  close(): void;
}

/** What must agree between policy and reference: they score the same tokens in the same buffers. */
function requireSameShape(policy: ModelFolder, reference: ModelFolder): void {
  const difference = differentSize(reference.config, policy.config);
  if (difference !== null)
    throw new InputError(
      `ref_model ${reference.folder}: ${difference.what} is ${difference.own}, the policy's is ${difference.other}; the reference must have the policy's architecture`,
    );
}

/** A reference that moves is mixed with the policy parameter by parameter. */
function requireSameParameters(policy: ModelFolder, reference: ModelFolder): void {
  const names = ({ config }: ModelFolder) => parameterSpecs(config).map(({ name }) => name);
  const [own, others] = [new Set(names(policy)), new Set(names(reference))];
  const odd = [...own, ...others].find((name) => !own.has(name) || !others.has(name));
  if (odd !== undefined)
    throw new InputError(
      `ref_model ${reference.folder}: only one of reference and policy has ${odd}; sync_ref_model needs a reference with the policy's parameters`,
    );
}

/** Sizes of the passes that the critic shares with the policy. */
function packedOf({ packed, training }: SessionRequest): ActivationSizes {
  if (!packed || !training) throw new Error("a critic is planned beside a policy that trains");
  return packed;
}

/** Bytes touched between two turns of the event loop. */
const TOUCHED_AT_ONCE = 64 * 2 ** 20;

/** Writes to all of the memory now, so that a machine without it says so before the first step and not within one. */
async function touch(device: Device, arena: DeviceMemory): Promise<void> {
  for (let at = 0; at < arena.byteLength; at += TOUCHED_AT_ONCE) {
    const floats = Math.floor(Math.min(TOUCHED_AT_ONCE, arena.byteLength - at) / 4);
    device.ops.fill(tensor("arena", arena.address + at, "float32", [floats]), 0);
    await breathe();
  }
}

/**
 * Plans a session without allocating anything.
 *
 * @throws InputError for a checkpoint that does not fit its config.json, a reference of another shape, too long a context
 */
export function planSession(request: SessionRequest): PlannedSession {
  const { device } = request;
  const folder = openModelFolder(request.folder);
  const { config } = folder;
  const referenceFolder = request.reference === null ? null : openModelFolder(request.reference);
  if (referenceFolder) requireSameShape(folder, referenceFolder);
  if (referenceFolder && request.movingReference) requireSameParameters(folder, referenceFolder);
  const dtype = computeDType(config, request.dtype);
  if (request.positions > config.maxPositionEmbeddings)
    throw new InputError(
      `${request.folder}: prompt and completion take up to ${request.positions} tokens, the model's context is ${config.maxPositionEmbeddings}; lower max_completion_length`,
    );
  const specs = parameterSpecs(config);
  const act = device.activationDType(dtype);
  const plan = planMemory();
  const { positions } = request;
  const loadPolicy = planModel(plan, device, folder, { prefix: "policy", dtype, positions });
  const loadReference =
    referenceFolder &&
    planModel(plan.of("reference"), device, referenceFolder, { prefix: "reference", dtype, positions });
  const bindOptimizer = request.training ? planOptimizer(plan, device, specs, dtype) : null;
  const bindActivations = request.packed
    ? planActivations(plan, device, config, dtype, request.packed, {
        prefix: request.training ? "update" : "score",
        training: request.training,
        lifetime: ["update"],
      })
    : null;
  const bindRollout = request.rollout ? planRollout(plan, device, config, act, request.rollout, ["rollout"]) : null;
  const critic = request.critic
    ? planCritic(plan.of("critic"), device, request.critic, { config, dtype, sizes: packedOf(request), positions })
    : null;
  const scoring = request.scoringDuringRollout ? (["rollout", "scoring"] as const) : (["scoring"] as const);
  const rewardModels = (request.rewardModels ?? []).map((one, i) => {
    const name = i === 0 ? "reward model" : `reward model ${i + 1}`;
    return planRewardModel(plan.of(name), device, name, one, request.dtype, scoring);
  });
  const layout = plan.build();
  const sizes = scratchSizes(config, {
    vocabSize: config.vocabSize,
    longest: request.positions,
    tokens: Math.max(request.packed?.tokens ?? 1, request.rollout ? rolloutSizes(request.rollout).prefillTokens : 1),
    headRows: Math.max(request.packed?.headChunk ?? 1, device.decodeBucket(request.rollout?.maxSequences ?? 1)),
    sequences: device.decodeBucket(request.rollout?.maxSequences ?? 1),
  });
  const scratch = [...sizes, ...[...(critic ? [critic] : []), ...rewardModels].flatMap((model) => model.scratch)];
  const memory = estimateMemory(layout, device.scratchBytes(...scratch), device.freeBytes() !== null);

  /** Fills the arena and gives out what lies in it. */
  const fill = async (arena: DeviceMemory): Promise<Session> => {
    await touch(device, arena);
    const tensors = placeTensors(layout, arena.address);
    const policy = await loadPolicy(tensors);
    const reference = loadReference ? await loadReference(tensors) : null;
    const optimizer = bindOptimizer?.(tensors, policy.weights.all) ?? null;
    if (optimizer) resetOptimizer(device, optimizer);
    const openedCritic = critic ? await critic.open(tensors) : null;
    const openedRewardModels: RewardModel[] = [];
    for (const model of rewardModels) openedRewardModels.push(await model.open(tensors));
    const rollout = bindRollout ? createRolloutEngine(policy, bindRollout(tensors)) : null;
    return {
      device,
      config,
      dtype,
      assets: request.assets ?? request.folder,
      chatTemplate: request.chatTemplate ?? null,
      policy,
      reference,
      activations: bindActivations?.(tensors) ?? null,
      optimizer,
      rollout,
      movingReference: request.movingReference === true && reference !== null,
      critic: openedCritic,
      rewardModels: openedRewardModels,
      memory,
      close() {
        rollout?.close();
        arena.free();
      },
    };
  };

  return {
    config,
    dtype,
    memory,
    async open() {
      requireMemory(memory, device);
      device.prepare(...scratch);
      const arena = device.allocate(layout.totalBytes, "the memory plan");
      try {
        return await fill(arena);
      } catch (error) {
        arena.free();
        throw error;
      }
    },
    close() {
      folder.checkpoint.close();
      referenceFolder?.checkpoint.close();
      critic?.close();
      for (const model of rewardModels) model.close();
    },
  };
}
