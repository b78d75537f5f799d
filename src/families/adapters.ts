/**
 * LoRA (Hu et al. 2021, arXiv 2106.09685): a model whose parameters stay as they are, beside which low-rank matrices are
 * trained. Which of them a model has follows from settings with PEFT's meaning; their names are those in PEFT's files.
 */
import { InputError } from "../errors.ts";
import { adaptedName } from "./adapter-names.ts";
import type { AdapterSettings, ModelConfig } from "./config.ts";
import { isExperts, type Linear, mapLayer, matrix, type ParameterSpec } from "./layer.ts";
import { layersOf, ownHead } from "./parameters.ts";

/** PEFT's word for every projection of the layers. */
export const allLinear = "all-linear";

/** A parameter's module: its name without `.weight` or `.bias`. */
const moduleOf = (name: string): string => name.replace(/\.(weight|bias)$/, "");

/** The last part of a path. */
const lastPart = (path: string): string => path.slice(path.lastIndexOf(".") + 1);

function* linearsOf(config: ModelConfig): Generator<Linear<ParameterSpec>> {
  for (const layer of layersOf(config)) {
    const found: Linear<ParameterSpec>[] = [];
    mapLayer(
      layer,
      (spec) => spec,
      (linear) => {
        found.push(linear);
        return linear;
      },
    );
    yield* found;
  }
}

/** The modules that an adapter can belong to, in the order of the forward pass. */
function linearModules(config: ModelConfig): string[] {
  return [...linearsOf(config)].map(({ weight }) => moduleOf(weight.name));
}

/** The names of a model's projections, each once: `q_proj`, `k_proj`, … */
export function projectionNames(config: ModelConfig): string[] {
  return [...new Set(linearModules(config).map(lastPart))];
}

const endsWith = (path: string, name: string): boolean => path === name || path.endsWith(`.${name}`);

/** PEFT's match of a projection's path. */
function isTarget(targets: AdapterSettings["targets"]): (path: string) => boolean {
  if (targets === allLinear) return () => true;
  if (typeof targets !== "string") return (path) => targets.some((name) => endsWith(path, name));
  const pattern = new RegExp(`^(?:${targets})$`);
  return (path) => pattern.test(path);
}

/** PEFT's match of another module's path. */
const isSaved = (saved: readonly string[], path: string): boolean => saved.some((name) => path.endsWith(name));

/** Where settings of adapters are written, for messages. */
export interface AdapterNames {
  /** "lora_target_modules", or a file and its field. */
  readonly targets: string;
  readonly saved: string;
}

/**
 * Checks that a model has what the settings name.
 *
 * @param names how messages call the settings
 * @throws InputError for a name that no projection has, or for nothing left to train
 */
export function checkAdapters(config: ModelConfig, settings: AdapterSettings, names: AdapterNames): void {
  const { targets, saved } = settings;
  const there = projectionNames(config).join(", ");
  const paths = linearModules(config);
  let isFound: (path: string) => boolean;
  try {
    isFound = isTarget(targets);
  } catch {
    throw new InputError(`${names.targets}: ${JSON.stringify(targets)} is not a pattern; name some of ${there}`);
  }
  const heads = [config.lmHead.name, config.embedding.name].map(moduleOf);
  for (const name of typeof targets === "string" ? [] : targets) {
    if (paths.some((path) => endsWith(path, name))) continue;
    if (heads.some((path) => endsWith(path, name)))
      throw new InputError(
        `${names.targets}: ${name} has no adapter here, since logprobs are computed with its weight; leave it out, or train a copy of it with ${names.saved}`,
      );
    if (ofExperts(config, name))
      throw new InputError(
        `${names.targets}: ${JSON.stringify(name)} is a part of the layers' mixtures of experts, which have no adapters; leave it out: there are ${there}`,
      );
    throw new InputError(`${names.targets}: no layer has ${JSON.stringify(name)}; there are ${there}`);
  }
  if (!paths.some(isFound))
    throw new InputError(`${names.targets}: ${JSON.stringify(targets)} names no projection; there are ${there}`);
  for (const name of saved) checkSaved(config, name, paths, names.saved);
}

/** Whether a name is one of the experts, of their matrices, or of the router. */
function ofExperts(config: ModelConfig, name: string): boolean {
  return layersOf(config).some(({ mlp }) => {
    if (!isExperts(mlp)) return false;
    const { router, gate, up, down } = mlp;
    // A matrix may be named by its expert too, or by what has them all.
    return [router, ...gate, ...up, ...down].some((spec) => `.${moduleOf(spec.name)}.`.includes(`.${name}.`));
  });
}

function checkSaved(config: ModelConfig, name: string, linears: readonly string[], label: string): void {
  const projection = linears.find((path) => path.endsWith(name));
  if (projection !== undefined)
    throw new InputError(
      `${label}: ${JSON.stringify(name)} is the projection ${projection}, which can have an adapter but no copy; leave it out`,
    );
  if (config.head === "score" && scoreHeads.includes(name)) return;
  const head = moduleOf(config.lmHead.name);
  if (config.tieWordEmbeddings && head.endsWith(name))
    throw new InputError(
      `${label}: ${name} is the embedding in this model (tie_word_embeddings), not a module of its own; leave it out`,
    );
  const others = otherModules(config);
  if (others.some((path) => path.endsWith(name))) return;
  const known = [...new Set(others.map(lastPart))].join(", ");
  throw new InputError(`${label}: no module is called ${JSON.stringify(name)}; there are ${known}`);
}

/** PEFT adds these for sequence classification; one of them is ours. */
export const scoreHeads: readonly string[] = ["classifier", "score"];

/** Modules other than the layers' projections. */
function otherModules(config: ModelConfig): string[] {
  const linears = new Set(linearModules(config));
  const head = ownHead(config);
  const specs = [config.embedding, config.finalNorm, ...(head ? [head] : [])];
  for (const layer of layersOf(config)) mapLayer(layer, (spec) => specs.push(spec));
  return specs.map(({ name }) => moduleOf(name)).filter((path) => !linears.has(path));
}

/**
 * The same model with adapters: only they, and copies of the modules to save, are trained. The settings have been checked.
 */
export function withAdapters(config: ModelConfig, settings: AdapterSettings): ModelConfig {
  const { rank, alpha, rslora, targets, saved } = settings;
  const scale = alpha / (rslora ? Math.sqrt(rank) : rank);
  const isFound = isTarget(targets);
  const own = (spec: ParameterSpec): ParameterSpec => {
    const frozen = { ...spec, trainable: false };
    return isSaved(saved, moduleOf(spec.name)) ? { ...spec, name: adaptedName(spec.name), copyOf: frozen } : frozen;
  };
  const adapted = (linear: Linear<ParameterSpec>, mapped: Linear<ParameterSpec>): Linear<ParameterSpec> => {
    const { name, shape } = linear.weight;
    const path = moduleOf(name);
    if (!isFound(path)) return mapped;
    const [n = 0, k = 0] = shape;
    const a = matrix(adaptedName(`${path}.lora_A.weight`), rank, k);
    return { ...mapped, adapter: { a, b: matrix(adaptedName(`${path}.lora_B.weight`), n, rank), scale } };
  };
  return {
    ...config,
    adapters: settings,
    embedding: own(config.embedding),
    layer: (index) => mapLayer(config.layer(index), own, adapted),
    finalNorm: own(config.finalNorm),
    lmHead: own(config.lmHead),
  };
}

/** Columns that the adapters of one input take side by side: each begins at a multiple of this. */
const ALIGNMENT = 16;

/** The columns in which the product of a's of one input begin, and their total. */
export function adapterColumns(ranks: readonly number[]): { readonly starts: number[]; readonly total: number } {
  let total = 0;
  const starts = ranks.map((rank) => {
    const start = total;
    total += Math.ceil(rank / ALIGNMENT) * ALIGNMENT;
    return start;
  });
  return { starts, total };
}
