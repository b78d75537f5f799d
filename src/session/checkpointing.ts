/**
 * Saves and restores the models that a run trains: as a Hugging Face folder that transformers and vLLM load and, in
 * `checkpoint-N`, with the optimizer, PPO's critic and its optimizer, a moving reference and the trainer's state, from
 * which a run resumes bit-exactly.
 */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import type { z } from "zod";
import { adapterWeightsName, type BaseName, openAdapter, writeAdapterConfig } from "../checkpoint/adapter.ts";
import { dropEarlier } from "../checkpoint/earlier.ts";
import { copyModelAssets, type ModelFolder, writeChatTemplate, writeConfig } from "../checkpoint/huggingface.ts";
import { type MappedTensor, openSafetensors } from "../checkpoint/safetensors.ts";
import {
  inFileOrder,
  oddNumbers,
  onlyFinite,
  type TensorSource,
  writeSafetensors,
  writeWeights,
} from "../checkpoint/safetensors-write.ts";
import { checkpointName, readTrainerState, writeTrainerState } from "../checkpoint/state.ts";
import { writeTogether } from "../checkpoint/together.ts";
import type { Weight } from "../device/device.ts";
import { InputError } from "../errors.ts";
import type { ModelHead } from "../families/config.ts";
import { writeFolderAtomic } from "../files/atomic.ts";
import { writeFailure } from "../files/refusals.ts";
import type { Model } from "../model/model.ts";
import { loadWeights, type SavedTensor, savedTensors } from "../model/weights.ts";
import { mastersOf, type StateBuffer } from "../optim/adamw.ts";
import { type Critic, criticFolder } from "./critic.ts";
import { codedBuffers, codedMoments, formMetadata, loadCodedMoments, requireSameForm } from "./optimizer-form.ts";
import { momentNames, type Optimized, partsOf, stateOf } from "./optimizer-state.ts";
import { openModelFolder, parameterSource, trainedWeights } from "./planned-model.ts";
import type { TrainedModel } from "./policy.ts";
import { storedTensor } from "./stored-tensor.ts";

const optimizerFile = "optimizer.safetensors";
/** A moving reference's folder in a checkpoint. */
const referenceFolder = "reference";

/** What is saved with the weights of every model. */
export interface ModelAssets {
  /**
   * Folder with the tokenizer's files: the start model's, since a resumed run's checkpoint may be deleted during the
   * run.
   */
  readonly folder: string;
  /** A chat template that replaces theirs. */
  readonly chatTemplate: string | null;
  /** The base model that adapters name; left out, the folder. */
  readonly base?: BaseName;
  /** That of the critic's; left out, the same. */
  readonly criticBase?: BaseName;
}

/** The models that a run changes, and so saves. */
export interface TrainedModels {
  readonly policy: TrainedModel;
  readonly critic: Critic | null;
  /** null: there is none, or it does not move. */
  readonly movingReference: Model | null;
  readonly assets: ModelAssets;
}

/**
 * Writes weights, config.json and the tokenizer's files into `folder`, all of them or none; PPO's critic goes into
 * `folder`/critic. Then removes the earlier run's output that this replaces.
 *
 * @throws RunError if a weight is not finite, or a file cannot be written
 */
export async function saveModel(models: TrainedModels, folder: string): Promise<void> {
  makeFolder(folder);
  await writeTogether(folder, (temporary) => writeModel(models, temporary));
  dropEarlier(folder);
}

async function writeModel({ policy, critic, assets }: TrainedModels, folder: string): Promise<void> {
  await saveWeights(policy.model, assets, folder);
  if (!critic) return;
  const { criticBase: base = assets.base } = assets;
  await saveWeights(critic.model, { ...assets, ...(base && { base }) }, join(folder, criticFolder));
}

/** One model as a Hugging Face folder, or its adapters as PEFT's, with the policy's tokenizer. */
async function saveWeights(model: Model, assets: ModelAssets, folder: string): Promise<void> {
  const { device, config, weights } = model;
  makeFolder(folder);
  copyModelAssets(assets.folder, folder);
  if (assets.chatTemplate !== null) writeChatTemplate(folder, assets.chatTemplate);
  const kept = config.adapters ? trainedWeights(model) : weights.all;
  const entries = kept.map((weight) => ({ name: weight.name, weight }));
  const saved = savedTensors(device, entries, weights.dtype);
  try {
    const tensors = saved.tensors.map(onlyFinite);
    if (config.adapters) await writeSafetensors(join(folder, adapterWeightsName), tensors);
    else await writeWeights(folder, tensors);
  } finally {
    saved.free();
  }
  const { base = { name: assets.folder, revision: null } } = assets;
  if (config.adapters) writeAdapterConfig(folder, config, config.adapters, base);
  else writeConfig(folder, config, weights.dtype);
}

/**
 * Loads a checkpoint's weights into the policy and the critic, if there is one; the optimizers stay as they are.
 *
 * @throws InputError if they are missing or damaged
 */
export async function loadModel({ policy, critic }: TrainedModels, checkpoint: string): Promise<void> {
  const load = (model: Model, folder: string, head: ModelHead) =>
    model.config.adapters ? loadAdapters(model, folder) : loadFrom(model, openModelFolder(folder, head));
  await load(policy.model, checkpoint, "lm");
  if (critic) await load(critic.model, join(checkpoint, criticFolder), "score");
}

async function loadAdapters(model: Model, checkpoint: string): Promise<void> {
  const file = openAdapter(checkpoint);
  try {
    const find = (name: string) => {
      const found = file.find(name);
      return found && storedTensor(file.path, found);
    };
    await loadWeights(model.device, { all: trainedWeights(model) }, { path: file.path, find, release: file.release });
  } finally {
    file.close();
  }
}

async function loadFrom({ device, weights }: Model, { checkpoint }: ModelFolder): Promise<void> {
  try {
    await loadWeights(device, weights, parameterSource(checkpoint));
  } finally {
    checkpoint.close();
  }
}

function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw writeFailure(error, folder);
  }
}

/** A float32 buffer in a parameter's layout, to be saved and loaded like the parameter. */
function inLayoutOf(weight: Weight, address: number): Weight {
  return { ...weight, address, dtype: "float32", layoutOf: weight.dtype };
}

/** A buffer of the optimizer in float32 under its name in optimizer.safetensors. */
interface NamedBuffer {
  readonly name: string;
  readonly dtype: "F32";
  readonly parameter: string;
  readonly kind: StateBuffer;
  /** Where it is or, if ranks have it in parts, where they put it together. */
  readonly weight: Weight;
}

/** The optimizer's buffers but for moments in 8 bits. In float32 the masters are the weights, as they are in bfloat16. */
function floatBuffers(trained: Optimized): NamedBuffer[] {
  return stateOf(trained).flatMap(({ weight, kind, buffer }) => {
    const { name: parameter } = weight;
    const named = (prefix: string, place: Weight) => [
      { name: `${prefix}.${parameter}`, dtype: "F32" as const, parameter, kind, weight: place },
    ];
    if (kind === "master") return named("master", mastersOf({ weight, master: buffer }));
    if (kind === "m" || kind === "v") return named(momentNames[kind], inLayoutOf(weight, buffer.address));
    return [];
  });
}

/**
 * Writes `checkpoint-N` into `outputDir`, under a temporary name and then renamed. Returns its path.
 *
 * @param state the trainer's own state, any JSON
 */
export async function saveCheckpoint(
  models: TrainedModels,
  outputDir: string,
  step: number,
  state: unknown,
): Promise<string> {
  const target = join(outputDir, checkpointName(step));
  const { policy, critic, movingReference, assets } = models;
  await writeFolderAtomic(target, async (folder) => {
    await writeModel(models, folder);
    await saveOptimizer(policy, folder);
    if (critic) await saveOptimizer(critic, join(folder, criticFolder));
    if (movingReference) await saveWeights(movingReference, assets, join(folder, referenceFolder));
    writeTrainerState(folder, state);
  });
  dropEarlier(outputDir);
  return target;
}

async function saveOptimizer(trained: Optimized, folder: string): Promise<void> {
  const { model, optimizer } = trained;
  const among = partsOf(trained);
  const buffers = floatBuffers(trained);
  const saved = savedTensors(model.device, buffers, "float32");
  const collected = (tensor: SavedTensor, { parameter, kind }: NamedBuffer): TensorSource => ({
    ...tensor,
    async *chunks() {
      await among?.collect(parameter, kind);
      yield* tensor.chunks();
    },
  });
  try {
    const metadata = { format: "pt", step: String(optimizer.step), ...formMetadata(model, optimizer) };
    const tensors = saved.tensors.map((tensor, i) => onlyFinite(collected(tensor, buffers[i]!)));
    await writeSafetensors(join(folder, optimizerFile), [...tensors, ...codedMoments(trained)], metadata);
  } finally {
    saved.free();
  }
}

/** What ranks other than 0 do while rank 0 saves a checkpoint: they give it what it does not have. */
export async function lendToCheckpoint({ policy, critic }: TrainedModels): Promise<void> {
  for (const trained of critic ? [policy, critic] : [policy])
    for (const { parameter, kind } of inFileOrder([...floatBuffers(trained), ...codedBuffers(trained)]))
      await partsOf(trained)?.collect(parameter, kind);
}

/**
 * The checkpoint's reference, with which a run with a moving reference resumes.
 *
 * @throws InputError if the checkpoint has none
 */
export function savedReference(checkpoint: string): string {
  const folder = join(checkpoint, referenceFolder);
  if (existsSync(folder)) return folder;
  throw new InputError(
    `${checkpoint}: holds no ${referenceFolder} folder, so it was written without sync_ref_model; resume without that setting`,
  );
}

/** A checkpoint's trainer state; a session is opened on the checkpoint's folder afterwards. */
export function readCheckpointState<T>(folder: string, schema: z.ZodType<T>): T {
  if (!existsSync(folder)) throw new InputError(`resume_from_checkpoint: ${folder}: there is no such folder`);
  return readTrainerState(folder, schema);
}

/**
 * Restores masters, moments and step of models opened on the checkpoint's weights: the policy's, and the critic's if
 * there is one.
 *
 * @throws InputError if a file is missing, damaged, or from another model
 */
export function restoreOptimizer({ policy, critic }: TrainedModels, checkpoint: string): void {
  readOptimizer(policy, checkpoint);
  if (critic) readOptimizer(critic, join(checkpoint, criticFolder));
}

/**
 * Saved numbers are finite, and means of squares are not negative (`onlyFinite` and Adam ensure it). Other numbers mean
 * damage, and one step with them would ruin the weights.
 *
 * @throws InputError naming the tensor
 */
function requireSound(path: string, tensor: MappedTensor): void {
  const odd = oddNumbers(tensor, /^exp_avg(_sq\.|\.absmax\.)/.test(tensor.name));
  if (odd !== null)
    throw new InputError(
      `${path}: tensor ${tensor.name} has numbers that are ${odd}; the file is damaged: resume from another checkpoint`,
    );
}

function readOptimizer(trained: Optimized, checkpoint: string): void {
  const { model, optimizer } = trained;
  const path = join(checkpoint, optimizerFile);
  if (!existsSync(path))
    throw new InputError(`${checkpoint}: holds no ${optimizerFile}; give a checkpoint-N folder that training wrote`);
  const file = openSafetensors(path);
  try {
    requireSameForm(path, model, optimizer, file.metadata);
    loadCodedMoments(file, trained, (tensor) => requireSound(path, tensor));
    for (const { name, parameter, kind, weight } of floatBuffers(trained)) {
      const found = file.tensors.get(name);
      if (!found)
        throw new InputError(
          `${path}: tensor ${name} is missing; the checkpoint was written with another dtype or model`,
        );
      if (found.dtype !== "F32" || found.shape.join() !== weight.shape.join())
        throw new InputError(
          `${path}: tensor ${name} is ${found.dtype} [${found.shape}], expected F32 [${weight.shape}]`,
        );
      requireSound(path, found);
      model.device.loadParameter(weight, found.address, "float32", 0, weight.shape[0] ?? 0);
      partsOf(trained)?.keep(parameter, kind);
    }
    const step = /^\d{1,15}$/.test(file.metadata.step ?? "") ? Number(file.metadata.step) : null;
    if (step === null)
      throw new InputError(
        `${path}: metadata field step is missing or not a count; the file is damaged: resume from another checkpoint`,
      );
    optimizer.step = step;
  } finally {
    file.close();
  }
}
