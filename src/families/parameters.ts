/** A model's parameters as a list, for loading, training and saving, in the order of the forward pass. */
import { adaptedName } from "./adapter-names.ts";
import type { ModelConfig } from "./config.ts";
import {
  type Adapter,
  type Experts,
  isExperts,
  type Layer,
  type Linear,
  mapLayer,
  matrix,
  type ParameterSpec,
  productsOfOneInput,
} from "./layer.ts";

/** The head of a reward model or critic, (1, D), as transformers' sequence classification names it in every family. */
export const scalarHead = "score.weight";

/** The head's own parameter; null if it is the embedding. */
export function ownHead(config: ModelConfig): ParameterSpec | null {
  if (config.head === "score") {
    const spec = matrix(scalarHead, 1, config.hiddenSize);
    return config.adapters ? { ...spec, name: adaptedName(spec.name) } : spec;
  }
  return config.tieWordEmbeddings ? null : config.lmHead;
}

export function layersOf(config: ModelConfig): Layer<ParameterSpec>[] {
  return Array.from({ length: config.numLayers }, (_, index) => config.layer(index));
}

/** Every parameter in the order of the forward pass. */
export function parameterSpecs(config: ModelConfig): ParameterSpec[] {
  return listed(config, layersOf(config));
}

function listed(config: ModelConfig, layers: readonly Layer<ParameterSpec>[]): ParameterSpec[] {
  const specs = [config.embedding];
  for (const layer of layers) mapLayer(layer, (spec) => specs.push(spec));
  const head = ownHead(config);
  const all = [...specs, config.finalNorm, ...(head ? [head] : [])];
  return all.flatMap((spec) => (spec.copyOf ? [spec.copyOf, spec] : [spec]));
}

/** The adapters of a model's projections, by the name of the weight beside which they are. */
export function adaptersByWeight(config: ModelConfig): ReadonlyMap<string, Adapter<ParameterSpec>> {
  const found = new Map<string, Adapter<ParameterSpec>>();
  for (const layer of layersOf(config))
    mapLayer(
      layer,
      (spec) => spec,
      (linear) => {
        if (linear.adapter) found.set(linear.weight.name, linear.adapter);
        return linear;
      },
    );
  return found;
}

/** Parameters that lie side by side in memory, in this order; most are alone. */
export interface ParameterBlock {
  readonly name: string;
  readonly parts: readonly ParameterSpec[];
}

/** The name of several parameters as one. */
export function joinedName(parts: readonly { readonly name: string }[]): string {
  return parts.map(({ name }) => name).join(" + ");
}

/** The name of the weights of all experts of a layer as one. */
export function expertsName([first]: readonly { readonly name: string }[]): string {
  return first!.name.replace(".experts.0.", ".experts.*.");
}

/** Weights of all experts, which lie side by side so that one product can take all of them. */
export function expertBlocks<P>({ gate, up, down }: Experts<P>): readonly (readonly P[])[] {
  return [gate, up, down];
}

/** Whether parameters side by side are one: matrices whose rows fill whole blocks of the device's layout (in NF4 each has scales of its own), biases for all or none. */
function joinable(linears: readonly Linear<ParameterSpec>[], rowBlock: number): boolean {
  const [first] = linears;
  return linears.every(
    ({ weight, bias }) =>
      weight.shape[0]! % rowBlock === 0 && !weight.quantized && (bias === null) === (first?.bias === null),
  );
}

/**
 * Every parameter, in blocks: weights of products that share their input lie side by side, and so do their biases and
 * the first matrices of their adapters, so that one product can compute all of them.
 */
export function parameterBlocks(config: ModelConfig, rowBlock: number): ParameterBlock[] {
  const blockOf = new Map<ParameterSpec, readonly ParameterSpec[]>();
  const layers = layersOf(config);
  const experts = new Set<readonly ParameterSpec[]>();
  for (const { mlp } of layers)
    for (const parts of isExperts(mlp) ? expertBlocks(mlp) : []) {
      experts.add(parts);
      for (const spec of parts) blockOf.set(spec, parts);
    }
  for (const layer of layers)
    for (const linears of Object.values(productsOfOneInput(layer))) {
      const down = linears.flatMap(({ adapter }) => adapter?.a ?? []);
      if (down.every(({ shape }) => shape[0]! % rowBlock === 0)) for (const spec of down) blockOf.set(spec, down);
      if (!joinable(linears, rowBlock)) continue;
      const biases = linears.flatMap(({ bias }) => bias ?? []);
      for (const parts of [linears.map(({ weight }) => weight), biases])
        for (const spec of parts) blockOf.set(spec, parts);
    }
  return listed(config, layers).flatMap((spec) => {
    const parts = blockOf.get(spec) ?? [spec];
    if (parts[0] !== spec) return [];
    return [{ name: experts.has(parts) ? expertsName(parts) : joinedName(parts), parts }];
  });
}

/** Number of parameters that are trained and saved: all, or with adapters theirs and those of copies. */
export function trainedCount(config: ModelConfig): number {
  return parameterSpecs(config).reduce((sum, { shape, trainable }) => (trainable ? sum + countOf(shape) : sum), 0);
}

const countOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Number of parameters, counting tied ones once. */
export function parameterCount(config: ModelConfig): number {
  return parameterSpecs(config).reduce((sum, { shape }) => sum + countOf(shape), 0);
}

/** Parameters that one token passes, and those of them that are trained: of a layer's experts, only the token's own. */
export function activeCount(config: ModelConfig): { readonly all: number; readonly trained: number } {
  const unused = layersOf(config).flatMap(({ mlp }) =>
    isExperts(mlp) ? expertBlocks(mlp).flatMap((specs) => specs.slice(mlp.perToken)) : [],
  );
  const count = (specs: readonly ParameterSpec[]) => specs.reduce((sum, { shape }) => sum + countOf(shape), 0);
  return {
    all: parameterCount(config) - count(unused),
    trained: trainedCount(config) - count(unused.filter(({ trainable }) => trainable)),
  };
}

/** The sizes that determine a model's buffers. */
function sizesOf(config: ModelConfig): (readonly [what: string, size: number | boolean])[] {
  const { vocabSize, hiddenSize, numLayers } = config;
  const layers = layersOf(config).flatMap(({ attention, attentionNorm, mlp, mlpNorm }, i) => {
    const { shape, headNorms } = attention;
    const { intermediateSize } = mlp;
    const [numExperts, perToken] = isExperts(mlp) ? [mlp.gate.length, mlp.perToken] : [0, 0];
    return Object.entries({
      ...{
        intermediateSize,
        numExperts,
        perToken,
        numHeads: shape.heads,
        numKvHeads: shape.kvHeads,
        headDim: shape.headDim,
      },
      ...{ qkNorm: headNorms !== null, attentionNorm: attentionNorm !== null, mlpNorm: mlpNorm !== null },
    }).map(([what, size]) => [`${what} of layer ${i}`, size] as const);
  });
  return [...Object.entries({ vocabSize, hiddenSize, numLayers }), ...layers];
}

/** The first size in which two models differ, so that one cannot run in the other's buffers; null if none differs. */
export function differentSize(
  config: ModelConfig,
  from: ModelConfig,
): { readonly what: string; readonly own: number | boolean; readonly other: number | boolean } | null {
  const others = sizesOf(from);
  for (const [i, [what, own]] of sizesOf(config).entries()) {
    const other = others[i]![1];
    if (own !== other) return { what, own, other };
  }
  return null;
}
