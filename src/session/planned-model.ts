/**
 * One model of a session: plans its weights and rotary tables, and loads them from its folder. Used for the policy, its
 * reference, reward models and the critic.
 */
import { join } from "node:path";
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { type ModelFolder, readModelFolder } from "../checkpoint/huggingface.ts";
import { isNf4, readNf4 } from "../checkpoint/nf4.ts";
import type { ScratchSizes, Weight } from "../device/device.ts";
import { InputError } from "../errors.ts";
import { withAdapters } from "../families/adapters.ts";
import type { ModelConfig, ModelHead } from "../families/config.ts";
import { withFourBits } from "../families/four-bit.ts";
import { parameterSpecs, scalarHead } from "../families/parameters.ts";
import { scratchSizes } from "../model/layer-buffers.ts";
import { type Model, type ModelBuffers, planAdapterProducts, planModelBuffers } from "../model/model.ts";
import { fillRopeTables } from "../model/rope-tables.ts";
import { checkWeights, copyWeights, loadWeights, type ParameterSource } from "../model/weights.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import { type AdapterPlan, adapterSource, adaptersOf } from "./adapters.ts";
import { storedTensor } from "./stored-tensor.ts";
import type { SessionPlan, Tenant } from "./tenant.ts";
import { unusedRemark } from "./unused-tensors.ts";

/**
 * Opens a model folder for planning.
 *
 * @throws InputError as `readModelFolder` does, and if config.json has more layers than the checkpoint
 */
export function openModelFolder(
  folder: string,
  wanted: ModelHead | "either" = "lm",
  base: string | null = null,
): ModelFolder {
  const opened = readModelFolder(folder, wanted, base);
  requireLayers(opened);
  return opened;
}

/**
 * Rejects too large a layer count early, since every layer costs a loop iteration and about a dozen buffers. Fewer
 * layers than the weights have is allowed; unused tensors are reported.
 */
function requireLayers({ config: { numLayers, layerPath }, checkpoint, adapter }: ModelFolder): void {
  let held = 0;
  for (const name of checkpoint.names)
    if (name.startsWith(`${layerPath}.`))
      held = Math.max(held, Number(/^(\d{1,9})\./.exec(name.slice(layerPath.length + 1))?.[1] ?? -1) + 1);
  // A layer has at least one tensor, so a higher number in a tensor's name is wrong.
  held = Math.min(held, checkpoint.names.length);
  if (numLayers <= held) return;
  checkpoint.close();
  adapter?.close();
  throw new InputError(
    `${join(checkpoint.folder, "config.json")}: num_hidden_layers: the checkpoint holds ${held} layer${held === 1 ? "" : "s"}, ` +
      `config.json says ${numLayers}; weights and config.json must belong to one model`,
  );
}

/** The type in which a model computes. */
export function computeDType(config: ModelConfig, asked: ComputeDType | null): ComputeDType {
  return asked ?? (config.dtype === "bfloat16" ? "bfloat16" : "float32");
}

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
      return storedTensor(checkpoint.folder, checkpoint.get(name));
    },
    quantized: (name) => (isNf4(checkpoint, name) ? readNf4(checkpoint, name) : null),
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
  /** Where its frozen weights come from, for models that share them: the folder, or an adapter's base. */
  readonly base: string;
  /** Its projections are in NF4, whatever the checkpoint stores. */
  readonly fourBit: boolean;
  /** Of the names of its buffers. */
  readonly prefix: string;
  /** The largest of the passes planned so far. */
  readonly passes: { tokens: number; trained: boolean };
}

/**
 * Announces a model's passes to the device.
 *
 * @param trained they have a backward pass
 */
export function planPass(
  plan: SessionPlan,
  { config, dtype, fourBit, positions, passes }: PlannedModel,
  pass: Pick<ScratchSizes, "tokens" | "headRows" | "sequences">,
  trained = false,
): void {
  passes.tokens = Math.max(passes.tokens, pass.tokens, pass.sequences);
  passes.trained ||= trained;
  const vocabSize = config.head === "score" ? 1 : config.vocabSize; // one number per row: no logits
  const operands = fourBit ? "bfloat16" : dtype;
  plan.computes(...scratchSizes(config, { ...pass, vocabSize, longest: positions, dtype: operands }));
}

/** The parameters that are trained beside frozen ones. */
export function trainedWeights({ config, weights }: Pick<Model, "config" | "weights">): readonly Weight[] {
  const trained = new Set(parameterSpecs(config).flatMap(({ name, trainable }) => (trainable ? [name] : [])));
  return weights.all.filter(({ name }) => trained.has(name));
}

interface ModelPlan extends ModelBuffers {
  /** The config to run it with, if not the folder's: a language model whose head is replaced by a scalar one. */
  readonly config?: ModelConfig;
  /** A model whose weights may be copied, if they are from the same folder; that is faster than to load them again. */
  readonly twin?: PlannedModel;
  /** A model whose frozen weights are this one's too, if both have adapters, on the same base. */
  readonly companion?: PlannedModel;
  /** Adapters to train beside its weights; left out, those of the folder if there are any, as they are. */
  readonly adapters?: AdapterPlan | null;
  /** Projections in NF4, whatever the checkpoint stores. */
  readonly fourBit?: boolean;
  /** Those of a model that computes in the same buffers; its own by default. */
  readonly passes?: PlannedModel["passes"];
}

/**
 * Plans a model's weights and rotary tables; `open` loads them. Unused tensors are noted.
 *
 * @throws InputError for a checkpoint that does not fit its config.json
 */
export function planModel(
  { device, memory, note, finally: beyond }: SessionPlan,
  from: ModelFolder,
  plan: ModelPlan,
): PlannedModel {
  const { prefix, dtype, positions, twin, fourBit = false } = plan;
  const { config: whole = from.config, adapters = adaptersOf(from), passes = { tokens: 1, trained: false } } = plan;
  const base = withFourBits(whole, (name) => fourBit || isNf4(from.checkpoint, name));
  const hasNoHead = base.head === "score" && !from.checkpoint.has(scalarHead);
  const weights = parameterSource(from.checkpoint, hasNoHead && (from.config.head === "lm" || adapters !== null));
  checkWeights(base, weights);
  const remark = unusedRemark(base, from.checkpoint);
  if (remark !== null) note(`note: ${remark}`);
  const config = adapters ? withAdapters(base, adapters.settings) : base;
  const source = adapters ? adapterSource(weights, adapters, config) : weights;
  const { companion } = plan;
  const shares =
    adapters !== null &&
    companion?.config.adapters &&
    companion.base === from.base &&
    companion.dtype === dtype &&
    companion.fourBit === fourBit;
  const buffers = { prefix, dtype, positions, frozenOf: shares ? companion.prefix : undefined };
  const bindModel = planModelBuffers(memory.of(prefix), device, config, buffers);
  let bindProducts: ReturnType<typeof planAdapterProducts> = () => null;
  beyond(() => {
    bindProducts = planAdapterProducts(memory.of(prefix), device, config, buffers, passes);
  });
  return {
    config,
    dtype,
    positions,
    folder: from.folder,
    base: from.base,
    fourBit,
    prefix,
    passes,
    async open(place) {
      const model = { ...bindModel(place.tensors), adapterProducts: bindProducts(place.tensors) };
      if (twin?.folder === from.folder && twin.fourBit === fourBit && !shares)
        await copyWeights(device, model.weights, (await place.open(twin)).weights);
      else if (shares) {
        await place.open(companion);
        await loadWeights(device, { all: trainedWeights(model) }, source);
      } else await loadWeights(device, model.weights, source);
      fillRopeTables(device, config, model.rope);
      return model;
    },
  };
}
