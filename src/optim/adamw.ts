/**
 * AdamW (Loshchilov & Hutter 2019) and clipping of the global gradient norm. Gradients are float32; masters (float32, whole
 * or in two halves as the device has them, or none) and moments (float32 or 8 bits) are as form.ts says. All buffers have
 * their parameter's layout, so a step goes through them in order.
 */
import { breathe } from "../device/breathe.ts";
import type { Device, MomentMaps, QuantizedMoment, RandomRounding, Weight } from "../device/device.ts";
import { InputError, RunError } from "../errors.ts";
import { type Block, bindBlock, planBlock } from "../tensor/blocks.ts";
import type { ComputeDType, DType } from "../tensor/dtype.ts";
import { dynamicMap, MAP_SIZE, NEAREST_SIZE, nearestCodes } from "../tensor/dynamic-map.ts";
import type { Phase, PlanBuilder } from "../tensor/plan.ts";
import { rows, type Tensor, tensor } from "../tensor/tensor.ts";
import { blocksOf, hasNoMasters, isEightBit, type OptimizerForm, usualForm } from "./form.ts";

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
  /** For a float32 model, the parameter itself; else float32 or its lower half (Device.masterDType); null: there is none. */
  readonly master: Tensor | null;
  readonly moments: Moments;
  readonly gradient: Tensor;
}

export type Moments =
  | { readonly bits: 32; readonly m: Tensor; readonly v: Tensor }
  | { readonly bits: 8; readonly m: QuantizedMoment; readonly v: QuantizedMoment };

export interface OptimizerState {
  /** The trained parameters. */
  readonly parameters: readonly OptimizedParameter[];
  /** By name, of each parameter and of each block of several; null for a parameter that is not trained. */
  readonly gradients: ReadonlyMap<string, Tensor | null>;
  /** Steps taken, for the bias correction. */
  step: number;
  /** Sums of squares, by parameter. */
  readonly sums: Tensor; // float64 (parameters)
  readonly form: OptimizerForm;
  /** Its part of the random numbers for rounding. */
  readonly stream: number;
  /** null: no moments are in 8 bits. */
  readonly maps: MomentMaps | null;
}

/** The policy's random numbers for rounding; the critic's are the next. */
const ROUNDING_STREAM = 0x524f554e;

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

/**
 * Adds masters (for bfloat16 parameters), moments and gradients of trained parameters to the plan, in the blocks of the
 * parameters; the returned function binds them after allocation, given the parameters, and keeps their order. Gradients
 * are live only during the owner's phase. A block that is trained in part has no gradient as a whole.
 *
 * @throws InputError for bfloat16 masters of a float32 model
 */
export function planOptimizer(
  plan: PlanBuilder,
  device: Device,
  blocks: readonly Specifications[],
  dtype: ComputeDType,
  { prefix, phase }: OptimizerOwner = { prefix: "", phase: "update" },
  form: OptimizerForm = usualForm,
): (tensors: ReadonlyMap<string, Tensor>, weights: readonly Weight[]) => OptimizerState {
  if (dtype === "float32" && form.masterDtype === "bfloat16")
    throw new InputError(
      "master_dtype bfloat16: the weights are float32, which are their own masters; set dtype bfloat16, or leave master_dtype out",
    );
  const whole = ({ parts }: Specifications) => parts.every(({ trainable }) => trainable);
  const trained = blocks
    .flatMap((block) => (whole(block) ? [block] : block.parts.map((part) => ({ name: part.name, parts: [part] }))))
    .filter(whole)
    .map(({ name, parts }) => ({
      name,
      parts: parts.map((part) => ({ name: part.name, elements: device.parameterElements(part.shape, dtype) })),
      isEightBit: parts.some((part) => isEightBit(form, part)),
    }));
  const specs = new Map(blocks.flatMap(({ parts }) => parts.map((part) => [part.name, part])));
  const inEightBits = (name: string) => isEightBit(form, specs.get(name)!);
  /** Each moment of 8 bits has scales of its own, so parameters of such a block have moments of their own. */
  const momentBlocks = trained.flatMap((block) =>
    block.isEightBit ? block.parts.map((part) => ({ name: part.name, parts: [part] })) : [block],
  );
  for (const block of trained) {
    const add = (
      group: string,
      own: string,
      lifetime: "always" | readonly Phase[] = "always",
      type: DType = "float32",
    ) => planBlock(plan, [`${prefix}${group}`, `${prefix}${own}`, type], block, lifetime);
    if (dtype !== "float32" && !hasNoMasters(form, dtype))
      add("master weights", "master", "always", device.masterDType);
    if (!block.isEightBit) for (const own of ["m", "v"]) add("Adam moments", own);
    add("gradients", "gradient", [phase]);
  }
  for (const { name, parts } of momentBlocks)
    if (!trained.some((block) => block.name === name && !block.isEightBit))
      for (const own of ["m", "v"]) {
        const [part] = parts;
        if (!inEightBits(name)) plan.add("Adam moments", `${prefix}${own}/${name}`, "float32", [part!.elements]);
        else {
          plan.add("Adam moments", `${prefix}${own}/${name}`, "uint8", [part!.elements]);
          plan.add("Adam moments", `${prefix}${own} absmax/${name}`, "float32", [blocksOf(part!.elements)]);
        }
      }
  const decays = new Map(blocks.flatMap(({ parts }) => parts.map((part) => [part.name, part.decays])));
  const count = trained.reduce((sum, { parts }) => sum + parts.length, 0);
  const sums = `${prefix}sums of squares`;
  plan.add(`${prefix}optimizer scalars`, sums, "float64", [count]);
  const isMapped = trained.some((block) => block.isEightBit);
  const mapNames = [`${prefix}numbers of moments' codes`, `${prefix}nearest codes`] as const;
  if (isMapped) {
    plan.add(`${prefix}optimizer scalars`, mapNames[0], "float32", [2, MAP_SIZE]);
    plan.add(`${prefix}optimizer scalars`, mapNames[1], "uint8", [2, NEAREST_SIZE]);
  }
  return (tensors, weights) => {
    const all = (own: string, of: readonly Block[] = trained) =>
      new Map(of.flatMap((block) => [...bindBlock(tensors, `${prefix}${own}`, block)]));
    const [m, v, gradient] = [all("m", momentBlocks), all("v", momentBlocks), all("gradient")];
    const masters = dtype === "float32" || hasNoMasters(form, dtype) ? null : all("master");
    const moments = (name: string): Moments => {
      if (!inEightBits(name)) return { bits: 32, m: m.get(name)!, v: v.get(name)! };
      const quantized = (own: string, codes: Tensor): QuantizedMoment => ({
        codes,
        absmax: tensors.get(`${prefix}${own} absmax/${name}`)!,
      });
      return { bits: 8, m: quantized("m", m.get(name)!), v: quantized("v", v.get(name)!) };
    };
    const parameters = weights
      .filter(({ name }) => gradient.has(name))
      .map((weight): OptimizedParameter => {
        const { name, address, elements } = weight;
        const itself = dtype === "float32" ? tensor(name, address, "float32", [elements]) : null;
        const own = { master: masters?.get(name) ?? itself, moments: moments(name), gradient: gradient.get(name)! };
        return { weight, decays: decays.get(name)!, ...own };
      });
    if (parameters.length !== count) throw new Error(`${count} trained parameters, ${parameters.length} of them given`);
    const gradients = new Map<string, Tensor | null>([...decays.keys()].map((name) => [name, null]));
    for (const [name, buffer] of gradient) gradients.set(name, buffer);
    const [numbers, nearest] = mapNames.map((name) => tensors.get(name));
    const maps = isMapped ? { numbers: numbers!, nearest: nearest! } : null;
    const stream = ROUNDING_STREAM + (phase === "critic" ? 1 : 0);
    return { parameters, gradients, step: 0, sums: tensors.get(sums)!, form, stream, maps };
  };
}

/** Elements of each trained parameter, padding included. */
export function trainedElements(
  device: Pick<Device, "parameterElements">,
  blocks: readonly Specifications[],
  dtype: ComputeDType,
): number[] {
  return blocks
    .flatMap(({ parts }) => parts.filter(({ trainable }) => trainable))
    .map(({ shape }) => device.parameterElements(shape, dtype));
}

/** A parameter's masters, to be saved and loaded like the parameter. */
export function mastersOf({
  weight,
  master,
}: Pick<OptimizedParameter, "weight"> & { readonly master: Tensor }): Weight {
  const own: Weight = { ...weight, address: master.address, dtype: "float32", layoutOf: weight.dtype };
  return master.dtype === "float32" ? own : { ...own, upper: weight.address };
}

/** Sets masters to the parameters. Moments are zero, as new memory is, and so are lower halves of masters. */
export function startOptimizer(device: Device, state: OptimizerState): void {
  for (const { weight, master } of state.parameters)
    if (master !== null && weight.dtype !== "float32" && device.masterDType === "float32")
      device.ops.cast(master, tensor(weight.name, weight.address, weight.dtype, [weight.elements]));
  if (state.maps === null) return;
  for (const [i, map] of [dynamicMap(true), dynamicMap(false)].entries()) {
    device.upload(rows(state.maps.numbers, i, 1), map);
    device.upload(rows(state.maps.nearest, i, 1), nearestCodes(map));
  }
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
  for (const [parameter, { weight, decays, master, moments, gradient }] of state.parameters.entries()) {
    const rounding: RandomRounding = { seed: state.form.seed, stream: state.stream, parameter };
    const own = {
      ...settings,
      learningRate,
      weightDecay: decays ? settings.weightDecay : 0,
      step: state.step,
      gradientScale,
      rounding,
    };
    if (moments.bits === 32) device.ops.adamw(weight, master, moments.m, moments.v, gradient, own);
    else device.ops.adamw8bit(weight, master, moments.m, moments.v, state.maps!, gradient, own);
    await breathe();
  }
  return norm;
}
