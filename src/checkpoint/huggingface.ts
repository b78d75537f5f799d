/**
 * Reads and writes a model folder in Hugging Face's layout: config.json, safetensors and the tokenizer's files. The
 * weights themselves are read by `checkpoint.ts` and written by `safetensors-write.ts`.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { readJsonFile } from "../config/json-file.ts";
import { InputError } from "../errors.ts";
import {
  architectureOf,
  type ModelConfig,
  type ModelHead,
  type WeightDtype,
  withScalarHead,
} from "../families/config.ts";
import { parseModelConfig } from "../families/families.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { requireFile } from "../files/paths.ts";
import { writeFailure } from "../files/refusals.ts";
import {
  type AdapterConfig,
  type AdapterFile,
  adapterConfigName,
  adapterWeightsName,
  baseFolderOf,
  isAdapterFolder,
  openAdapter,
  readAdapterConfig,
} from "./adapter.ts";
import { type Checkpoint, openCheckpoint } from "./checkpoint.ts";
import { checkQuantization } from "./nf4.ts";

export interface ModelFolder {
  readonly folder: string;
  readonly config: ModelConfig;
  readonly checkpoint: Checkpoint;
  /** Config and checkpoint are those of its base; null: the folder is a whole model. */
  readonly adapter: AdapterFile | null;
  /** Where config and weights are: the folder itself, or an adapter's base. */
  readonly base: string;
}

/**
 * Opens a model folder, or that of an adapter with its base. If config.json names no dtype, it is the one that most of
 * the weights are stored in.
 *
 * @param wanted the head that is needed: a language model's by default
 * @param base an adapter's base, if that is not where the adapter says
 * @throws InputError for a missing folder or file, an unsupported model or one with another head, damaged weights
 */
export function readModelFolder(
  folder: string,
  wanted: ModelHead | "either" = "lm",
  base: string | null = null,
): ModelFolder {
  if (isAdapterFolder(folder)) {
    const adapter = openAdapter(folder);
    try {
      const from = base ?? baseFolderOf(folder);
      const config = readAdaptedConfig(adapter.config, from, wanted);
      const { config: own, ...rest } = readModelFolder(from, "either");
      return { ...rest, folder, config: { ...config, dtype: own.dtype }, adapter };
    } catch (error) {
      adapter.close();
      throw error;
    }
  }
  const config = readModelConfig(folder, wanted);
  const checkpoint = openCheckpoint(folder);
  const named = config.raw.dtype ?? config.raw.torch_dtype ?? "auto";
  const settled = named === "auto" ? { ...config, dtype: storedDtype(checkpoint) } : config;
  return { folder, config: settled, checkpoint, adapter: null, base: folder };
}

/**
 * The config of an adapter's base. An adapter for sequence classification brings a scalar head, which a language model as
 * its base need not have.
 */
function readAdaptedConfig({ path, isScorer }: AdapterConfig, base: string, wanted: ModelHead | "either"): ModelConfig {
  if (!isScorer) return readModelConfig(base, wanted);
  if (wanted === "lm")
    throw new InputError(
      `${path}: task_type: an adapter for sequence classification scores text and cannot generate it; give it in reward_funcs or critic_model`,
    );
  return withScalarHead(readModelConfig(base, "either"));
}

/** Where config.json and the tokenizer's files are: an adapter has at most the latter. */
export function placesOf(folder: string): { readonly config: string; readonly tokenizer: string } {
  if (!isAdapterFolder(folder)) return { config: folder, tokenizer: folder };
  const base = baseFolderOf(folder);
  return { config: base, tokenizer: existsSync(join(folder, "tokenizer.json")) ? folder : base };
}

/** @throws InputError if `folder` is neither a model folder nor an adapter's, or holds an unsupported model, or one without the head `wanted` */
export function readModelConfig(folder: string, wanted: ModelHead | "either" = "lm"): ModelConfig {
  const stat = statSync(folder, { throwIfNoEntry: false });
  if (stat === undefined) throw new InputError(`${folder}: no such folder; check the path`);
  if (!stat.isDirectory())
    throw new InputError(`${folder}: is a file; give the folder with config.json and the safetensors weights`);
  requireFile(folder);
  if (isAdapterFolder(folder)) return readAdaptedConfig(readAdapterConfig(folder), baseFolderOf(folder), wanted);
  const path = join(folder, "config.json");
  if (!existsSync(path)) throw new InputError(`${folder}: holds no config.json; give a model folder`);
  const config = parseModelConfig(readJsonFile(path), path, wanted);
  const { quantization_config: quantization = null } = config.raw;
  if (quantization !== null && quantization !== false) checkQuantization(quantization, path);
  return config;
}

function storedDtype(checkpoint: Checkpoint): WeightDtype {
  const bytes: Record<WeightDtype, number> = { float32: 0, bfloat16: 0, float16: 0 };
  const names: Readonly<Record<string, WeightDtype>> = { F32: "float32", BF16: "bfloat16", F16: "float16" };
  for (const name of checkpoint.names) {
    const tensor = checkpoint.get(name);
    const dtype = names[tensor.dtype];
    if (dtype !== undefined) bytes[dtype] += tensor.byteLength;
  }
  const order: WeightDtype[] = ["float32", "bfloat16", "float16"];
  return order.reduce((most, dtype) => (bytes[dtype] > bytes[most] ? dtype : most));
}

/** A model's files other than its config and weights. */
const assetName =
  /^(tokenizer.*\.json|tokenizer\.model|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template\.(jinja|json)|generation_config\.json)$/;
const templateFolder = "additional_chat_templates";

/** Whether a file of a model's repository, by its path there, is one that this program reads or passes on. */
export function isModelFile(path: string): boolean {
  const isWeight = /^model(-\d+-of-\d+)?\.safetensors(\.index\.json)?$/.test(path);
  const isAdapter = path === adapterConfigName || path === adapterWeightsName;
  return (
    path === "config.json" || isWeight || isAdapter || assetName.test(path) || path.startsWith(`${templateFolder}/`)
  );
}

/**
 * Copies the tokenizer, chat templates and generation settings, whichever exist.
 *
 * @throws RunError if they cannot be written
 */
export function copyModelAssets(folder: string, to: string): void {
  const from = placesOf(folder).tokenizer;
  if (existsSync(to) && realpathSync(from) === realpathSync(to)) return;
  const names = readdirSync(from).filter((name) => assetName.test(name));
  const templates = join(from, templateFolder);
  if (existsSync(templates))
    names.push(
      ...readdirSync(templates).flatMap((name) => (name.endsWith(".jinja") ? join(templateFolder, name) : [])),
    );
  try {
    for (const name of names) {
      requireFile(join(from, name));
      mkdirSync(dirname(join(to, name)), { recursive: true });
      // Written rather than copied: a read-only original must not make the next save fail.
      writeFileAtomic(join(to, name), readFileSync(join(from, name)));
    }
  } catch (error) {
    throw writeFailure(error, to);
  }
}

/**
 * Writes chat_template.jinja, which overrides a template in tokenizer_config.json here and in transformers.
 *
 * @throws RunError if it cannot be written
 */
export function writeChatTemplate(to: string, template: string): void {
  try {
    writeFileAtomic(join(to, "chat_template.jinja"), template);
  } catch (error) {
    throw writeFailure(error, to);
  }
}

/**
 * Writes config.json: the object that was read, with the current dtype of the weights, in its original spelling.
 *
 * @throws RunError if it cannot be written
 */
export function writeConfig(to: string, config: ModelConfig, dtype: WeightDtype): void {
  const { raw } = config;
  const spellings = ["dtype", "torch_dtype"].filter((key) => raw[key] !== undefined);
  if (spellings.length === 0) spellings.push(raw.rope_parameters === undefined ? "torch_dtype" : "dtype");
  const json = {
    ...raw,
    // vLLM selects the implementation by it.
    architectures: raw.architectures ?? [architectureOf(config.family, config.head)],
    ...Object.fromEntries(spellings.map((key) => [key, dtype])),
  };
  writeFileAtomic(join(to, "config.json"), `${stringifyConfig(json)}\n`);
}

/** Fields that transformers declares as float and refuses as int: 10000 read from `10000.0` must be written as it was. */
const floatFields = new Set([
  "attention_dropout",
  "attention_factor",
  "attn_logit_softcapping",
  "beta_fast",
  "beta_slow",
  "factor",
  "final_logit_softcapping",
  "high_freq_factor",
  "initializer_range",
  "low_freq_factor",
  "mscale",
  "mscale_all_dim",
  "partial_rotary_factor",
  "rms_norm_eps",
  "rope_local_base_freq",
  "rope_theta",
  "router_aux_loss_coef",
]);

function stringifyConfig(json: unknown): string {
  const marked = JSON.stringify(
    json,
    (key, value) => (floatFields.has(key) && Number.isSafeInteger(value) ? `float:${value}` : value),
    2,
  );
  return marked.replace(/"float:(-?\d+)"/g, "$1.0");
}
