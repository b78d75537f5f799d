/**
 * Runs the tables of op cases. A case lays out its buffers, runs the op, and compares what it wrote with a float64
 * reference. Every case runs on every instruction path this machine has and on emulated ones (emulated.ts), with one
 * thread and twice with two; the three must agree in every bit, and nothing but the outputs may change: not the guard words around
 * a buffer, not the gaps of a strided view, not an input.
 *
 * A case prints as `op setting=value …`. `OPS_CASE="matmulForward M=33 N=31" bun test test/ops` runs those that begin
 * with it, `OPS_PATH=avx2` one path.
 */
import { expect, test } from "bun:test";
import { bfloat16Paths, type CpuDevice, openCpuDevice } from "../../src/device/cpu.ts";
import type { Ops, Weight } from "../../src/device/device.ts";
import type { ComputeDType, DType } from "../../src/tensor/dtype.ts";
import { tensor } from "../../src/tensor/tensor.ts";
import { emulatedLibrary } from "./emulated.ts";
import { caseMemory, type Image, type Layout, type Slot, type SlotOptions, type WeightSlot } from "./memory.ts";
import { type Random, randomFrom } from "./random.ts";

/** An op, or one of the device's own ways for parameters. */
export type OpName = keyof Ops | "loadParameter" | "saveParameter";

export type Settings = Readonly<Record<string, string | number | boolean>>;

export interface OpCase {
  readonly op: OpName;
  readonly settings: Settings;
  readonly body: (run: CaseRun) => void;
}

/** What a difference may be: absolute + relative · |wanted| + magnitude · (the reference's own sum of magnitudes). */
export interface Tolerance {
  readonly absolute?: number;
  readonly relative?: number;
  readonly magnitude?: number;
  /** Allowed beside, on paths that round the float32 operands of a product with a bfloat16 weight to bfloat16. */
  readonly operands?: Tolerance;
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
  slot(name: string, dtype: DType, shape: readonly number[], values: ArrayLike<number> | null, o?: SlotOptions): Slot;
  weight(name: string, dtype: ComputeDType, shape: readonly number[], values: ArrayLike<number>): WeightSlot;
  /** A tensor in w's layout (float32 unless said), `values` row-major, padding zero; an output may not change that. */
  parameter(name: string, w: Weight, values: ArrayLike<number>, output?: boolean, dtype?: DType): Slot;
  /** Runs the work on every path and thread count. Once per case, after every buffer has been laid out. */
  run(work: (device: CpuDevice) => void): void;
  /** Compares an output with the reference: NaN and infinities first, then the size of differences. */
  check(slot: Slot, want: ArrayLike<number>, tolerance: Tolerance, magnitudes?: ArrayLike<number>): void;
  /** Rows of two outputs have the same bits. */
  same(a: Slot, aFrom: number, b: Slot, bFrom: number, count: number): void;
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

/** An instruction path under test. The choice is the library's, so it is made anew before each run. */
export interface Path {
  readonly name: string;
  readonly device: CpuDevice;
  /** Products with a bfloat16 weight round their float32 operands to bfloat16. */
  readonly roundsOperands: boolean;
  select(threads: number): void;
}

/** Paths of the emulated library: the portable one with the lanes of AVX-512, and those with emulated instructions. */
export const emulatedPaths: Readonly<Record<string, string>> = {
  portable16: "portable",
  "emulated-avx512bf16": "avx512bf16",
  "emulated-amx": "amx",
};

async function openPaths(): Promise<Path[]> {
  const path = (name: string, device: CpuDevice, selected: string): Path => ({
    name,
    device,
    roundsOperands: bfloat16Paths.includes(selected),
    select(threads) {
      device.library.selectPath(selected);
      device.library.setThreads(threads);
    },
  });
  const built = await openCpuDevice({ threads: 2 });
  const native = built.library.paths.filter((p) => p.supported).map(({ name }) => path(name, built, name));
  const asked = process.env.OPS_PATH;
  if (asked && !(asked in emulatedPaths)) {
    const chosen = native.filter((p) => p.name === asked);
    if (chosen.length > 0) return chosen;
    const names = [...native.map((p) => p.name), ...Object.keys(emulatedPaths)];
    throw new Error(`OPS_PATH=${asked}: one of ${names.join(", ")}`);
  }
  const library = await openCpuDevice({ threads: 2, path: "portable", libraryFile: await emulatedLibrary() });
  const emulated = Object.entries(emulatedPaths).map(([name, selected]) => path(name, library, selected));
  return asked ? emulated.filter((p) => p.name === asked) : [...native, ...emulated];
}

export const paths: readonly Path[] = await openPaths();
export const defaultDevice: CpuDevice = paths[0]!.device;

const layouts = new Map<string, Layout>();

/** Where the device puts the elements of a parameter, learned by loading one that holds its own indices. */
function layoutOf(shape: readonly number[]): Layout {
  const key = shape.join("×");
  const known = layouts.get(key);
  if (known) return known;
  const elements = defaultDevice.parameterElements(shape);
  const count = shape.reduce((a, b) => a * b, 1);
  if (elements >= 2 ** 24) throw new Error(`${key}: float32 cannot count the elements`);
  const memory = defaultDevice.allocate((elements + count) * 4, "layout of a parameter");
  const source = tensor("indices", memory.address + elements * 4, "float32", [count]);
  defaultDevice.upload(
    source,
    Float32Array.from({ length: count }, (_, i) => i + 1),
  );
  const w: Weight = { name: key, address: memory.address, dtype: "float32", shape, elements };
  defaultDevice.loadParameter(w, source.address, "float32", 0, shape[0] ?? 1);
  const places = new Int32Array(count).fill(-1);
  for (const [at, index] of defaultDevice.download(tensor(key, memory.address, "float32", [elements])).entries())
    if (index > 0) places[index - 1] = at;
  memory.free();
  if (places.includes(-1)) throw new Error(`${key}: loading left elements out`);
  const layout = { places, elements };
  layouts.set(key, layout);
  return layout;
}

/** The device with its ops' names noted as they are called. */
function noting(device: CpuDevice, called: Set<string>): CpuDevice {
  const note = <T extends object>(target: T): T =>
    new Proxy(target, {
      get(object, name, receiver) {
        const value = Reflect.get(object, name, receiver);
        if (typeof value === "function") called.add(String(name));
        return value;
      },
    });
  return note({ ...device, ops: note(device.ops) });
}

/** The tolerance on a path: what holds everywhere, and what it rounds beside. */
function allowance({ operands, ...everywhere }: Tolerance, path: Path): Tolerance {
  if (!operands || !path.roundsOperands) return everywhere;
  const sum = (key: "absolute" | "relative" | "magnitude") => (everywhere[key] ?? 0) + (operands[key] ?? 0);
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
export function execute(opCase: OpCase, on: readonly Path[] = paths): ReadonlySet<string> {
  const name = caseName(opCase);
  const memory = caseMemory();
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
  opCase.body({
    random,
    slot: memory.slot,
    weight: (label, dtype, shape, values) => memory.weight(label, dtype, shape, values, layoutOf(shape)),
    parameter: (label, w, values, output = false, dtype = "float32") =>
      memory.parameter(label, dtype, values, layoutOf(w.shape), output),
    run(work) {
      for (const path of on) {
        const device = noting(path.device, called);
        for (const threads of [1, 2, 2]) {
          memory.restore();
          path.select(threads);
          work(device);
          const image = memory.image();
          const first = images.get(path.name);
          if (!first) {
            images.set(path.name, image);
            const stray = memory.strayWrite(image);
            if (stray) throw new Error(`${name}\n  on ${path.name}: ${stray}`);
          } else if (!image.equals(first)) {
            throw new Error(`${name}\n  on ${path.name}: ${threads} threads give other bits than 1`);
          }
        }
      }
    },
    check(slot, want, tolerance, magnitudes) {
      onEach(slot.name, (image, path) =>
        compare(memory.read(image, slot), want, allowance(tolerance, path), magnitudes),
      );
    },
    same(a, aFrom, b, bFrom, count) {
      onEach(`${a.name} and ${b.name}`, (image) => {
        const [left, right] = [memory.rowBytes(image, a, aFrom, count), memory.rowBytes(image, b, bFrom, count)];
        if (left.equals(right)) return;
        const at = left.findIndex((byte, i) => byte !== right[i]);
        const row = Math.floor(at / (left.length / count));
        throw new Error(`rows ${aFrom + row} and ${bFrom + row} differ in their bits`);
      });
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

/** Registers the cases that OPS_CASE lets through as tests. */
export function testCases(cases: readonly OpCase[]): void {
  for (const opCase of cases) {
    const name = caseName(opCase);
    if (!name.startsWith(process.env.OPS_CASE ?? "")) continue;
    test(name, () => expect([...execute(opCase)]).toContain(opCase.op));
  }
}
