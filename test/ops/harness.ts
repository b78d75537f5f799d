/**
 * Runs the tables of op cases. A case lays out its buffers, runs the op, and compares its output with a float64 reference. It
 * runs on every path of a device (paths.ts, cuda-paths.ts), several times on each: all runs must agree bit for bit, and only
 * the outputs may change, not the guard words around a buffer, the gaps of a strided view or an input.
 *
 * A case prints as `op setting=value …`. `OPS_CASE="matmulForward M=33 N=31" bun test test/ops` runs the cases that start with
 * it, `OPS_PATH=avx2` a single path, `OPS_PATH=cuda` only the CUDA device.
 */
import { expect, test } from "bun:test";
import { caseName, type OpCase, type OperandTypes, type SuiteRun, type Wanted } from "../../bench/ops/case.ts";
import { randomFrom } from "../../bench/ops/random.ts";
import { allowanceOn, excess, type Rounding, type Sum, sumOf, type Tolerance } from "../../bench/ops/tolerance.ts";
import type { Device, Weight } from "../../src/device/device.ts";
import { bfloat16ToNumber, type ComputeDType, type DType, numberToBfloat16 } from "../../src/tensor/dtype.ts";
import { elementCount } from "../../src/tensor/tensor.ts";
import type { Arena, Image } from "./arena.ts";
import type { Layouts } from "./layout.ts";
import { caseMemory, type PlacedSlot } from "./memory.ts";

/** Memory and layout of the cases on one device. On the CPU, the layout of a parameter depends on the path. */
export interface Backend {
  device(): Device;
  readonly slow: boolean;
  readonly arena: Arena;
  readonly layoutOf: Layouts;
}

/** One way in which a device computes; paths that run together share a backend. */
export interface Path extends Rounding {
  readonly name: string;
  readonly backend: Backend;
  device(): Device;
  /** Equal inputs give equal bits; false if approximate instructions are disturbed. */
  readonly equalBits: boolean;
  /** Several runs, which must agree bit for bit; `select` is called before the work, `settle` after it. */
  readonly runs: readonly { readonly what: string; select(): void; settle?(): void }[];
}

/** The device, recording the names of its ops as they are called; parameters are loaded from and saved to the host's memory. */
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

/** The reference's elements. */
function elementsOf(want: Wanted, count: number): Sum[] {
  if (typeof want === "function") return Array.from({ length: count }, (_, i) => sumOf(want(i)));
  return Array.from(want, sumOf);
}

function compare(got: Float64Array, wanted: readonly Sum[], tolerance: Tolerance, path: Path) {
  if (got.length !== wanted.length) throw new Error(`${got.length} elements, the reference has ${wanted.length}`);
  const allowance = allowanceOn(tolerance, path);
  const finiteness = (x: number) => (Number.isFinite(x) ? "finite" : String(x));
  for (const [i, x] of got.entries())
    if (finiteness(x) !== finiteness(wanted[i]!.value))
      throw new Error(`element ${i} is ${x}, wanted ${wanted[i]!.value}`);
  let [worst, at, wrong] = [1, -1, 0];
  for (const [i, x] of got.entries()) {
    const ratio = excess(x, wanted[i]!, allowance);
    if (ratio > 1) wrong++;
    if (ratio > worst) [worst, at] = [ratio, i];
  }
  if (wrong > 0)
    throw new Error(
      `${wrong} of ${got.length} elements are off; the worst, element ${at}, is ${got[at]}, wanted ${wanted[at]!.value}: ${worst.toPrecision(3)} times the tolerance`,
    );
}

const toBfloat16 = (x: number) => bfloat16ToNumber(numberToBfloat16(Math.fround(x)));

/** Runs one case. @returns the names of the ops and device functions that it called. */
export function execute(opCase: OpCase, on: readonly Path[]): ReadonlySet<string> {
  const groups = Map.groupBy(on, (path) => path.backend);
  return new Set([...groups].flatMap(([backend, paths]) => [...executeOn(opCase, backend, paths)]));
}

function executeOn(opCase: OpCase, backend: Backend, on: readonly Path[]): ReadonlySet<string> {
  const name = caseName(opCase);
  const memory = caseMemory(backend.arena);
  const images = new Map<string, Image>();
  const called = new Set<string>();
  const random = randomFrom(name);
  const before: ((device: Device) => void)[] = [];
  const placed = (slot: { readonly address: number }) => slot as PlacedSlot;
  const requireRun = () => {
    if (images.size === 0) throw new Error(`${name}: compared before it ran`);
  };
  const onEach = (what: string, judge: (image: Image, path: Path) => void) => {
    requireRun();
    for (const path of on) {
      try {
        judge(images.get(path.name)!, path);
      } catch (error) {
        throw new Error(`${name}\n  on ${path.name}, ${what}: ${(error as Error).message}`);
      }
    }
  };
  const filled: SuiteRun["filled"] = (label, dtype, shape, at, o) =>
    memory.slot(
      label,
      dtype,
      shape,
      Float64Array.from({ length: elementCount(shape) }, (_, i) => at(i)),
      o,
    );
  const weightOf: SuiteRun["weightOf"] = (label, dtype, shape, values) => {
    const w = memory.weight(label, dtype, shape, values, backend.layoutOf(shape, dtype));
    return { ...w, next: () => w };
  };
  const same: SuiteRun["same"] = (a, aFrom, b, bFrom, count) => {
    onEach(`${a.name} and ${b.name}`, (image, path) => {
      if (!path.equalBits) return;
      const left = memory.rowBytes(image, placed(a), aFrom, count);
      const right = memory.rowBytes(image, placed(b), bFrom, count);
      if (left.equals(right)) return;
      const at = left.findIndex((byte, i) => byte !== right[i]);
      const row = Math.floor(at / (left.length / count));
      throw new Error(`rows ${aFrom + row} and ${bFrom + row} differ in their bits`);
    });
  };
  /** Runs the work on a path as often as the path requires: with equal bits, and no writes except to outputs. */
  const runOn = (path: Path, work: (device: Device) => void) => {
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
        throw new Error(`${name}\n  on ${path.name}: different bits with ${what} than with ${path.runs[0]!.what}`);
      }
    }
  };

  opCase.body({
    random,
    device: backend.device(),
    paths: on,
    slow: backend.slow,
    times: 2,
    slot: memory.slot,
    filled,
    weightOf,
    input(label, dtype, shape, { deviation, coarse = false, ...options } = {}) {
      const drawn = random.normal(elementCount(shape), deviation);
      return memory.slot(label, dtype, shape, coarse ? drawn.map(toBfloat16) : drawn, options);
    },
    output: (label, dtype, shape, options) => memory.slot(label, dtype, shape, null, { ...options, output: true }),
    weight: (label, dtype, shape, { deviation } = {}) =>
      weightOf(label, dtype, shape, random.normal(elementCount(shape), deviation)),
    parameter(label, { shape, dtype: of }, { output = false, deviation, at, dtype = "float32" } = {}) {
      const count = elementCount(shape);
      const values = at ? Float64Array.from({ length: count }, (_, i) => at(i)) : random.normal(count, deviation);
      return memory.parameter(label, dtype, values, backend.layoutOf(shape, of), output);
    },
    saved: filled,
    save() {}, // the reference takes the place of another op's output
    first: (work) => void before.push(work),
    layers: (pages) => () => pages,
    run(work, after) {
      const whole = (device: Device) => {
        for (const each of before) each(device);
        work(device);
        after?.(device);
      };
      for (const path of on) runOn(path, whole);
    },
    check(slot, want, tolerance) {
      requireRun(); // before the reference, which may be slow
      const wanted = elementsOf(want, placed(slot).values.length);
      onEach(slot.name, (image, path) => compare(memory.read(image, placed(slot)), wanted, tolerance, path));
    },
    same,
    agree(a, aFrom, b, bFrom, count, elsewhere) {
      if (backend.device().exactlyOnPolicy) return same(a, aFrom, b, bFrom, count);
      const part = (image: Image, slot: PlacedSlot, from: number) => {
        const width = slot.values.length / (slot.shape[0] ?? 1);
        return memory.read(image, slot).subarray(from * width, (from + count) * width);
      };
      onEach(`${a.name} and ${b.name}`, (image, path) =>
        compare(part(image, placed(a), aFrom), Array.from(part(image, placed(b), bFrom), sumOf), elsewhere, path),
      );
    },
    differences(gradient, at, loss, tolerance, times = 1) {
      const { values } = placed(gradient);
      const picked = Array.from({ length: Math.min(6, values.length) }, () => random.integer(values.length));
      const slopes = picked.map((i) => {
        const h = 1e-4 * Math.max(1, Math.abs(at(i)));
        const moved = (by: number) => loss((j) => at(j) + (j === i ? by : 0));
        return (moved(h) - moved(-h)) / (2 * h);
      });
      const start = (i: number) => (Number.isFinite(values[i]) ? values[i]! : 0);
      onEach(`${gradient.name} by differences at ${picked}`, (image, path) => {
        const got = memory.read(image, placed(gradient));
        const grew = Float64Array.from(picked, (i) => (got[i]! - start(i)) / times);
        compare(grew, slopes.map(sumOf), tolerance, path);
      });
    },
    values: (slot) => new Map([...images].map(([path, image]) => [path, memory.read(image, placed(slot))])),
  });
  if (images.size === 0) throw new Error(`${name}: never ran`);
  return called;
}

/** The cases that OPS_CASE selects. */
export function chosenCases(cases: readonly OpCase[]): OpCase[] {
  const prefix = process.env.OPS_CASE ?? "";
  return cases.filter((one) => caseName(one).startsWith(prefix));
}

/** Whether a device supports the case's operands. */
export const takes = (device: OperandTypes, { only }: OpCase): boolean => only?.on(device) ?? true;

/** The name of an unsupported case, with the reason. */
export const skippedName = (one: OpCase): string => `${caseName(one)} (${one.only?.reason})`;

/** Registers the cases as tests. */
export function testCases(cases: readonly OpCase[], on: readonly Path[]): void {
  if (on.length === 0) return;
  for (const one of chosenCases(cases)) {
    const paths = on.filter((path) => takes(path.device(), one));
    if (paths.length > 0) test(caseName(one), () => expect([...execute(one, paths)]).toContain(one.op));
    else test.skip(skippedName(one), () => {});
  }
}
