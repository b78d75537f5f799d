/**
 * AdamW (Loshchilov & Hutter 2019) and clipping of the global gradient norm. Gradients are float32; masters (float32, whole
 * or in two halves as the device has them, or none) and moments (float32 or 8 bits) are as form.ts says, on the device or in
 * host memory (offload.ts). All buffers have their parameter's layout, so a step goes through them in order.
 */
import { breathe } from "../device/breathe.ts";
import type { Device, MomentMaps, RandomRounding, Weight } from "../device/device.ts";
import { InputError, RunError } from "../errors.ts";
import { type Block, bindBlock, planBlock } from "../tensor/blocks.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import { dynamicMap, MAP_SIZE, NEAREST_SIZE, nearestCodes } from "../tensor/dynamic-map.ts";
import type { Phase, PlanBuilder } from "../tensor/plan.ts";
import { rows, type Tensor, tensor } from "../tensor/tensor.ts";
import {
  blocksOf,
  canBeDivided,
  hasNoMasters,
  isEightBit,
  MOMENT_BLOCK,
  type OptimizerForm,
  usualForm,
} from "./form.ts";
import { afterPieces, forEachPiece, planRing, type Ring, requireStaging } from "./offload.ts";
import { elementsOf, type Moments, type OptimizedParameter, type OptimizedPart, rangeOf } from "./parts.ts";

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
  readonly form: OptimizerForm;
  /** Its part of the random numbers for rounding. */
  readonly stream: number;
  /** null: no moments are in 8 bits. */
  readonly maps: MomentMaps | null;
  /** The way to masters and moments in host memory; null: they are on the device. */
  readonly ring: Ring | null;
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
export interface OptimizerOwner {
  /** Prefix of the names of its buffers and groups. */
  readonly prefix: string;
  /** The phase in which its gradients are live. */
  readonly phase: Phase;
}

/** The padded size of a trained parameter. */
interface ParameterSize {
  readonly name: string;
  readonly elements: number;
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
 * @param owned the elements that this process updates, which alone have masters and moments; null: all. Each range begins
 *   at a multiple of MOMENT_BLOCK, so that it has scales of its own.
 * @param host takes masters and moments that are in host memory; left out, there are none
 * @throws InputError for bfloat16 masters of a float32 model, or states in host memory of a device that has no other
 */
export function planOptimizer(
  plan: PlanBuilder,
  device: Device,
  blocks: readonly Specifications[],
  dtype: ComputeDType,
  { prefix, phase }: OptimizerOwner = { prefix: "", phase: "update" },
  owned: readonly Range[] | null = null,
  form: OptimizerForm = usualForm,
  host: PlanBuilder | null = null,
): (tensors: ReadonlyMap<string, Tensor>, weights: readonly Weight[]) => OptimizerState {
  if (dtype === "float32" && form.masterDtype === "bfloat16")
    throw new InputError(
      "master_dtype bfloat16: the weights are float32, which are their own masters; set dtype bfloat16, or leave master_dtype out",
    );
  if (owned && !canBeDivided(form)) throw new Error("masters and moments in host memory are not divided");
  if (owned?.some(({ from }) => from % MOMENT_BLOCK !== 0))
    throw new Error(`moments are divided at multiples of ${MOMENT_BLOCK} elements`);
  if (form.offloadOptimizer) requireStaging(device);
  const states = form.offloadOptimizer ? host : plan;
  if (!states) throw new Error("states in host memory need a plan of it");
  const whole = ({ parts }: Specifications) => parts.every(({ trainable }) => trainable);
  const trained = blocks
    .flatMap((block) => (whole(block) ? [block] : block.parts.map((part) => ({ name: part.name, parts: [part] }))))
    .filter(whole)
    .map(({ name, parts }) => ({
      name,
      parts: parts.map((part) => ({ name: part.name, elements: device.parameterElements(part.shape, dtype) })),
    }));
  const specs = new Map(blocks.flatMap(({ parts }) => parts.map((part) => [part.name, part])));
  const inEightBits = (name: string) => isEightBit(form, specs.get(name)!);
  // What is owned lies side by side, as one block.
  const ranges = owned?.map(({ name, from, count }) => ({ name: `${name} ${from}`, elements: count, of: name }));
  const kept = ranges
    ? [{ name: "owned", parts: ranges }]
    : trained.map(({ name, parts }) => ({ name, parts: parts.map((part) => ({ ...part, of: part.name })) }));
  const hasMasters = dtype !== "float32" && !hasNoMasters(form, dtype);
  if (hasMasters)
    for (const block of kept)
      planBlock(states, [`${prefix}master weights`, `${prefix}master`, device.masterDType], block, "always");
  // Each part with moments of 8 bits has scales of its own, so those of its block lie apart.
  const apart = ({ parts }: (typeof kept)[number]) => parts.some(({ of }) => inEightBits(of));
  const momentBlocks = kept.flatMap((block) =>
    apart(block) ? block.parts.map((part) => ({ name: part.name, parts: [part] })) : [block],
  );
  for (const own of ["m", "v"])
    for (const block of momentBlocks) {
      const isCoded = apart(block);
      planBlock(states, [`${prefix}Adam moments`, `${prefix}${own}`, isCoded ? "uint8" : "float32"], block, "always");
      if (!isCoded) continue;
      const scales = blocksOf(block.parts[0]!.elements);
      states.add(`${prefix}Adam moments`, `${prefix}${own} absmax/${block.name}`, "float32", [scales]);
    }
  for (const block of trained) planBlock(plan, [`${prefix}gradients`, `${prefix}gradient`, "float32"], block, [phase]);
  const decays = new Map(blocks.flatMap(({ parts }) => parts.map((part) => [part.name, part.decays])));
  const count = trained.reduce((sum, { parts }) => sum + parts.length, 0);
  const sums = `${prefix}sums of squares`;
  plan.add(`${prefix}optimizer scalars`, sums, "float64", [count]);
  const isMapped = kept.some(apart);
  const mapNames = [`${prefix}numbers of moments' codes`, `${prefix}nearest codes`] as const;
  if (isMapped) {
    plan.add(`${prefix}optimizer scalars`, mapNames[0], "float32", [2, MAP_SIZE]);
    plan.add(`${prefix}optimizer scalars`, mapNames[1], "uint8", [2, NEAREST_SIZE]);
  }
  const largest = Math.max(0, ...trained.flatMap(({ parts }) => parts.map(({ elements }) => elements)));
  const bindRing = form.offloadOptimizer ? planRing(plan, prefix, [phase], largest, form.slotBytes) : null;
  return (tensors, weights) => {
    const bound = (own: string, all: readonly Block[]) =>
      new Map(all.flatMap((block) => [...bindBlock(tensors, `${prefix}${own}`, block)]));
    const gradient = bound("gradient", trained);
    const masters = hasMasters ? bound("master", kept) : null;
    const [m, v] = [bound("m", momentBlocks), bound("v", momentBlocks)];
    const momentsOf = (name: string, key: string): Moments => {
      const [first, second] = [m.get(key)!, v.get(key)!];
      if (!inEightBits(name)) return { bits: 32, m: first, v: second };
      const absmax = (own: string) => tensors.get(`${prefix}${own} absmax/${key}`)!;
      return { bits: 8, m: { codes: first, absmax: absmax("m") }, v: { codes: second, absmax: absmax("v") } };
    };
    const parameters = weights
      .filter(({ name }) => gradient.has(name))
      .map((weight) => ({ weight, decays: decays.get(weight.name)!, gradient: gradient.get(weight.name)! }));
    if (parameters.length !== count) throw new Error(`${count} trained parameters, ${parameters.length} of them given`);
    const gradients = new Map<string, Tensor | null>([...decays.keys()].map((name) => [name, null]));
    for (const [name, buffer] of gradient) gradients.set(name, buffer);
    const places = new Map(parameters.map(({ weight }, i) => [weight.name, i]));
    const part = (parameter: OptimizedParameter, from: number, elements: number, key: string): OptimizedPart => {
      const weight = elementsOf(parameter.weight, from, elements);
      const itself = dtype === "float32" ? tensor(weight.name, weight.address, dtype, [elements]) : null;
      return {
        ...{ weight, name: weight.name, number: places.get(weight.name)!, from, decays: parameter.decays },
        gradient: rows(parameter.gradient, from, elements),
        ...{ master: masters?.get(key) ?? itself, moments: momentsOf(weight.name, key) },
      };
    };
    const byName = new Map(parameters.map((parameter) => [parameter.weight.name, parameter]));
    const parts = owned
      ? owned.map(({ name, from, count: own }) => part(byName.get(name)!, from, own, `${name} ${from}`))
      : parameters.map((parameter) => part(parameter, 0, parameter.weight.elements, parameter.weight.name));
    const [numbers, nearest] = mapNames.map((name) => tensors.get(name));
    const maps = isMapped ? { numbers: numbers!, nearest: nearest! } : null;
    const stream = ROUNDING_STREAM + (phase === "critic" ? 1 : 0);
    return {
      parameters,
      parts,
      gradients,
      step: 0,
      sums: tensors.get(sums)!,
      form,
      stream,
      maps,
      ring: bindRing?.(tensors) ?? null,
    };
  };
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
export function mastersOf({ weight, master }: { readonly weight: Weight; readonly master: Tensor }): Weight {
  const own: Weight = { ...weight, address: master.address, dtype: "float32", layoutOf: weight.dtype };
  return master.dtype === "float32" ? own : { ...own, upper: weight.address };
}

/** What an optimizer keeps of a parameter: masters; moments in float32, or in 8 bits as codes and their scales. */
export type StateBuffer = "master" | Moment | `${Moment} codes` | `${Moment} absmax`;
type Moment = "m" | "v";

/** A part's buffer; null: it has none in its form. */
export function stateBuffer(
  { master, moments }: Pick<OptimizedPart, "master" | "moments">,
  kind: StateBuffer,
): Tensor | null {
  if (kind === "master") return master;
  const [moment, coded] = kind.split(" ") as [Moment, ("codes" | "absmax")?];
  if (moments.bits === 32) return coded ? null : moments[moment];
  return coded ? moments[moment][coded] : null;
}

/** The state's buffers of a parameter in this form; masters that are the parameter itself are left out. */
export function stateBuffers(
  form: OptimizerForm,
  { name, shape, dtype }: Pick<Weight, "name" | "shape" | "dtype">,
): StateBuffer[] {
  const hasMaster = dtype !== "float32" && !hasNoMasters(form, dtype);
  const moments: StateBuffer[] = isEightBit(form, { name, shape })
    ? ["m codes", "m absmax", "v codes", "v absmax"]
    : ["m", "v"];
  return [...(hasMaster ? (["master"] as const) : []), ...moments];
}

/** Elements of a parameter to a number of such a buffer. */
const elementsPer = (kind: StateBuffer): number => (kind.endsWith("absmax") ? MOMENT_BLOCK : 1);

/** Such a buffer of a whole parameter in memory at `address`. */
export function wholeState(
  device: Device,
  kind: StateBuffer,
  { name, elements }: ParameterSize,
  address: number,
): Tensor {
  const dtype = kind === "master" ? device.masterDType : kind.endsWith("codes") ? "uint8" : "float32";
  return tensor(name, address, dtype, [Math.ceil(elements / elementsPer(kind))]);
}

/** What such a buffer has of some of the parameter's elements, from a multiple of MOMENT_BLOCK. */
export function stateRange(whole: Tensor, kind: StateBuffer, from: number, count: number): Tensor {
  return rangeOf(whole, elementsPer(kind), from, count);
}

/** Sets masters to the parameters. Moments are zero, as new memory is, and so are lower halves of masters. */
export function startOptimizer(device: Device, state: OptimizerState): void {
  for (const part of state.parts)
    if (part.master !== null && part.weight.dtype !== "float32" && device.masterDType === "float32")
      forEachPiece(device, state.ring, part, { master: "out" }, ({ weight, master }) =>
        device.ops.cast(master!, tensor(weight.name, weight.address, weight.dtype, [weight.elements])),
      );
  afterPieces(device, state.ring);
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
  for (const part of state.parts) {
    const own = {
      ...settings,
      learningRate,
      weightDecay: part.decays ? settings.weightDecay : 0,
      step: state.step,
      gradientScale,
    };
    forEachPiece(device, state.ring, part, { master: "both", moments: "both" }, (piece) => {
      const { weight, master, moments, gradient } = piece;
      const first = part.from + piece.first;
      const rounding: RandomRounding = { seed: state.form.seed, stream: state.stream, parameter: part.number, first };
      const all = { ...own, rounding };
      if (moments.bits === 32) device.ops.adamw(weight, master, moments.m, moments.v, gradient, all);
      else device.ops.adamw8bit(weight, master, moments.m, moments.v, state.maps!, gradient, all);
    });
    await breathe();
  }
  afterPieces(device, state.ring);
  return norm;
}
