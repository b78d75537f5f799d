/**
 * Runs the tables of op cases. A case lays out its buffers, runs the op, and compares what it wrote with a float64
 * reference. It runs on every path of a device (paths.ts, cuda-paths.ts), several times on each: the runs must agree in
 * every bit, and nothing but the outputs may change: not the guard words around a buffer, not the gaps of a strided
 * view, not an input.
 *
 * A case prints as `op setting=value …`. `OPS_CASE="matmulForward M=33 N=31" bun test test/ops` runs those that begin
 * with it, `OPS_PATH=avx2` one path, `OPS_PATH=cuda` the CUDA device alone.
 */
import { expect, test } from "bun:test";
import type { Device, Ops, Weight } from "../../src/device/device.ts";
import type { ComputeDType, DType } from "../../src/tensor/dtype.ts";
import type { Arena, Image } from "./arena.ts";
import type { Layouts } from "./layout.ts";
import { caseMemory, type Slot, type SlotOptions, type WeightSlot } from "./memory.ts";
import { type Random, randomFrom } from "./random.ts";

/** An op, or one of the device's own ways for parameters. */
export type OpName = keyof Ops | "loadParameter" | "saveParameter";

export type Settings = Readonly<Record<string, string | number | boolean>>;

export interface OpCase {
  readonly op: OpName;
  readonly settings: Settings;
  readonly body: (run: CaseRun) => void;
  /** Devices that take such operands; all where it is not said. */
  readonly kinds?: readonly Device["kind"][];
}

/** What a difference may be: absolute + relative · |wanted| + magnitude · (the reference's own sum of magnitudes). */
export interface Tolerance {
  readonly absolute?: number;
  readonly relative?: number;
  readonly magnitude?: number;
  /** Allowed beside, on paths that round the float32 operands of a product with a bfloat16 weight to bfloat16. */
  readonly operands?: Tolerance;
  /** Allowed beside, where attention over bfloat16 rounds its probabilities and their gradients to bfloat16. */
  readonly tensorCores?: Tolerance;
  /** Allowed beside, where the sums of a product are formed by tensor cores, which cut them off toward zero. */
  readonly truncating?: Tolerance;
}

export const exactly: Tolerance = {};
/** Half a unit in the last place of bfloat16's 8 bits, at most, and a little for a value that lies near a tie. */
export const bfloat16Rounding = 2 ** -8 * 1.01;

/** The tolerance of a result that is rounded to `dtype` after having been computed as the float32 one is. */
export function rounded(tolerance: Tolerance, dtype: DType): Tolerance {
  if (dtype !== "bfloat16") return tolerance;
  return { ...tolerance, relative: (tolerance.relative ?? 0) + bfloat16Rounding };
}

export interface CaseRun {
  readonly random: Random;
  /** The device whose memory the case is laid out in: for sizes, not for work. */
  readonly device: Device;
  readonly paths: readonly Path[];
  /** Every instruction of the device is emulated: what tells little more in large numbers may come in small ones. */
  readonly slow: boolean;
  slot(name: string, dtype: DType, shape: readonly number[], values: ArrayLike<number> | null, o?: SlotOptions): Slot;
  weight(name: string, dtype: ComputeDType, shape: readonly number[], values: ArrayLike<number>): WeightSlot;
  /** A tensor in w's layout (float32 unless said), `values` row-major, padding zero; an output may not change that. */
  parameter(name: string, w: Weight, values: ArrayLike<number>, output?: boolean, dtype?: DType): Slot;
  /** Runs the work on every path, as often as it says. Once per case, after every buffer has been laid out. */
  run(work: (device: Device) => void): void;
  /** Compares an output with the reference: NaN and infinities first, then the size of differences. */
  check(slot: Slot, want: ArrayLike<number>, tolerance: Tolerance, magnitudes?: ArrayLike<number>): void;
  /** Rows of two outputs have the same bits. */
  same(a: Slot, aFrom: number, b: Slot, bFrom: number, count: number): void;
  /**
   * The same of two ways to compute a row, which have equal bits on a device that samples exactly on-policy (promise 2).
   * Elsewhere other kernels may compute them, in another order: they then differ by what is allowed.
   */
  agree(a: Slot, aFrom: number, b: Slot, bFrom: number, count: number, elsewhere: Tolerance): void;
  /**
   * What an output grew by against central differences of `loss`, a float64 function of the values `at`, at a few
   * elements; `times` is how often the kernel ran on it.
   */
  differences(
    gradient: Slot,
    at: Float64Array,
    loss: (values: Float64Array) => number,
    tolerance: Tolerance,
    times?: number,
  ): void;
  /** The output's values on each path. */
  values(slot: Slot): ReadonlyMap<string, Float64Array>;
}

/** An op case; `settings` are its name, so they hold everything that tells it from others of its op. */
export function opCase(op: OpName, settings: Settings, body: (run: CaseRun) => void): OpCase {
  return { op, settings, body };
}

/** A case of gradients of activations stored as bfloat16, which the CPU never does (Device.gradientDType). */
export function bfloat16Gradients(opCase: OpCase): OpCase {
  return { ...opCase, kinds: ["cuda"] };
}

/** The case as a string: what OPS_CASE takes. True flags by their name, false ones left out. */
export function caseName({ op, settings }: OpCase): string {
  const words = Object.entries(settings).flatMap(([key, value]) => {
    if (typeof value === "boolean") return value ? [key] : [];
    return [`${key}=${value}`];
  });
  return [op, ...words].join(" ");
}

/** Short names of the element types in case names. */
export const dtypes = { f32: "float32", bf16: "bfloat16" } as const;
export type ShortDType = keyof typeof dtypes;

/** Memory and layout of the cases on one device. */
export interface Backend {
  device(): Device;
  readonly slow: boolean;
  readonly arena: Arena;
  readonly layoutOf: Layouts;
}

/** One of the ways in which a device computes; all that are run together share a backend. */
export interface Path {
  readonly name: string;
  readonly backend: Backend;
  device(): Device;
  /** Products with a bfloat16 weight round their float32 operands to bfloat16. */
  readonly roundsOperands: boolean;
  /** Attention over bfloat16 multiplies in bfloat16 throughout, and sums of products are cut off toward zero. */
  readonly tensorCores: boolean;
  /** What has the same inputs has the same bits; false where approximate instructions are disturbed. */
  readonly equalBits: boolean;
  /** Several, which must agree in every bit; `select` is called before the work, `settle` after it. */
  readonly runs: readonly { readonly what: string; select(): void; settle?(): void }[];
}

/** The device with its ops' names noted as they are called; parameters come from the host's memory and go there. */
function noting(device: Device, arena: Arena, called: Set<string>): Device {
  const note = <T extends object>(target: T): T =>
    new Proxy(target, {
      get(object, name, receiver) {
        const value = Reflect.get(object, name, receiver);
        if (typeof value === "function") called.add(String(name));
        return value;
      },
    });
  return note({
    ...device,
    ops: note(device.ops),
    loadParameter: (w: Weight, address: number, ...rest: [DType, number, number]) =>
      device.loadParameter(w, arena.hostAddress(address), ...rest),
    saveParameter: (address: number, ...rest: [ComputeDType, Weight, number, number]) =>
      device.saveParameter(arena.hostAddress(address), ...rest),
  });
}

/** The tolerance on a path: what holds everywhere, and what it rounds beside. */
function allowance(tolerance: Tolerance, path: Path): Tolerance {
  const { operands, tensorCores, truncating, ...everywhere } = tolerance;
  const cores = path.tensorCores ? [tensorCores, truncating] : [];
  const parts = [everywhere, path.roundsOperands ? operands : null, ...cores];
  const sum = (key: "absolute" | "relative" | "magnitude") =>
    parts.reduce((total, part) => total + (part?.[key] ?? 0), 0);
  return { absolute: sum("absolute"), relative: sum("relative"), magnitude: sum("magnitude") };
}

function compare(got: Float64Array, want: ArrayLike<number>, tolerance: Tolerance, magnitudes?: ArrayLike<number>) {
  if (got.length !== want.length) throw new Error(`${got.length} elements, the reference has ${want.length}`);
  const { absolute = 0, relative = 0, magnitude = 0 } = tolerance;
  const finiteness = (x: number) => (Number.isFinite(x) ? "finite" : String(x));
  for (const [i, x] of got.entries())
    if (finiteness(x) !== finiteness(want[i]!)) throw new Error(`element ${i} is ${x}, wanted ${want[i]}`);
  let [worst, at, wrong] = [1, -1, 0];
  for (const [i, x] of got.entries()) {
    const wanted = want[i]!;
    if (!Number.isFinite(x) || x === wanted) continue;
    const allowed = absolute + relative * Math.abs(wanted) + magnitude * (magnitudes?.[i] ?? 0);
    const ratio = Math.abs(x - wanted) / allowed;
    if (ratio > 1) wrong++;
    if (ratio > worst) [worst, at] = [ratio, i];
  }
  if (wrong > 0)
    throw new Error(
      `${wrong} of ${got.length} elements are off; the worst, element ${at}, is ${got[at]}, wanted ${want[at]}: ${worst.toPrecision(3)} times what is allowed`,
    );
}

/** Runs one case. @returns the names of the ops and device functions that it called. */
export function execute(opCase: OpCase, on: readonly Path[]): ReadonlySet<string> {
  const name = caseName(opCase);
  const backend = on[0]!.backend;
  const memory = caseMemory(backend.arena);
  const images = new Map<string, Image>();
  const called = new Set<string>();
  const random = randomFrom(name);
  const onEach = (what: string, judge: (image: Image, path: Path) => void) => {
    if (images.size === 0) throw new Error(`${name}: compared before it ran`);
    for (const path of on) {
      try {
        judge(images.get(path.name)!, path);
      } catch (error) {
        throw new Error(`${name}\n  on ${path.name}, ${what}: ${(error as Error).message}`);
      }
    }
  };
  const same: CaseRun["same"] = (a, aFrom, b, bFrom, count) => {
    onEach(`${a.name} and ${b.name}`, (image, path) => {
      if (!path.equalBits) return;
      const [left, right] = [memory.rowBytes(image, a, aFrom, count), memory.rowBytes(image, b, bFrom, count)];
      if (left.equals(right)) return;
      const at = left.findIndex((byte, i) => byte !== right[i]);
      const row = Math.floor(at / (left.length / count));
      throw new Error(`rows ${aFrom + row} and ${bFrom + row} differ in their bits`);
    });
  };
  opCase.body({
    random,
    device: backend.device(),
    paths: on,
    slow: backend.slow,
    slot: memory.slot,
    weight: (label, dtype, shape, values) => memory.weight(label, dtype, shape, values, backend.layoutOf(shape)),
    parameter: (label, w, values, output = false, dtype = "float32") =>
      memory.parameter(label, dtype, values, backend.layoutOf(w.shape), output),
    run(work) {
      for (const path of on) {
        const device = noting(path.device(), backend.arena, called);
        for (const { what, select, settle } of path.runs) {
          memory.restore();
          select();
          work(device);
          const image = memory.image();
          settle?.();
          const first = images.get(path.name);
          if (!first) {
            images.set(path.name, image);
            const stray = memory.strayWrite(image);
            if (stray) throw new Error(`${name}\n  on ${path.name}: ${stray}`);
          } else if (!image.equals(first)) {
            throw new Error(`${name}\n  on ${path.name}: other bits with ${what} than with ${path.runs[0]!.what}`);
          }
        }
      }
    },
    check(slot, want, tolerance, magnitudes) {
      onEach(slot.name, (image, path) =>
        compare(memory.read(image, slot), want, allowance(tolerance, path), magnitudes),
      );
    },
    same,
    agree(a, aFrom, b, bFrom, count, elsewhere) {
      if (backend.device().exactlyOnPolicy) return same(a, aFrom, b, bFrom, count);
      const part = (image: Image, slot: Slot, from: number) => {
        const width = slot.values.length / (slot.shape[0] ?? 1);
        return memory.read(image, slot).subarray(from * width, (from + count) * width);
      };
      onEach(`${a.name} and ${b.name}`, (image, path) =>
        compare(part(image, a, aFrom), part(image, b, bFrom), allowance(elsewhere, path)),
      );
    },
    differences(gradient, at, loss, tolerance, times = 1) {
      const picked = Array.from({ length: Math.min(6, at.length) }, () => random.integer(at.length));
      const slopes = picked.map((i) => {
        const [moved, h] = [Float64Array.from(at), 1e-4 * Math.max(1, Math.abs(at[i]!))];
        moved[i] = at[i]! + h;
        const up = loss(moved);
        moved[i] = at[i]! - h;
        return (up - loss(moved)) / (2 * h);
      });
      const before = (i: number) => (Number.isFinite(gradient.values[i]) ? gradient.values[i]! : 0);
      onEach(`${gradient.name} by differences at ${picked}`, (image, path) => {
        const got = memory.read(image, gradient);
        const grew = Float64Array.from(picked, (i) => (got[i]! - before(i)) / times);
        compare(grew, slopes, allowance(tolerance, path));
      });
    },
    values: (slot) => new Map([...images].map(([path, image]) => [path, memory.read(image, slot)])),
  });
  if (images.size === 0) throw new Error(`${name}: never ran`);
  return called;
}

/** The cases that OPS_CASE lets through, and that the device takes. */
export function chosenCases(cases: readonly OpCase[], kind: Device["kind"]): OpCase[] {
  const prefix = process.env.OPS_CASE ?? "";
  return cases.filter((one) => caseName(one).startsWith(prefix) && (one.kinds?.includes(kind) ?? true));
}

/** Registers them as tests. */
export function testCases(cases: readonly OpCase[], on: readonly Path[]): void {
  if (on.length === 0) return;
  for (const one of chosenCases(cases, on[0]!.backend.device().kind))
    test(caseName(one), () => expect([...execute(one, on)]).toContain(one.op));
}
