/**
 * One model of a session: plans its weights and rotary tables, and loads them from its folder. Used for the policy, its
 * reference, reward models and the critic.
 */
import { join } from "node:path";
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { type ModelFolder, readModelFolder } from "../checkpoint/huggingface.ts";
import type { ScratchSizes } from "../device/device.ts";
import { InputError } from "../errors.ts";
import type { ModelConfig, ModelHead } from "../families/config.ts";
import { scratchSizes } from "../model/layer-buffers.ts";
import { type Model, type ModelBuffers, planModelBuffers } from "../model/model.ts";
import { fillRopeTables } from "../model/rope-tables.ts";
import { checkWeights, copyWeights, loadWeights, type ParameterSource } from "../model/weights.ts";
import type { ComputeDType, DType } from "../tensor/dtype.ts";
import type { SessionPlan, Tenant } from "./tenant.ts";
import { unusedRemark } from "./unused-tensors.ts";

/**
 * Opens a model folder for planning.
 *
 * @throws InputError as `readModelFolder` does, and if config.json has more layers than the checkpoint
 */
export function openModelFolder(folder: string, wanted: ModelHead | "either" = "lm"): ModelFolder {
  const opened = readModelFolder(folder, wanted);
  requireLayers(opened);
  return opened;
}

/**
 * Rejects too large a layer count early, since every layer costs a loop iteration and about a dozen buffers. Fewer
 * layers than the weights have is allowed; unused tensors are reported.
 */
function requireLayers({ config: { numLayers, layerPath }, checkpoint }: ModelFolder): void {
  let held = 0;
  for (const name of checkpoint.names)
    if (name.startsWith(`${layerPath}.`))
      held = Math.max(held, Number(/^(\d{1,9})\./.exec(name.slice(layerPath.length + 1))?.[1] ?? -1) + 1);
  // A layer has at least one tensor, so a higher number in a tensor's name is wrong.
  held = Math.min(held, checkpoint.names.length);
  if (numLayers <= held) return;
  checkpoint.close();
  throw new InputError(
    `${join(checkpoint.folder, "config.json")}: num_hidden_layers: the checkpoint holds ${held} layer${held === 1 ? "" : "s"}, ` +
      `config.json says ${numLayers}; weights and config.json must belong to one model`,
  );
}

/** The type in which a model computes. */
export function computeDType(config: ModelConfig, asked: ComputeDType | null): ComputeDType {
  return asked ?? (config.dtype === "bfloat16" ? "bfloat16" : "float32");
}

const dtypes: Readonly<Record<string, DType>> = { F32: "float32", F16: "float16", BF16: "bfloat16" };

/**
 * A checkpoint's tensors as parameters.
 *
 * @param scalarHeadFromZero the checkpoint is a language model's, whose new scalar head starts at zeros
 */
export function parameterSource(checkpoint: Checkpoint, scalarHeadFromZero = false): ParameterSource {
  return {
    path: checkpoint.folder,
    scalarHeadFromZero,
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
    release: checkpoint.release,
  };
}

/** A model during planning, for the tenants that use it. */
export interface PlannedModel extends Tenant<Model> {
  readonly config: ModelConfig;
  readonly dtype: ComputeDType;
  /** Positions that its rotary tables reach. */
  readonly positions: number;
  /** Where its weights are loaded from. */
  readonly folder: string;
}

/** Announces a model's passes to the device. */
export function planPass(
  plan: SessionPlan,
  { config, positions }: PlannedModel,
  pass: Pick<ScratchSizes, "tokens" | "headRows" | "sequences">,
): void {
  const vocabSize = config.head === "score" ? 1 : config.vocabSize; // one number per row: no logits
  plan.computes(...scratchSizes(config, { ...pass, vocabSize, longest: positions }));
}

interface ModelPlan extends ModelBuffers {
  /** The config to run it with, if not the folder's: a language model whose head is replaced by a scalar one. */
  readonly config?: ModelConfig;
  /** A model whose weights may be copied, if they are from the same folder; that is faster than to load them again. */
  readonly twin?: PlannedModel;
}

/**
 * Plans a model's weights and rotary tables; `open` loads them. Unused tensors are noted.
 *
 * @throws InputError for a checkpoint that does not fit its config.json
 */
export function planModel(
  { device, memory, note }: SessionPlan,
  from: ModelFolder,
  { prefix, dtype, positions, config = from.config, twin }: ModelPlan,
): PlannedModel {
  const source = parameterSource(from.checkpoint, config.head === "score" && from.config.head === "lm");
  checkWeights(config, source);
  const remark = unusedRemark(config, from.checkpoint);
  if (remark !== null) note(`note: ${remark}`);
  const bindModel = planModelBuffers(memory.of(prefix), device, config, { prefix, dtype, positions });
  return {
    config,
    dtype,
    positions,
    folder: from.folder,
    async open(place) {
      const model = bindModel(place.tensors);
      if (twin?.folder === from.folder) await copyWeights(device, model.weights, (await place.open(twin)).weights);
      else await loadWeights(device, model.weights, source);
      fillRopeTables(device, config, model.rope);
      return model;
    },
  };
}
