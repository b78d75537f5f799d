/**
 * A model's adapters in a session: what they are, by a run's settings or an adapter's folder, and what they start from.
 * Their buffers are planned with the model's own (planned-model.ts), their optimizer with that of any trained parameter.
 */
import { type AdapterFile, checkAdapterFile } from "../checkpoint/adapter.ts";
import type { ModelFolder } from "../checkpoint/huggingface.ts";
import type { AdapterConfigSettings } from "../config/schema.ts";
import { InputError } from "../errors.ts";
import { isLowRank, originalName } from "../families/adapter-names.ts";
import { allLinear, checkAdapters, projectionNames, scoreHeads, withAdapters } from "../families/adapters.ts";
import type { AdapterSettings, ModelConfig } from "../families/config.ts";
import { parameterSpecs } from "../families/parameters.ts";
import { type AdapterStart, adapterStart } from "../model/adapter-start.ts";
import type { ParameterSource } from "../model/weights.ts";
import { elementCount } from "../tensor/tensor.ts";
import { storedTensor } from "./stored-tensor.ts";

/** Adapters to plan beside a model's weights. */
export interface AdapterPlan {
  readonly settings: AdapterSettings;
  /** Where their numbers are, or how to make them. */
  readonly from: AdapterFile | { readonly seed: number; readonly start: AdapterStart };
}

/** PEFT's for the families that have these. */
const defaultTargets: readonly string[] = ["q_proj", "v_proj"];

/** What a run's settings ask for; null: no adapters. */
function wantedAdapters(model: ModelConfig, config: AdapterConfigSettings): AdapterSettings | null {
  if (!config.usePeft) return null;
  const named = config.loraTargetModules ?? defaultTargets;
  return {
    rank: config.loraR,
    alpha: config.loraAlpha,
    rslora: config.useRslora,
    targets: named.includes(allLinear) ? projectionNames(model) : named,
    // A scalar head is always trained; there is no other.
    saved: (config.modulesToSave ?? []).filter((name) => model.head === "lm" || name !== "lm_head"),
  };
}

/** An adapter's folder as it is; null: a whole model. @throws InputError if the adapter is of another base */
export function adaptersOf({ config, adapter }: ModelFolder): AdapterPlan | null {
  return adapter && fromFile(config, adapter);
}

function fromFile(config: ModelConfig, file: AdapterFile): AdapterPlan {
  const { settings, path } = file.config;
  checkAdapters(config, settings, { targets: `${path}: target_modules`, saved: `${path}: modules_to_save` });
  const trained = parameterSpecs(withAdapters(config, settings)).filter(({ trainable }) => trainable);
  checkAdapterFile(file, trained);
  return { settings, from: file };
}

/**
 * The adapters that a run trains: new ones, or those of the folder, a checkpoint's or a model's, that it begins with.
 *
 * @param isResumed the folder is a checkpoint of the run, which must have been made with these settings
 * @throws InputError if settings and folder contradict each other
 */
export function trainedAdapters(
  from: ModelFolder,
  config: AdapterConfigSettings & { readonly seed: number },
  isResumed: boolean,
): AdapterPlan | null {
  const wanted = wantedAdapters(from.config, config);
  if (from.adapter === null) {
    if (wanted === null) return null;
    if (isResumed)
      throw new InputError(
        `${from.folder}: holds a whole model, so it was written without use_peft; resume without that setting`,
      );
    checkAdapters(from.config, wanted, { targets: "lora_target_modules", saved: "modules_to_save" });
    return { settings: wanted, from: { seed: config.seed, start: config.loraInit } };
  }
  if (wanted === null)
    throw new InputError(
      isResumed
        ? `${from.folder}: holds adapters, so it was written with use_peft; resume with that setting`
        : `${from.folder}: is a LoRA adapter; go on training it with --use_peft, or merge it into its base first (grpo export --merge)`,
    );
  if (isResumed) requireSame(from.adapter, wanted);
  return fromFile(from.config, from.adapter);
}

/** @throws InputError naming the first setting in which a checkpoint's adapters differ */
function requireSame({ config: { path, settings } }: AdapterFile, wanted: AdapterSettings): void {
  const pairs = [
    ["r", settings.rank, "lora_r", wanted.rank],
    ["lora_alpha", settings.alpha, "lora_alpha", wanted.alpha],
    ["use_rslora", settings.rslora, "use_rslora", wanted.rslora],
    ["target_modules", settings.targets, "lora_target_modules", wanted.targets],
    ["modules_to_save", settings.saved.filter((name) => !scoreHeads.includes(name)), "modules_to_save", wanted.saved],
  ] as const;
  for (const [field, there, setting, here] of pairs)
    if (JSON.stringify(there) !== JSON.stringify(here) && sorted(there) !== sorted(here))
      throw new InputError(
        `${path}: ${field} is ${JSON.stringify(there)}, ${setting} is now ${JSON.stringify(here)}; resume with the settings that the run had`,
      );
}

/** The order of names means nothing. */
const sorted = (value: unknown): string => (Array.isArray(value) ? [...value].sort().join() : JSON.stringify(value));

/** The parameters of a model with adapters: those of its base, and beside them the adapters' own. */
export function adapterSource(base: ParameterSource, { from }: AdapterPlan, config: ModelConfig): ParameterSource {
  const own = new Set(parameterSpecs(config).flatMap(({ name, trainable }) => (trainable ? [name] : [])));
  const file = "config" in from ? from : null;
  return {
    ...base,
    numbers(name, shape) {
      if (!own.has(name) || "config" in from) return null;
      if (isLowRank(name)) return adapterStart(name, shape, from.seed, from.start);
      // A head that the base lacks starts at 0.
      return base.find(originalName(name)) === null ? new Float32Array(elementCount(shape)) : null;
    },
    find(name) {
      if (!own.has(name)) return base.find(name);
      const found = file?.find(name);
      return found ? storedTensor(file!.path, found) : base.find(originalName(name));
    },
    release() {
      base.release();
      file?.release();
    },
  };
}
