/**
 * Folders with a LoRA adapter in PEFT's format: adapter_config.json, which names the base model, and
 * adapter_model.safetensors. Reads and writes the configuration; what the model makes of it is in
 * ../families/adapters.ts.
 */
import { existsSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { readJsonObject } from "../config/json-file.ts";
import { InputError } from "../errors.ts";
import type { AdapterSettings, ModelConfig, ModelHead } from "../families/config.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { requireFile } from "../files/paths.ts";
import { cachedCommit, snapshotFolder } from "../hub/cache.ts";
import type { Repository } from "../hub/failures.ts";
import { hubName } from "../hub/names.ts";
import { type MappedTensor, openSafetensors } from "./safetensors.ts";

export const adapterConfigName = "adapter_config.json";
export const adapterWeightsName = "adapter_model.safetensors";

/** Whether a folder holds an adapter and no model of its own. */
export function isAdapterFolder(folder: string): boolean {
  return existsSync(join(folder, adapterConfigName)) && !existsSync(join(folder, "config.json"));
}

/** The base model as an adapter names it. */
export interface BaseName {
  /** A folder, or a name on the hub. */
  readonly name: string;
  readonly revision: string | null;
}

/** adapter_config.json of a kind that this program computes. */
export interface AdapterConfig {
  readonly path: string;
  readonly settings: AdapterSettings;
  readonly base: BaseName;
  /** For sequence classification: it has a scalar head of its own. */
  readonly isScorer: boolean;
}

const tasks: Readonly<Record<ModelHead, string>> = { lm: "CAUSAL_LM", score: "SEQ_CLS" };

const names = z.array(z.string().min(1));
const schema = z.looseObject({
  peft_type: z.string(),
  base_model_name_or_path: z.string().min(1),
  revision: z.string().nullish(),
  r: z.int().min(1).max(65_536),
  lora_alpha: z.number().positive(),
  use_rslora: z.boolean().nullish(),
  target_modules: z.union([z.string().min(1), names.min(1)]),
  modules_to_save: names.nullish(),
  task_type: z.string().nullish(),
});

/** What other values than these would ask for, and nothing here computes. */
const plain: Readonly<Record<string, string>> = {
  alora_invocation_tokens: "adapters that begin at a token",
  alpha_pattern: "an alpha for each module",
  arrow_config: "a router of adapters",
  exclude_modules: "excluded modules",
  fan_in_fan_out: "transposed weights",
  layer_replication: "repeated layers",
  layers_to_transform: "adapters in some layers only",
  lora_bias: "adapters with a bias",
  rank_pattern: "a rank for each module",
  target_parameters: "adapters of parameters",
  trainable_token_indices: "single trained tokens",
  use_bdlora: "block-diagonal adapters",
  use_dora: "DoRA",
  use_qalora: "QALoRA",
};

const isNothing = (value: unknown): boolean =>
  value === undefined ||
  value === null ||
  value === false ||
  (typeof value === "object" && Object.keys(value).length === 0);

/** @throws InputError naming the field: not an adapter's, or one of another kind than LoRA as it is computed here */
export function readAdapterConfig(folder: string): AdapterConfig {
  const path = join(folder, adapterConfigName);
  requireFile(path);
  const json = readJsonObject(path);
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const { path: at, message } = parsed.error.issues[0]!;
    throw new InputError(`${path}: ${at.join(".") || "the file"}: ${message}; use the file that PEFT wrote`);
  }
  const { data } = parsed;
  if (data.peft_type !== "LORA")
    throw new InputError(`${path}: peft_type: ${JSON.stringify(data.peft_type)} is not supported, only LORA is`);
  if (!isNothing(json.bias) && json.bias !== "none")
    throw new InputError(`${path}: bias: ${JSON.stringify(json.bias)} is not supported, only "none" is`);
  for (const [key, what] of Object.entries(plain))
    if (!isNothing(json[key]))
      throw new InputError(`${path}: ${key}: ${what} are not supported; merge the adapter into its base with PEFT`);
  return {
    path,
    settings: {
      rank: data.r,
      alpha: data.lora_alpha,
      rslora: data.use_rslora ?? false,
      targets: data.target_modules,
      saved: data.modules_to_save ?? [],
    },
    base: { name: data.base_model_name_or_path, revision: data.revision ?? null },
    isScorer: data.task_type === tasks.score,
  };
}

/** The base as an adapter of this model should name it: an adapter's own base, or the model as the user named it. */
export function baseNameOf(folder: string, named: BaseName): BaseName {
  return isAdapterFolder(folder) ? readAdapterConfig(folder).base : named;
}

/** The base of an adapter on the hub; null: it is a folder. */
export function hubBase({ base: { name, revision } }: AdapterConfig): Repository | null {
  if (existsSync(name)) return null;
  const found = hubName(name);
  return found && { type: "model", id: found.id, revision: found.revision ?? revision };
}

/**
 * The folder of an adapter's base model, on this machine: a model of the hub has been downloaded before.
 *
 * @throws InputError if it is not there, or is an adapter itself
 */
export function baseFolderOf(folder: string): string {
  const config = readAdapterConfig(folder);
  const { name } = config.base;
  const found = existsSync(name) ? name : inCache(config);
  if (found === null)
    throw new InputError(
      `${config.path}: base_model_name_or_path: there is no ${name}, neither a folder nor a model from the hub; write there where the base model is`,
    );
  if (isAdapterFolder(found))
    throw new InputError(
      `${config.path}: base_model_name_or_path: ${name} is an adapter too; merge that one into its base (grpo export --merge) and write the merged model's folder there`,
    );
  return found;
}

function inCache(config: AdapterConfig): string | null {
  const repo = hubBase(config);
  const commit = repo && cachedCommit(repo);
  const folder = commit && snapshotFolder(repo, commit);
  return folder && existsSync(folder) ? folder : null;
}

/** An adapter's tensors by the names that PEFT gives them. */
export interface AdapterFile {
  readonly config: AdapterConfig;
  readonly path: string;
  readonly names: readonly string[];
  find(name: string): MappedTensor | null;
  release(): void;
  close(): void;
}

/** @throws InputError if it is missing or damaged */
export function openAdapter(folder: string): AdapterFile {
  const config = readAdapterConfig(folder);
  const path = join(folder, adapterWeightsName);
  if (!existsSync(path)) {
    const pickled = readdirSync(folder).find((name) => /^adapter_model.*\.(bin|pt)$/.test(name));
    throw new InputError(
      pickled === undefined
        ? `${folder}: holds ${adapterConfigName} but no ${adapterWeightsName}; download it`
        : `${folder}: the adapter is in ${pickled}, a pickle, which is not supported; load it in PEFT and call save_pretrained`,
    );
  }
  const file = openSafetensors(path);
  const { tensors, release, close } = file;
  return { config, path, names: [...tensors.keys()], find: (name) => tensors.get(name) ?? null, release, close };
}

/**
 * Checks that an adapter's file has what its configuration implies for a base model.
 *
 * @param expected names and shapes of the adapters and copies
 * @throws InputError naming the first tensor that is missing, has another shape, or that nothing asks for
 */
export function checkAdapterFile(
  file: AdapterFile,
  expected: readonly { readonly name: string; readonly shape: readonly number[] }[],
): void {
  for (const { name, shape } of expected) {
    const found = file.find(name);
    if (found === null)
      throw new InputError(
        `${file.path}: tensor ${name} is missing; the adapter is incomplete or of another base model`,
      );
    if (found.shape.join() !== shape.join())
      throw new InputError(
        `${file.path}: tensor ${name} has shape [${found.shape}], base model and ${adapterConfigName} imply [${shape}]; the adapter is of another base model or rank`,
      );
  }
  const known = new Set(expected.map(({ name }) => name));
  const other = file.names.find((name) => !known.has(name));
  if (other !== undefined)
    throw new InputError(
      `${file.path}: tensor ${/^[\w.-]{1,160}$/.test(other) ? other : JSON.stringify(other.slice(0, 60))} belongs to no module of the base model that ${adapterConfigName} names; the adapter is of another base model`,
    );
}

/**
 * Writes adapter_config.json as PEFT reads it.
 *
 * @throws RunError if it cannot be written
 */
export function writeAdapterConfig(
  to: string,
  { head }: Pick<ModelConfig, "head">,
  { rank, alpha, rslora, targets, saved }: AdapterSettings,
  base: BaseName,
): void {
  const isScore = head === "score";
  const modules = isScore ? [...new Set([...saved, "classifier", "score"])] : saved;
  const json = {
    alpha_pattern: {},
    auto_mapping: null,
    base_model_name_or_path: existsSync(base.name) ? resolve(base.name) : base.name,
    bias: "none",
    exclude_modules: null,
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    layer_replication: null,
    layers_pattern: null,
    layers_to_transform: null,
    loftq_config: {},
    lora_alpha: alpha,
    lora_bias: false,
    lora_dropout: 0,
    megatron_config: null,
    megatron_core: "megatron.core",
    modules_to_save: modules.length > 0 ? modules : null,
    peft_type: "LORA",
    r: rank,
    rank_pattern: {},
    revision: base.revision,
    target_modules: targets,
    task_type: tasks[head],
    use_dora: false,
    use_rslora: rslora,
  };
  writeFileAtomic(join(to, adapterConfigName), `${JSON.stringify(json, null, 2)}\n`);
}
