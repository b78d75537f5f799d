/**
 * AdamW with float32 masters (whole or in two halves, as the device has them), gradients and moments (Loshchilov & Hutter 2019), and clipping of the global gradient
 * norm. All buffers have their parameter's layout, so a step is elementwise.
 */
import { breathe } from "../device/breathe.ts";
import type { Device, Weight } from "../device/device.ts";
import { RunError } from "../errors.ts";
import { bindBlock, planBlock } from "../tensor/blocks.ts";
import { bytesPerElement, type ComputeDType, type DType } from "../tensor/dtype.ts";
import type { Phase, PlanBuilder } from "../tensor/plan.ts";
import { rows, type Tensor, tensor } from "../tensor/tensor.ts";

export interface OptimizerSettings {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  /** 0: no clipping. */
  readonly maxGradNorm: number;
}

/** A run's settings from which they are made. */
export interface AdamSettings {
  readonly adamBeta1: number;
  readonly adamBeta2: number;
  readonly adamEpsilon: number;
  readonly weightDecay: number;
  readonly maxGradNorm: number;
}

export function optimizerSettings(settings: AdamSettings): OptimizerSettings {
  const { adamBeta1: beta1, adamBeta2: beta2, adamEpsilon: epsilon, weightDecay, maxGradNorm } = settings;
  return { beta1, beta2, epsilon, weightDecay, maxGradNorm };
}

export interface OptimizedParameter {
  readonly weight: Weight;
  readonly decays: boolean;
  readonly gradient: Tensor;
}

/** Elements of a parameter that this process updates: all of them, or with several ranks some. */
export interface OptimizedPart extends OptimizedParameter {
  /** The parameter's name, and its first element of these. */
  readonly name: string;
  readonly from: number;
  /** For a float32 model, the parameter itself; else float32 or its lower half (Device.masterDType). */
  readonly master: Tensor;
  readonly m: Tensor;
  readonly v: Tensor;
}

export interface OptimizerState {
  /** The trained parameters. */
  readonly parameters: readonly OptimizedParameter[];
  /** What a step updates. */
  readonly parts: readonly OptimizedPart[];
  /** By name, of each parameter and of each block of several; null for a parameter that is not trained. */
  readonly gradients: ReadonlyMap<string, Tensor | null>;
  /** Steps taken, for the bias correction. */
  step: number;
  /** Sums of squares, by parameter. */
  readonly sums: Tensor; // float64 (parameters)
}

/** Parameters that lie side by side. */
interface Specifications {
  readonly name: string;
  readonly parts: readonly Specification[];
}

interface Specification {
  readonly name: string;
  readonly shape: readonly number[];
  readonly decays: boolean;
  readonly trainable: boolean;
}

/** The model that an optimizer belongs to; the policy by default. */
interface OptimizerOwner {
  /** Prefix of the names of its buffers and groups. */
  readonly prefix: string;
  /** The phase in which its gradients are live. */
  readonly phase: Phase;
}

/** Elements of one parameter, by its name. */
interface Range {
  readonly name: string;
  readonly from: number;
  readonly count: number;
}

/**
 * Adds masters (for bfloat16 parameters), moments and gradients of trained parameters to the plan, in the blocks of the
 * parameters; the returned function binds them after allocation, given the parameters, and keeps their order. Gradients
 * are live only during the owner's phase. A block that is trained in part has no gradient as a whole.
 *
 * @param owned the elements that this process updates, which alone have masters and moments; null: all
 */
export function planOptimizer(
  plan: PlanBuilder,
  device: Device,
  blocks: readonly Specifications[],
  dtype: ComputeDType,
  { prefix, phase }: OptimizerOwner = { prefix: "", phase: "update" },
  owned: readonly Range[] | null = null,
): (tensors: ReadonlyMap<string, Tensor>, weights: readonly Weight[]) => OptimizerState {
  const whole = ({ parts }: Specifications) => parts.every(({ trainable }) => trainable);
  const trained = blocks
    .flatMap((block) => (whole(block) ? [block] : block.parts.map((part) => ({ name: part.name, parts: [part] }))))
    .filter(whole)
    .map(({ name, parts }) => ({
      name,
      parts: parts.map((part) => ({ name: part.name, elements: device.parameterElements(part.shape, dtype) })),
    }));
  const types: Readonly<Record<"master" | "m" | "v", DType>> = {
    ...{ master: device.masterDType, m: "float32", v: "float32" },
  };
  const groups = { master: "master weights", m: "Adam moments", v: "Adam moments" };
  const kinds = (["master", "m", "v"] as const).filter((kind) => kind !== "master" || dtype !== "float32");
  // What is owned lies side by side, as one block.
  const ranges = owned?.map(({ name, from, count }) => ({ name: `${name} ${from}`, elements: count }));
  const kept = ranges ? [{ name: "owned", parts: ranges }] : trained;
  for (const kind of kinds)
    for (const block of kept)
      planBlock(plan, [`${prefix}${groups[kind]}`, `${prefix}${kind}`, types[kind]], block, "always");
  for (const block of trained) planBlock(plan, [`${prefix}gradients`, `${prefix}gradient`, "float32"], block, [phase]);
  const decays = new Map(blocks.flatMap(({ parts }) => parts.map((part) => [part.name, part.decays])));
  const count = trained.reduce((sum, { parts }) => sum + parts.length, 0);
  const sums = `${prefix}sums of squares`;
  plan.add(`${prefix}optimizer scalars`, sums, "float64", [count]);
  return (tensors, weights) => {
    const bound = (own: string, all: typeof kept) =>
      new Map(all.flatMap((block) => [...bindBlock(tensors, `${prefix}${own}`, block)]));
    const gradient = bound("gradient", trained);
    const buffers = new Map(kinds.map((kind) => [kind, bound(kind, kept)]));
    const parameters = weights
      .filter(({ name }) => gradient.has(name))
      .map((weight) => ({ weight, decays: decays.get(weight.name)!, gradient: gradient.get(weight.name)! }));
    if (parameters.length !== count) throw new Error(`${count} trained parameters, ${parameters.length} of them given`);
    const gradients = new Map<string, Tensor | null>([...decays.keys()].map((name) => [name, null]));
    for (const [name, buffer] of gradient) gradients.set(name, buffer);
    const part = (parameter: OptimizedParameter, from: number, elements: number, key: string): OptimizedPart => {
      const weight = elementsOf(parameter.weight, from, elements);
      const own = tensor(weight.name, weight.address, weight.dtype, [elements]);
      return {
        ...{ weight, name: weight.name, from, decays: parameter.decays },
        gradient: rows(parameter.gradient, from, elements),
        ...{ master: buffers.get("master")?.get(key) ?? own, m: buffers.get("m")!.get(key)! },
        v: buffers.get("v")!.get(key)!,
      };
    };
    const byName = new Map(parameters.map((parameter) => [parameter.weight.name, parameter]));
    const parts = owned
      ? owned.map(({ name, from, count: own }) => part(byName.get(name)!, from, own, `${name} ${from}`))
      : parameters.map((parameter) => part(parameter, 0, parameter.weight.elements, parameter.weight.name));
    return { parameters, parts, gradients, step: 0, sums: tensors.get(sums)! };
  };
}

/** Some elements of a parameter, in its own layout: for what is elementwise. */
export function elementsOf(weight: Weight, from: number, count: number): Weight {
  const address = weight.address + from * bytesPerElement(weight.dtype);
  return { ...weight, address, elements: count };
}

/** The trained parameters with their elements, padding included. */
export function trainedSizes(
  device: Pick<Device, "parameterElements">,
  blocks: readonly Specifications[],
  dtype: ComputeDType,
): { readonly name: string; readonly elements: number }[] {
  return blocks
    .flatMap(({ parts }) => parts.filter(({ trainable }) => trainable))
    .map(({ name, shape }) => ({ name, elements: device.parameterElements(shape, dtype) }));
}

/** A parameter's masters, to be saved and loaded like the parameter. */
export function mastersOf({ weight, master }: Pick<OptimizedPart, "weight" | "master">): Weight {
  const own: Weight = { ...weight, address: master.address, dtype: "float32", layoutOf: weight.dtype };
  return master.dtype === "float32" ? own : { ...own, upper: weight.address };
}

/** Sets masters to the parameters. Moments are zero, as new memory is, and so are lower halves of masters. */
export function startOptimizer({ ops, masterDType }: Device, state: OptimizerState): void {
  for (const { weight, master } of state.parts)
    if (weight.dtype !== "float32" && masterDType === "float32")
      ops.cast(master, tensor(weight.name, weight.address, weight.dtype, [weight.elements]));
}

export function zeroGradients({ ops }: Device, state: OptimizerState): void {
  for (const { gradient } of state.parameters) ops.fill(gradient, 0);
}

/** The sums of squares of the trained weights' float32 values, by parameter. */
export async function sumsOfSquares(device: Device, state: OptimizerState): Promise<Float64Array> {
  for (const [i, { weight, gradient: scratch }] of state.parameters.entries()) {
    device.ops.cast(scratch, tensor(weight.name, weight.address, weight.dtype, [weight.elements]));
    device.ops.sumSquares(rows(state.sums, i, 1), scratch);
    await breathe();
  }
  return (await device.read(state.sums)) as Float64Array;
}

/** Global L2 norm of all gradients. */
async function gradientNorm(device: Device, state: OptimizerState): Promise<number> {
  for (const [i, { gradient }] of state.parameters.entries()) {
    device.ops.sumSquares(rows(state.sums, i, 1), gradient);
    await breathe();
  }
  const sums = (await device.read(state.sums)) as Float64Array;
  return Math.sqrt(sums.reduce((total, sum) => total + sum, 0));
}

/**
 * One optimizer step on the accumulated gradients. Returns their norm before clipping.
 *
 * @param known the norm, where it has been computed already
 * @throws RunError if the norm is not finite, before any weight is changed
 */
export async function optimizerStep(
  device: Device,
  state: OptimizerState,
  settings: OptimizerSettings,
  learningRate: number,
  known: number | null = null,
): Promise<number> {
  const norm = known ?? (await gradientNorm(device, state));
  if (!Number.isFinite(norm))
    throw new RunError(
      `the gradient norm is ${norm} at optimizer step ${state.step + 1}: stopped before any weight changed; resume from the last checkpoint with a lower learning_rate`,
    );
  const { maxGradNorm } = settings;
  const gradientScale = maxGradNorm > 0 ? Math.min(1, maxGradNorm / (norm + 1e-6)) : 1;
  state.step++;
  for (const { weight, decays, master, m, v, gradient } of state.parts) {
    device.ops.adamw(weight, master, m, v, gradient, {
      ...settings,
      learningRate,
      weightDecay: decays ? settings.weightDecay : 0,
      step: state.step,
      gradientScale,
    });
    await breathe();
  }
  return norm;
}
