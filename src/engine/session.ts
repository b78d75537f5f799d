/**
 * A model made ready to run: what a command needs (policy, reference, optimizer, training and rollout buffers) is
 * planned first, then allocated in one piece and filled from a model folder. Train, sft, eval, generate, score and
 * update all start here. Saving and resuming is checkpointing.ts.
 */
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { type ModelFolder, readModelFolder } from "../checkpoint/huggingface.ts";
import type { ModelConfig } from "../config/model.ts";
import { breathe } from "../device/breathe.ts";
import type { Device, DeviceMemory, ScratchSizes } from "../device/device.ts";
import { InputError } from "../errors.ts";
import { type ActivationSizes, type Activations, attentionShape, planActivations } from "../model/activations.ts";
import type { Model } from "../model/model.ts";
import { parameterSpecs } from "../model/parameters.ts";
import { ropeTable } from "../model/rope.ts";
import { bindWeights, checkWeights, loadWeights, type ParameterSource, planWeights } from "../model/weights.ts";
import { type OptimizerState, planOptimizer, resetOptimizer } from "../optim/adamw.ts";
import { planRollout, type RolloutLimits, rolloutSizes } from "../rollout/buffers.ts";
import { createRolloutEngine, type RolloutEngine } from "../rollout/engine.ts";
import type { ComputeDType, DType } from "../tensor/dtype.ts";
import { placeTensors, planMemory } from "../tensor/plan.ts";
import { tensor } from "../tensor/tensor.ts";
import { estimateMemory, type MemoryEstimate, requireMemory } from "./memory.ts";

export interface SessionRequest {
  readonly device: Device;
  /** Folder of the policy. */
  readonly folder: string;
  /**
   * Folder with the tokenizer's files that go into what is saved; null: the policy's own. A run that goes on from a
   * checkpoint takes the model's, as the checkpoint may be removed meanwhile.
   */
  readonly assets?: string | null;
  /** null: the checkpoint's own (float16 computes in float32). */
  readonly dtype: ComputeDType | null;
  /** Packed passes over recorded tokens: scoring, or training when `training`. */
  readonly packed: ActivationSizes | null;
  /** Gradients, masters and moments. */
  readonly training: boolean;
  /** Folder of the reference model. */
  readonly reference: string | null;
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
  readonly policy: Model;
  readonly reference: Model | null;
  readonly activations: Activations | null;
  readonly optimizer: OptimizerState | null;
  readonly rollout: RolloutEngine | null;
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

/** The type that a model computes in. */
export function computeDType(config: ModelConfig, asked: ComputeDType | null): ComputeDType {
  return asked ?? (config.dtype === "bfloat16" ? "bfloat16" : "float32");
}

const dtypes: Readonly<Record<string, DType>> = { F32: "float32", F16: "float16", BF16: "bfloat16" };

/** A checkpoint's tensors as parameters. */
export function parameterSource(checkpoint: Checkpoint): ParameterSource {
  return {
    path: checkpoint.folder,
    find(name) {
      if (!checkpoint.has(name)) return null;
      const { address, dtype, shape } = checkpoint.get(name);
      const type = dtypes[dtype];
      if (!type)
        throw new InputError(
          `${checkpoint.folder}: tensor ${name} is stored as ${dtype}; supported are F32, F16 and BF16: convert the checkpoint`,
        );
      return { address, dtype: type, shape };
    },
  };
}

/** What must agree between policy and reference: they score the same tokens in the same buffers. */
function requireSameShape(policy: ModelFolder, reference: ModelFolder): void {
  const fields = [
    "vocabSize",
    "hiddenSize",
    "intermediateSize",
    "numLayers",
    "numHeads",
    "numKvHeads",
    "headDim",
    "qkNorm",
  ] as const;
  for (const field of fields)
    if (policy.config[field] !== reference.config[field])
      throw new InputError(
        `ref_model ${reference.folder}: ${field} is ${reference.config[field]}, the policy's is ${policy.config[field]}; the reference must have the policy's architecture`,
      );
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
  const folder = readModelFolder(request.folder);
  const { config } = folder;
  const referenceFolder = request.reference === null ? null : readModelFolder(request.reference);
  if (referenceFolder) requireSameShape(folder, referenceFolder);
  for (const from of referenceFolder ? [folder, referenceFolder] : [folder])
    checkWeights(from.config, parameterSource(from.checkpoint));
  const dtype = computeDType(config, request.dtype);
  if (request.positions > config.maxPositionEmbeddings)
    throw new InputError(
      `${request.folder}: prompt and completion take up to ${request.positions} tokens, the model's context is ${config.maxPositionEmbeddings}; lower max_completion_length`,
    );
  const specs = parameterSpecs(config);
  const act = device.activationDType(dtype);
  const plan = planMemory();
  planWeights(plan, device, config, dtype, "policy");
  if (referenceFolder) planWeights(plan, device, referenceFolder.config, dtype, "reference");
  const bindOptimizer = request.training ? planOptimizer(plan, device, specs, dtype) : null;
  const bindActivations = request.packed
    ? planActivations(plan, device, config, dtype, request.packed, {
        prefix: request.training ? "update" : "score",
        training: request.training,
        lifetime: ["update"],
      })
    : null;
  const bindRollout = request.rollout ? planRollout(plan, device, config, act, request.rollout, ["rollout"]) : null;
  const half = config.headDim / 2;
  for (const owner of referenceFolder ? ["policy", "reference"] : ["policy"])
    for (const table of ["cos", "sin"])
      plan.add("rotary tables", `${owner}/rope ${table}`, "float32", [request.positions, half]);
  const layout = plan.build();
  const sizes: ScratchSizes = {
    vocabSize: config.vocabSize,
    hiddenSize: config.hiddenSize,
    intermediateSize: config.intermediateSize,
    attention: attentionShape(config),
    longest: request.positions,
    tokens: Math.max(request.packed?.tokens ?? 1, request.rollout ? rolloutSizes(request.rollout).prefillTokens : 1),
    headRows: Math.max(request.packed?.headChunk ?? 1, device.decodeBucket(request.rollout?.maxSequences ?? 1)),
    sequences: device.decodeBucket(request.rollout?.maxSequences ?? 1),
  };
  const memory = estimateMemory(layout, device.scratchBytes(sizes), device.freeBytes() !== null);

  /** Fills the arena and gives out what lies in it. */
  const fill = async (arena: DeviceMemory): Promise<Session> => {
    await touch(device, arena);
    const tensors = placeTensors(layout, arena.address);
    const load = async (from: ModelFolder, prefix: string): Promise<Model> => {
      const weights = bindWeights(tensors, from.config, dtype, prefix);
      await loadWeights(device, weights, parameterSource(from.checkpoint));
      const table = ropeTable(from.config, request.positions);
      const rope = { cos: tensors.get(`${prefix}/rope cos`)!, sin: tensors.get(`${prefix}/rope sin`)! };
      device.upload(rope.cos, table.cos);
      device.upload(rope.sin, table.sin);
      from.checkpoint.close(); // the device has its own copy now
      return { device, config: from.config, weights, rope };
    };
    const policy = await load(folder, "policy");
    const reference = referenceFolder ? await load(referenceFolder, "reference") : null;
    const optimizer = bindOptimizer?.(tensors, policy.weights.all) ?? null;
    if (optimizer) resetOptimizer(device, optimizer);
    const rollout = bindRollout ? createRolloutEngine(policy, bindRollout(tensors)) : null;
    return {
      device,
      config,
      dtype,
      assets: request.assets ?? request.folder,
      policy,
      reference,
      activations: bindActivations?.(tensors) ?? null,
      optimizer,
      rollout,
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
      device.prepare(sizes);
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
    },
  };
}
