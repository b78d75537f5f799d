/**
 * An op case at a model's sizes. Buffers hold numbers computed from their index; the op runs once, some elements of its output
 * are compared with the reference, and the call can then be timed.
 */
import type { Device, KeyValuePages, Ops, Weight } from "../../src/device/device.ts";
import { RunError } from "../../src/errors.ts";
import { bfloat16ToNumber } from "../../src/tensor/dtype.ts";
import { byteLength, elementCount, type Tensor } from "../../src/tensor/tensor.ts";
import { type OpBench, picks, type Run, type Sample, type Slot, type Values } from "./case.ts";
import { opTable } from "./cases/all.ts";
import { type Cost, type CostOf, EXPONENTIAL, type Lengths } from "./cost.ts";
import { randomFrom } from "./random.ts";
import { type Allowance, allowanceOn, allowed, excess, type Rounding, type Sum, sumOf } from "./tolerance.ts";
import { coldCopies, copyBytes, openWorkspace, type Workspace } from "./workspace.ts";

/** A result that differs from float64; any other error of a check comes from the device. */
export class WrongResult extends RunError {}

/** A benchmark with a verified result. */
export interface OpenBench {
  /** The timed work: one call of the op. */
  run(): void;
  /** Multiplications and additions per call; an exponential counts as its polynomial. */
  readonly flops: number;
  /** Bytes that one call must move: every input read once, every output written once. */
  readonly bytes: number;
  free(): void;
}

/**
 * Runs the op once and compares its output.
 *
 * @throws WrongResult for the first wrong element
 */
export function openBench(device: Device, rounding: Rounding, bench: OpBench): OpenBench {
  const workspace = openWorkspace(device);
  try {
    const { run, work, cost } = runOn(workspace, rounding, bench);
    bench.body(run);
    const { bytes, flops, exponentials = 0 } = cost();
    return { run: work(), bytes, flops: flops + EXPONENTIAL * exponentials, free: workspace.free };
  } catch (error) {
    workspace.free();
    throw error;
  }
}

function runOn(workspace: Workspace, rounding: Rounding, { op, sizes }: OpBench) {
  const { device } = workspace;
  const integers = new Map<number, Slot>();
  const parameters = new Map<number, Weight>();
  let work: (() => void) | undefined;
  let cost: Cost | undefined;

  /** The device, whose first call of the op determines the benchmark's cost. */
  const noting: Device = {
    ...device,
    ops: {
      ...device.ops,
      [op]: (...args: Parameters<Ops[typeof op]>) => {
        cost ??= (opTable[op].cost as CostOf<typeof op>)(lengthsOf(integers), ...args);
        (device.ops[op] as (...args: unknown[]) => void)(...args);
      },
    },
  };
  const rowOf = (slot: Slot, row: number): ArrayLike<number> => {
    const w = parameters.get(slot.address);
    return w ? workspace.parameterRow(slot, w, row) : workspace.values(slot, row);
  };
  /** Its elements, which only an op can determine. */
  const readBack = (t: Tensor): Slot => {
    let held: ReturnType<Device["download"]> | undefined;
    const at: Values = (index) => {
      held ??= device.download(t);
      return t.dtype === "bfloat16" ? bfloat16ToNumber(held[index]!) : held[index]!;
    };
    return { ...t, at };
  };
  const output: Run["output"] = (name, dtype, shape) => readBack(workspace.output(name, dtype, shape));

  const run: Run = {
    random: randomFrom(`${op} ${sizes}`),
    device,
    slow: false,
    times: 1,
    input: (name, dtype, shape) => workspace.input(name, dtype, shape),
    filled(name, dtype, shape, at) {
      const slot = workspace.filled(name, dtype, shape, at);
      if (dtype === "int32") integers.set(slot.address, slot);
      return slot;
    },
    output,
    weight: (name, dtype, shape, { cold = false } = {}) =>
      workspace.weight(name, dtype, shape, cold ? coldCopies(elementCount(shape) * (dtype === "float32" ? 4 : 2)) : 1),
    parameter(name, { shape, dtype: layoutOf }, { at, dtype = "float32" } = {}) {
      const { address, elements, at: held } = workspace.weight(name, dtype, shape, 1, at, layoutOf);
      parameters.set(address, { name, address, dtype, shape, elements, layoutOf });
      return { name, address, dtype, shape: [elements], rowStride: 1, at: held };
    },
    saved: (name, dtype, shape) => output(name, dtype, shape),
    save: (job) => job(device),
    first: (job) => job(device),
    layers: (pages) => layersOf(workspace, pages),
    run(job, after) {
      job(noting);
      after?.(device);
      work = () => job(device);
    },
    check(slot, want, tolerance, sample = {}) {
      const shape = parameters.get(slot.address)?.shape ?? slot.shape;
      const width = elementCount(shape.slice(1));
      const allowance = allowanceOn(tolerance, rounding);
      for (const row of rowsIn(sample, shape[0] ?? 1, width)) {
        const got = rowOf(slot, row);
        for (const column of picks(width, sample.columns ?? 9)) {
          const index = row * width + column;
          const wanted = typeof want === "function" ? want(index) : want[index]!;
          near(`${slot.name}[${shape.length > 1 ? `${row}, ${column}` : row}]`, got[column], sumOf(wanted), allowance);
        }
      }
    },
    same(a, aFrom, b, bFrom, count) {
      for (const i of picks(count, 9)) {
        const [left, right] = [rowOf(a, aFrom + i), rowOf(b, bFrom + i)];
        for (let j = 0; j < left.length; j++)
          if (!Object.is(left[j], right[j]))
            throw new WrongResult(`${a.name}[${aFrom + i}, ${j}] is ${left[j]}, wanted ${right[j]} as in ${b.name}`);
      }
    },
    differences() {}, // these would need the whole reference
  };
  return {
    run,
    work: () => work ?? missing(op),
    cost: () => cost ?? missing(op),
  };
}

function missing(op: string): never {
  throw new Error(`${op}: its benchmark did not call it`);
}

function rowsIn({ rows }: Sample, count: number, width: number): readonly number[] {
  return typeof rows === "object" ? rows : picks(count, rows ?? (width === 1 ? 33 : 9));
}

/** @throws WrongResult unless the element is within its tolerance */
export function near(what: string, got: number | undefined, want: Sum, allowance: Required<Allowance>): void {
  if (got !== undefined && excess(got, want, allowance) <= 1) return;
  const within = allowed(allowance, want).toPrecision(2);
  throw new WrongResult(`${what} is ${got}, wanted ${want.value} within ${within}`);
}

function lengthsOf(integers: ReadonlyMap<number, Slot>): Lengths {
  const valuesOf = (t: Tensor) =>
    Array.from({ length: elementCount(t.shape) }, (_, i) => integers.get(t.address)!.at(i));
  return {
    segments: valuesOf,
    cache(pageTable, promptLengths, completionLengths) {
      const [table, width] = [valuesOf(pageTable), pageTable.shape[1] ?? 1];
      const [prompts, completions] = [valuesOf(promptLengths), valuesOf(completionLengths)];
      const sum = (lengths: Iterable<number>) => [...lengths].reduce((a, b) => a + b, 0);
      // Sequences of a group share their first page.
      const shared = new Map(prompts.map((length, b) => [table[b * width]!, length]));
      return { tokens: sum(prompts) + sum(completions), distinct: sum(shared.values()) + sum(completions) };
    },
  };
}

/** Copies of a filled cache, as other layers would have; together they exceed most processors' caches. */
function layersOf(workspace: Workspace, first: KeyValuePages): () => KeyValuePages {
  const copy = (t: Tensor) => {
    const to = workspace.output(t.name, t.dtype, t.shape);
    copyBytes(workspace.device, to.address, t.address, byteLength(t));
    return to;
  };
  const count = coldCopies(byteLength(first.keys) + byteLength(first.values));
  const layers = [first];
  while (layers.length < count) layers.push({ keys: copy(first.keys), values: copy(first.values) });
  let turn = 0;
  return () => layers[turn++ % layers.length]!;
}
