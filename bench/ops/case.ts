/**
 * The definition of an op case. Its body lays out buffers, runs the op and compares the output with a float64 reference, all
 * through a `Run`. The op suite's `Run` (test/ops/harness.ts) compares every element, at small sizes, on every path; a
 * benchmark's (real-sizes.ts) compares some elements at a model's sizes and then times the op.
 */
import type { Device, KeyValuePages, Ops, Weight } from "../../src/device/device.ts";
import type { ComputeDType, DType } from "../../src/tensor/dtype.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import type { CostOf } from "./cost.ts";
import type { Random } from "./random.ts";
import type { Shapes } from "./shapes.ts";
import type { Rounding, Sum, Tolerance } from "./tolerance.ts";

/** An op, or one of the device's own functions for parameters. */
export type OpName = keyof Ops | "loadParameter" | "saveParameter";

export type Settings = Readonly<Record<string, string | number | boolean>>;

/** Element `index` in row-major order. */
export type Values = (index: number) => number;

/** A tensor and its contents before the op runs, as stored: rounded to its type. */
export interface Slot extends Tensor {
  readonly at: Values;
}

/** A parameter and its contents, row-major. */
export interface WeightSlot extends Weight {
  readonly at: Values;
  /** The parameter to use now: a different copy each time if it should be cold. */
  next(): Weight;
}

export interface SlotOptions {
  /** Only outputs may change. */
  readonly output?: boolean;
  /** Elements between the end of a row and the next one's start. */
  readonly gap?: number;
}

export interface InputOptions extends SlotOptions {
  /** Standard deviation of the suite's numbers; a benchmark's are in [−1, 1). */
  readonly deviation?: number;
  /** Numbers are exact in bfloat16. A benchmark's always are. */
  readonly coarse?: boolean;
}

export interface ParameterOptions {
  readonly output?: boolean;
  readonly deviation?: number;
  /** Contents, instead of random numbers. */
  readonly at?: Values;
  /** Default: float32. */
  readonly dtype?: ComputeDType;
}

/** The reference: its elements, or a function that computes each. */
export type Wanted = ArrayLike<number> | ((index: number) => number | Sum);

/** Which elements to compare if all would take too long: how many rows, or which ones, and how many columns. */
export interface Sample {
  readonly rows?: number | readonly number[];
  readonly columns?: number;
}

export interface Run {
  readonly random: Pick<Random, "integer" | "permutation">;
  /** The device that holds the case's memory: for sizes, not for work. */
  readonly device: Device;
  /** The device emulates every instruction, so cases should keep counts small where large ones add little. */
  readonly slow: boolean;
  /** How often to call a repeatable op: twice, to tell `=` from `+=`; once if it is timed. */
  readonly times: number;
  /** Random numbers. */
  input(name: string, dtype: ComputeDType, shape: readonly number[], o?: InputOptions): Slot;
  filled(name: string, dtype: DType, shape: readonly number[], at: Values, o?: SlotOptions): Slot;
  /** Starts as NaN, so that an element that is never written is noticed. */
  output(name: string, dtype: DType, shape: readonly number[], o?: Omit<SlotOptions, "output">): Slot;
  /** `cold`: read from memory in a benchmark, as in decoding, where other layers were read in between. */
  weight(
    name: string,
    dtype: ComputeDType,
    shape: readonly number[],
    o?: { readonly deviation?: number; readonly cold?: boolean },
  ): WeightSlot;
  /** A tensor in w's layout with zero padding, which an output must not change. */
  parameter(name: string, w: Weight, o?: ParameterOptions): Slot;
  /** What an earlier op has written: the reference's values or, if those take too long, what `save`'s work writes. */
  saved(name: string, dtype: DType, shape: readonly number[], want: Values, o?: SlotOptions): Slot;
  save(work: (device: Device) => void): void;
  /** Setup for the work: part of each run in the suite; done once and not timed in a benchmark. */
  first(work: (device: Device) => void): void;
  /** Pages to use now: in a benchmark, one of several copies in turn, as each layer has its own; `first` has filled them. */
  layers(pages: KeyValuePages): () => KeyValuePages;
  /** Runs the work on every path, or times it: once per case, after all buffers are laid out. `after` is not timed. */
  run(work: (device: Device) => void, after?: (device: Device) => void): void;
  /** Compares an output with the reference. */
  check(slot: Slot, want: Wanted, tolerance: Tolerance, sample?: Sample): void;
  /** Checks that rows of two outputs have the same bits. */
  same(a: Slot, aFrom: number, b: Slot, bFrom: number, count: number): void;
  /**
   * Compares what was added to an output with central differences of `loss`, a float64 function of what `at` gives, at a few
   * elements; `times` is how often the kernel added to it. Only for small sizes.
   */
  differences(gradient: Slot, at: Values, loss: (values: Values) => number, tolerance: Tolerance, times?: number): void;
}

/** A slot with all of its values. */
export interface ValueSlot extends Slot {
  readonly values: Float64Array;
}

/** Additional methods for the suite's small sizes. */
export interface SuiteRun extends Run {
  readonly random: Random;
  readonly paths: readonly (Rounding & { readonly name: string; readonly equalBits: boolean })[];
  /** Starts as `values`, or without any, like an output. */
  slot(
    name: string,
    dtype: DType,
    shape: readonly number[],
    values: ArrayLike<number> | null,
    o?: SlotOptions,
  ): ValueSlot;
  weightOf(name: string, dtype: ComputeDType, shape: readonly number[], values: ArrayLike<number>): WeightSlot;
  /**
   * Checks two ways to compute a row: their bits are equal on a device that samples exactly on-policy (promise 2). On other
   * devices different kernels may compute them, in a different order; they may then differ within the tolerance.
   */
  agree(a: Slot, aFrom: number, b: Slot, bFrom: number, count: number, elsewhere: Tolerance): void;
  /** The output's values on each path. */
  values(slot: Slot): ReadonlyMap<string, Float64Array>;
}

/** What a device's operands depend on. */
export type OperandTypes = Pick<Device, "kind" | "gradientDType">;

export interface OpCase<R extends Run = SuiteRun, Op extends OpName = OpName> {
  readonly op: Op;
  /** The case's name: everything that distinguishes it from other cases of its op. */
  readonly settings: Settings;
  readonly body: (run: R) => void;
  /** The only devices that take such operands, and why. */
  readonly only?: { readonly on: (device: OperandTypes) => boolean; readonly reason: string };
}

export function opCase<R extends Run, Op extends OpName>(
  op: Op,
  settings: Settings,
  body: (run: R) => void,
): OpCase<R, Op> {
  return { op, settings, body };
}

/** A norm's weight with what is added to it; `at` gives the sum. */
export function offsetBy(weight: WeightSlot, offset: number): WeightSlot {
  return offset === 0 ? weight : { ...weight, offset, at: (i) => offset + weight.at(i) };
}

/** A case of gradients of activations stored as bfloat16, which a device does for all ops or for none. */
export function bfloat16Gradients<R extends Run, Op extends OpName>(one: OpCase<R, Op>): OpCase<R, Op> {
  const on = ({ gradientDType }: OperandTypes) => gradientDType("bfloat16") === "bfloat16";
  return { ...one, only: { on, reason: "elsewhere gradients of activations are float32 (gradientDType)" } };
}

/** The names of the true flags; false ones are omitted. */
function wordsOf(settings: Settings): string[] {
  return Object.entries(settings).flatMap(([key, value]) => {
    if (typeof value === "boolean") return value ? [key] : [];
    return [`${key}=${value}`];
  });
}

/** The case as a string, in the form OPS_CASE takes. */
export function caseName({ op, settings }: Pick<OpCase, "op" | "settings">): string {
  return [op, ...wordsOf(settings)].join(" ");
}

/** Origin of the sizes: a training step, a prompt before sampling, decoding, or a larger model. */
export type Use = "training" | "prefill" | "decode" | "large";

/** A case at a model's sizes, to be timed. */
export interface OpBench {
  readonly op: keyof Ops;
  readonly use: Use;
  /** The model's type; float32 if the op supports no other. */
  readonly dtype: ComputeDType;
  /** As printed, such as "M=2048 N=576 K=576". */
  readonly sizes: string;
  readonly body: (run: Run) => void;
}

export function timed(use: Use, dtype: ComputeDType, sizes: Settings, { op, body }: OpCase<Run, keyof Ops>): OpBench {
  return { op, use, dtype, sizes: wordsOf(sizes).join(" "), body };
}

/** Everything about an op except its kernels. */
export interface OpEntry<Op extends keyof Ops> {
  readonly cost: CostOf<Op>;
  /** The suite's cases, at small sizes. */
  readonly cases: readonly OpCase[];
  /** The timed cases, at a model's sizes. */
  readonly real: (s: Shapes) => readonly OpBench[];
}

export type OpTable<Names extends keyof Ops = keyof Ops> = { readonly [Op in Names]: OpEntry<Op> };

/** Short names of the element types in case names. */
export const dtypes = { f32: "float32", bf16: "bfloat16" } as const;
export type ShortDType = keyof typeof dtypes;

export const shortOf = (dtype: ComputeDType): ShortDType => (dtype === "float32" ? "f32" : "bf16");
export const computeDTypes: readonly ComputeDType[] = ["float32", "bfloat16"];

/** f of the values, which repeat with the same period. */
export const mapped = (values: Values, f: (x: number) => number): Values =>
  Object.assign((index: number) => f(values(index)), { ...values });

/** Results by their index, each computed once. */
export function memo<T>(compute: (key: number) => T): (key: number) => T {
  const known = new Map<number, T>();
  return (key) => {
    if (!known.has(key)) known.set(key, compute(key));
    return known.get(key)!;
  };
}

/** Up to `wanted` of 0 … count − 1: both ends, and others spread between them; if only one, the last. */
export function picks(count: number, wanted: number): number[] {
  if (count <= wanted) return Array.from({ length: count }, (_, i) => i);
  if (wanted === 1) return [count - 1];
  const step = (count - 1) / (wanted - 1);
  return Array.from({ length: wanted }, (_, i) => Math.round(i * step));
}
