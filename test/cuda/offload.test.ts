/**
 * Optimizer states in host memory, on the emulated GPU with lazy streams: what is read, overwritten or freed too early is
 * wrong every time. States go through slots so small that each parameter takes several pieces. `staging` is tried with each of
 * its orders left out too.
 */
import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { type DriverSymbol, openDriver } from "../../ffi/bindings/cuda.ts";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { type CudaDevice, openCudaDevice } from "../../src/device/cuda/device.ts";
import { chooseGpu, type Gpu, listGpus, openGpu } from "../../src/device/cuda/gpu.ts";
import { openMemory } from "../../src/device/cuda/memory.ts";
import { openStaging } from "../../src/device/cuda/staging.ts";
import type { Device, Weight } from "../../src/device/device.ts";
import { clearHost } from "../../src/device/host-numbers.ts";
import { openDevice } from "../../src/device/open.ts";
import { mixReference } from "../../src/grpo/learner/moving-reference.ts";
import type { Model } from "../../src/model/model.ts";
import { mastersOf, optimizerStep, planOptimizer, startOptimizer, trainedSizes } from "../../src/optim/adamw.ts";
import { type OptimizerForm, usualForm } from "../../src/optim/form.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { placeTensors, planMemory } from "../../src/tensor/plan.ts";
import { elementCount, type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { buildEmulator } from "../emulator/build.ts";
import { type EmulatorControl, openControl } from "../emulator/control.ts";

setDefaultTimeout(600_000); // the emulator may have to be compiled first

let libraryFolder: string;
let control: EmulatorControl;
beforeAll(async () => {
  libraryFolder = (await buildEmulator()).folder;
  control = openControl(libraryFolder);
});
afterAll(() => {
  // Other files use the same emulator.
  control.setStreams("eager");
  control.setCheck(false);
  control.reset();
});

const advisory = ["bank-conflict", "uncoalesced"];
const faults = () => control.reports().filter(({ kind }) => !advisory.includes(kind));

const shapes = { table: [50, 64], big: [64, 128], square: [66, 62], small: [37] };
const settings = { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.1, maxGradNorm: 1 };
const wave = (n: number, phase: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(phase + 1.7 * i) / 8);

/** A slot of which a float32 state with masters fills 1,280 elements, and one in 8 bits 2,560. */
const SLOT_BYTES = 16_000;

/** Bytes of weights, masters and moments after steps of an optimizer, and after a moving reference has followed it. */
async function stepped(device: Device, dtype: ComputeDType, own: Partial<OptimizerForm>) {
  const blocks = Object.entries(shapes).map(([name, shape]) => {
    return { name, parts: [{ name, shape, decays: name !== "small", trainable: true }] };
  });
  const form = { ...usualForm, embeddings: new Set(["table"]), seed: 7, slotBytes: SLOT_BYTES, ...own };
  const [plan, host] = [planMemory(), planMemory()];
  const bind = planOptimizer(plan, device, blocks, dtype, undefined, null, form, host);
  for (const { name, elements } of trainedSizes(device, blocks, dtype))
    for (const prefix of ["w", "reference"]) plan.add("weights", `${prefix} ${name}`, dtype, [elements]);
  const [layout, onHost] = [plan.build(), host.build()];
  const arena = device.allocate(layout.totalBytes, "a test");
  device.populate(arena);
  const tensors = new Map(placeTensors(layout, arena.address));
  const pinned = device.allocateHost(onHost.totalBytes, "a test's states");
  await clearHost(pinned);
  for (const [name, each] of placeTensors(onHost, pinned.address)) tensors.set(name, each);
  const weightsOf = (prefix: string) =>
    Object.entries(shapes).map(([name, shape], i): Weight => {
      const held = tensors.get(`${prefix} ${name}`)!;
      const start = tensor(name, tensors.get(`gradient/${name}`)!.address, "float32", held.shape);
      device.upload(start, wave(elementCount(held.shape), i));
      device.ops.cast(held, start);
      return { name, address: held.address, dtype, shape, elements: elementCount(held.shape) };
    });
  const [weights, reference] = [weightsOf("w"), weightsOf("reference")];
  const state = bind(tensors, weights);
  startOptimizer(device, state);
  for (let step = 0; step < 3; step++) {
    for (const [i, { gradient }] of state.parameters.entries())
      device.upload(gradient, wave(elementCount(gradient.shape), step * 10 + i));
    await optimizerStep(device, state, settings, 1e-2);
  }
  const flat = ({ name, address, dtype: own, elements }: Weight) => tensor(name, address, own, [elements]);
  const read = async (from: Tensor | null) => from && [...(await device.read(from))];
  const found = [];
  for (const { weight, master, moments } of state.parts) {
    const { m, v } = moments;
    const held =
      moments.bits === 32
        ? [m as Tensor, v as Tensor]
        : [moments.m.codes, moments.m.absmax, moments.v.codes, moments.v.absmax];
    const all = [];
    for (const each of [flat(weight), master, ...held]) all.push(await read(each));
    found.push({ name: weight.name, all });
  }
  await mixReference({ device, weights: { all: reference } } as unknown as Model, state, 0.25);
  for (const each of reference) found.push({ name: each.name, all: [await read(flat(each))] });
  const bytes = { device: layout.totalBytes, host: onHost.totalBytes };
  // As a checkpoint saves and loads them.
  const part = state.parts.find(({ name, master }) => name === "big" && master);
  if (part && dtype === "bfloat16") {
    const own = mastersOf({ weight: { ...part.weight, shape: shapes.big }, master: part.master! });
    const saved = device.allocateHost(4 * own.elements, "a file");
    device.saveParameter(saved.address, "float32", own, 0, shapes.big[0]!);
    const numbers = new Float32Array(bytesAt(saved.address, 4 * own.elements));
    expect([...numbers]).toEqual((await read(part.master))!);
    numbers.fill(3, 0, 128);
    device.loadParameter(own, saved.address, "float32", 0, 1);
    const [changed, kept] = [[...device.download(part.master!)].slice(0, 129), numbers[128]];
    expect(changed).toEqual([...new Array(128).fill(3), kept!]);
    saved.free();
  }
  pinned.free();
  arena.free();
  return { found, bytes };
}

describe("states in host memory", () => {
  let device: CudaDevice;
  beforeAll(async () => {
    control.reset();
    control.setCheck(true);
    control.setStreams("lazy");
    device = await openCudaDevice({ libraryFolder });
  });
  afterAll(() => {
    device.close();
    control.reset();
  });
  afterEach(() => {
    const found = faults();
    control.clearReports();
    expect(found).toEqual([]);
  });

  test.each<[string, ComputeDType, Partial<OptimizerForm>]>([
    ["float32 masters", "bfloat16", {}],
    ["a float32 model", "float32", {}],
    ["moments in 8 bits", "bfloat16", { optim: "adamw_8bit" }],
    ["rounded at random", "bfloat16", { masterDtype: "bfloat16" }],
    ["moments in 8 bits, rounded at random", "bfloat16", { optim: "adamw_8bit", masterDtype: "bfloat16" }],
  ])("%s: the same bytes as on the device", async (_, dtype, form) => {
    const there = await stepped(device, dtype, form);
    const here = await stepped(device, dtype, { ...form, offloadOptimizer: true });
    expect(here.found).toEqual(there.found);
    expect(there.bytes.host).toBe(0);
    const room = 3 * 16_000;
    const elements = Object.values(shapes).reduce((sum, shape) => sum + elementCount(shape), 0);
    const least = (form.optim ? 2 : 8) + (dtype === "bfloat16" && !form.masterDtype ? 4 : 0);
    expect(here.bytes.host).toBeGreaterThan(least * elements);
    // Masters and moments are gone from the device, but for the room that they go through.
    expect(Math.abs(there.bytes.device + room - here.bytes.device - here.bytes.host)).toBeLessThan(2048);
  });
});

test("a CPU has them in the host's memory as it is", async () => {
  const device = await openDevice({ device: "cpu" });
  const form = { ...usualForm, offloadOptimizer: true };
  expect(() => planOptimizer(planMemory(), device, [], "float32", undefined, null, form, planMemory())).toThrow(
    "offload_optimizer: the device is a CPU, which has masters and moments in the host's memory as it is; leave offload_optimizer out, or set device cuda",
  );
});

/** What a call of the driver does to memory and to the order of streams. */
type Traced =
  | {
      readonly kind: "copy";
      readonly to: number;
      readonly from: number;
      readonly bytes: number;
      readonly stream: number;
    }
  | { readonly kind: "record" | "wait"; readonly stream: number; readonly event: number };

/** Two copies of which one writes what the other uses, and which nothing orders (by vector clocks of the streams). */
function unordered(trace: readonly Traced[]): string[] {
  const clocks = new Map<number, Map<number, number>>();
  const events = new Map<number, ReadonlyMap<number, number>>();
  const done: { readonly range: readonly [number, number]; writes: boolean; stream: number; time: number }[] = [];
  const found: string[] = [];
  const clockOf = (stream: number) => {
    const known = clocks.get(stream) ?? new Map<number, number>([[stream, 0]]);
    clocks.set(stream, known);
    return known;
  };
  for (const [i, each] of trace.entries()) {
    const clock = clockOf(each.stream);
    if (each.kind === "record") events.set(each.event, new Map(clock));
    if (each.kind === "wait")
      for (const [stream, time] of events.get(each.event) ?? [])
        clock.set(stream, Math.max(time, clock.get(stream) ?? 0));
    if (each.kind !== "copy") continue;
    const time = clock.get(each.stream)! + 1;
    clock.set(each.stream, time);
    for (const [address, writes] of [
      [each.to, true],
      [each.from, false],
    ] as const) {
      const range = [address, address + each.bytes] as const;
      for (const earlier of done) {
        if (range[0] >= earlier.range[1] || earlier.range[0] >= range[1] || !(writes || earlier.writes)) continue;
        if ((clock.get(earlier.stream) ?? 0) < earlier.time) found.push(`copy ${i} beside an earlier one`);
      }
      done.push({ range, writes, stream: each.stream, time });
    }
  }
  return found;
}

const NUMBERS = 16;
const PIECES = 5;

/** Two rounds of five pieces through two slots, from host memory to other host memory and back again. */
function copied(isPinned = true) {
  control.reset();
  control.setStreams("lazy");
  const driver = openDriver({ folder: libraryFolder });
  const gpu = openGpu(driver, chooseGpu(listGpus(driver), "cuda"));
  const memory = openMemory(gpu);
  const trace: Traced[] = [];
  const call = (symbol: DriverSymbol, ...args: number[]) => {
    const [a = 0, b = 0, c = 0, d = 0] = args;
    if (symbol.startsWith("cuMemcpy")) trace.push({ kind: "copy", to: a, from: b, bytes: c, stream: d });
    if (symbol === "cuEventRecord") trace.push({ kind: "record", event: a, stream: b });
    if (symbol === "cuStreamWaitEvent") trace.push({ kind: "wait", stream: a, event: b });
    gpu.call(symbol, ...args);
  };
  const traced: Gpu = Object.assign(Object.create(gpu), {
    call,
    mark: (event: number) => call("cuEventRecord", event, gpu.stream),
  });
  try {
    const staging = openStaging(traced, memory);
    const size = 4 * NUMBERS;
    const hosts = ["from", "to"].map(
      (name) => (isPinned ? memory.allocateHost(PIECES * size, name) : memory.allocate(PIECES * size, name)).address,
    );
    const slots = [0, 1].map((slot) => memory.allocate(2 * size, `slot ${slot}`).address);
    const other = memory.allocate(2 * size, "of another phase").address;
    const values = new Float32Array(bytesAt(hosts[0]!, PIECES * size));
    if (isPinned) values.set(Array.from({ length: PIECES * NUMBERS }, (_, i) => i + 1));
    // The slots' memory has another use before and after.
    for (const slot of slots) call("cuMemcpyDtoDAsync_v2", other, slot, 2 * size, gpu.stream);
    for (let round = 0; round < 2; round++) {
      const [source, target] = round === 0 ? [hosts[0]!, hosts[1]!] : [hosts[1]!, hosts[0]!];
      for (let piece = 0; piece < PIECES; piece++) {
        const index = (piece + round) % 2;
        const [first, second] = [slots[index]!, slots[index]! + size];
        const at = (address: number, i = piece) => tensor("host", address + size * i, "float32", [NUMBERS]);
        const staged = [
          { host: at(source), device: at(first, 0), copies: "in" },
          { host: at(target), device: at(second, 0), copies: "out" },
        ] as const;
        staging.through(index, staged, () => call("cuMemcpyDtoDAsync_v2", second, first, size, gpu.stream));
      }
      staging.join();
    }
    for (const slot of slots) call("cuMemcpyDtoDAsync_v2", slot, other, 2 * size, gpu.stream);
    // A read of the states waits for the compute stream alone (queueRead).
    trace.push({ kind: "copy", to: 0, from: hosts[0]!, bytes: PIECES * size, stream: gpu.stream });
    gpu.waitFor(markEnd(gpu));
    return { values: [...values], trace, faults: faults() };
  } finally {
    memory.close();
    gpu.close();
  }
}

/** An event at the end of the compute stream, which does not wait for others. */
function markEnd(gpu: Gpu): number {
  const event = gpu.createEvent();
  gpu.mark(event);
  return event;
}

describe("the order of copies and work", () => {
  const want = Array.from({ length: PIECES * NUMBERS }, (_, i) => i + 1);

  test("is complete", () => {
    const { values, trace, faults: found } = copied();
    expect(found).toEqual([]);
    expect(values).toEqual(want);
    expect(unordered(trace)).toEqual([]);
    const streams = new Set(trace.map(({ stream }) => stream));
    expect(streams.size).toBe(3);
  });

  test("has no wait that could be left out", () => {
    const { trace } = copied();
    const waits = trace.flatMap(({ kind }, i) => (kind === "wait" ? [i] : []));
    // Of each round: one at its start, for each piece before and after its work, for a slot used again, and one at its end.
    expect(waits).toHaveLength(2 * (1 + 2 * PIECES + (PIECES - 2) + 1));
    const needless = waits.filter((left) => unordered(trace.filter((_, i) => i !== left)).length === 0);
    expect(needless).toEqual([]);
  });

  test("memory that is not pinned is refused", () => {
    expect(() => copied(false)).toThrow("host is not in pinned memory");
  });
});
