/**
 * One model of a session: its weights and rotary tables in the memory plan, and the way from its folder into them. The
 * policy and its reference, reward models and the critic all come this way.
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
import { checkWeights, loadWeights, type ParameterSource } from "../model/weights.ts";
import type { ComputeDType, DType } from "../tensor/dtype.ts";
import type { SessionPlan, Tenant } from "./tenant.ts";
import { unusedRemark } from "./unused-tensors.ts";

/**
 * Opens a model folder to be planned.
 *
 * @throws InputError as `readModelFolder` does, and where config.json has more layers than the checkpoint
 */
export function openModelFolder(folder: string, wanted: ModelHead | "either" = "lm"): ModelFolder {
  const opened = readModelFolder(folder, wanted);
  requireLayers(opened);
  return opened;
}

/**
 * Every layer is a loop's turn and some dozen buffers, so a count that lies is found before anything follows it. Fewer
 * layers than there are weights for is a model that can be run; what is left over is told.
 */
function requireLayers({ config: { numLayers, layerPath }, checkpoint }: ModelFolder): void {
  let held = 0;
  for (const name of checkpoint.names)
    if (name.startsWith(`${layerPath}.`))
      held = Math.max(held, Number(/^(\d{1,9})\./.exec(name.slice(layerPath.length + 1))?.[1] ?? -1) + 1);
  // A number beyond the count of tensors is a name's own lie, not a layer's; a sound layer has a tensor at least.
  held = Math.min(held, checkpoint.names.length);
  if (numLayers <= held) return;
  checkpoint.close();
  throw new InputError(
    `${join(checkpoint.folder, "config.json")}: num_hidden_layers: the checkpoint holds ${held} layer${held === 1 ? "" : "s"}, ` +
      `config.json says ${numLayers}; weights and config.json must belong to one model`,
  );
}

/** The type that a model computes in. */
export function computeDType(config: ModelConfig, asked: ComputeDType | null): ComputeDType {
  return asked ?? (config.dtype === "bfloat16" ? "bfloat16" : "float32");
}

const dtypes: Readonly<Record<string, DType>> = { F32: "float32", F16: "float16", BF16: "bfloat16" };

/**
 * A checkpoint's tensors as parameters.
 *
 * @param scalarHeadFromZero the checkpoint is a language model's, and a scalar head on it starts at zeros
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
  };
}

/** A model of a session while it is planned, as those that build on it see it. */
export interface PlannedModel extends Tenant<Model> {
  readonly config: ModelConfig;
  readonly dtype: ComputeDType;
  /** Positions that its rotary tables reach. */
  readonly positions: number;
}

/** Says to the device what passes of a model will run. */
export function planPass(
  plan: SessionPlan,
  { config, positions }: PlannedModel,
  pass: Pick<ScratchSizes, "tokens" | "headRows" | "sequences">,
): void {
  const vocabSize = config.head === "score" ? 1 : config.vocabSize; // one number a row: no logits
  plan.computes(...scratchSizes(config, { ...pass, vocabSize, longest: positions }));
}

interface ModelPlan extends ModelBuffers {
  /** What it is run as, where that is not what its folder says: a language model with a scalar head in place of its own. */
  readonly config?: ModelConfig;
}

/** A policy and its reference come from one folder mostly, and `plan --compare` plans twice: each remark is said once. */
const said = new Set<string>();

function remarkOnce(remark: string | null): void {
  if (remark === null || said.has(remark)) return;
  said.add(remark);
  process.stderr.write(`note: ${remark}\n`);
}

/**
 * Plans a model's weights and rotary tables; opened, they are loaded. What its weights hold beside the model is told on
 * stderr.
 *
 * @throws InputError for a checkpoint that does not fit its config.json
 */
export function planModel(
  { device, memory }: SessionPlan,
  from: ModelFolder,
  { prefix, dtype, positions, config = from.config }: ModelPlan,
): PlannedModel {
  const source = parameterSource(from.checkpoint, config.head === "score" && from.config.head === "lm");
  checkWeights(config, source);
  remarkOnce(unusedRemark(config, from.checkpoint));
  const bindModel = planModelBuffers(memory.of(prefix), device, config, { prefix, dtype, positions });
  return {
    config,
    dtype,
    positions,
    async open({ tensors }) {
      const model = bindModel(tensors);
      await loadWeights(device, model.weights, source);
      fillRopeTables(device, config, model.rope);
      return model;
    },
  };
}
