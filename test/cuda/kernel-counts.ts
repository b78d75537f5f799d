/**
 * What each op's kernels execute, counted by the emulated driver at shapes of real models and given per byte or operation of
 * the op's cost: the input of `bench roofline`. `bun test/cuda/kernel-counts.ts --update` writes bench/roofline/counts.json; a
 * test compares that file with a fresh count.
 */
import { writeFileSync } from "node:fs";
import { opTable } from "../../bench/ops/cases/all.ts";
import { type CostOf, type Lengths, movedBytes } from "../../bench/ops/cost.ts";
import { randomFrom } from "../../bench/ops/random.ts";
import { type Counted, type KernelCounts, otherKernels } from "../../bench/roofline/evaluate.ts";
import { assetPath } from "../../src/assets.ts";
import { openCudaDevice } from "../../src/device/cuda/device.ts";
import { attentionKernels } from "../../src/device/cuda/ops/attention.ts";
import { attentionBackwardKernels } from "../../src/device/cuda/ops/attention-backward.ts";
import { attentionBackwardWarpgroupKernels } from "../../src/device/cuda/ops/attention-backward-warpgroup.ts";
import { attentionWarpgroupKernels } from "../../src/device/cuda/ops/attention-warpgroup.ts";
import type { Defines, KernelDefinition } from "../../src/device/cuda/runtime.ts";
import { WARPGROUP_CAPABILITY } from "../../src/device/cuda/tensor-maps.ts";
import { type Device, type Ops, PAGE_TOKENS, type Weight } from "../../src/device/device.ts";
import { bytesPerElement, type DType, numberToBfloat16 } from "../../src/tensor/dtype.ts";
import { elementCount, type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { buildEmulator } from "../emulator/build.ts";
import { type EmulatorControl, type KernelCounters, openControl } from "../emulator/control.ts";
import { type MachineLoop, machineLoops } from "./machine-loops.ts";

export const countsFile = assetPath("bench/roofline/counts.json");

/** A model's widths with few rows: Qwen3-0.6B's hidden size and head size. */
const D = 1024;
const F = 3072;
const shape = { heads: 4, kvHeads: 2, headDim: 128, scale: 128 ** -0.5 };
const width = (shape.heads + 2 * shape.kvHeads) * shape.headDim;

/** Of the attended sequence, in tokens: a completion of the roofline's step. Masked parts of tiles weigh more in shorter ones. */
const LENGTH = 1024;

interface Buffers {
  tensor(dtype: DType, sizes: readonly number[]): Tensor;
  integers(values: readonly number[], sizes?: readonly number[]): Tensor;
  weight(sizes: readonly number[], dtype?: "float32" | "bfloat16"): Weight;
}

function buffersOn(device: Device): Buffers {
  const random = randomFrom("kernel counts");
  const place = (dtype: DType, sizes: readonly number[]): Tensor => {
    const bytes = elementCount(sizes) * bytesPerElement(dtype);
    return tensor("counted", device.allocate(bytes, "a counted op").address, dtype, sizes);
  };
  const filled = (dtype: DType, sizes: readonly number[]): Tensor => {
    const t = place(dtype, sizes);
    const values = random.normal(elementCount(sizes), 0.5);
    device.upload(t, dtype === "bfloat16" ? Uint16Array.from(values, numberToBfloat16) : Float32Array.from(values));
    return t;
  };
  return {
    tensor: filled,
    integers(values, sizes = [values.length]) {
      const t = place("int32", sizes);
      device.upload(t, Int32Array.from(values));
      return t;
    },
    weight(sizes, dtype = "bfloat16") {
      const t = filled(dtype, sizes);
      return { name: "counted", address: t.address, dtype, shape: sizes, elements: elementCount(sizes) };
    },
  };
}

type Call = readonly unknown[];

const range = (count: number, value: (i: number) => number = (i) => i) =>
  Array.from({ length: count }, (_, i) => value(i));

/** The arguments of one call of each op that launches its own kernels. */
const samples: Readonly<Partial<Record<keyof Ops, (b: Buffers) => Call>>> = {
  biasBackward: (b) => [b.tensor("float32", [D]), b.tensor("bfloat16", [256, D])],
  nextTokens: (b) => [
    b.integers(range(32, (i) => i)),
    b.integers(range(32, (i) => i)),
    b.integers(range(32, (i) => i - 1)),
  ],
  embeddingForward: (b) => [b.tensor("float32", [32, D]), b.integers(range(32, (i) => i % 9)), b.weight([64, D])],
  embeddingBackward: (b) => [
    b.tensor("float32", [64, D]),
    b.tensor("float32", [64, D]),
    b.integers(range(64, (i) => (i * 7) % 50)),
    b.weight([64, D]),
  ],
  rmsnormForward: (b) => [
    b.tensor("bfloat16", [64, D]),
    b.tensor("float32", [64]),
    b.tensor("float32", [64, D]),
    b.weight([D]),
    1e-6,
  ],
  rmsnormBackward: (b) => {
    const dresidual = b.tensor("float32", [256, D]);
    const [dy, x] = [b.tensor("bfloat16", [256, D]), b.tensor("float32", [256, D])];
    return [dresidual, b.tensor("float32", [D]), dy, x, b.weight([D]), b.tensor("float32", [256]), dresidual];
  },
  ropeForward: (b) => rope(b),
  ropeBackward: (b) => rope(b),
  attentionForward: (b) => [
    b.tensor("bfloat16", [LENGTH, shape.heads * shape.headDim]),
    b.tensor("float32", [LENGTH, shape.heads]),
    b.tensor("bfloat16", [LENGTH, width]),
    b.integers([0, LENGTH, 0, 0], [1, 4]),
    shape,
  ],
  attentionBackward: (b) => [
    b.tensor("bfloat16", [LENGTH, width]),
    b.tensor("bfloat16", [LENGTH, shape.heads * shape.headDim]),
    b.tensor("bfloat16", [LENGTH, width]),
    b.tensor("bfloat16", [LENGTH, shape.heads * shape.headDim]),
    b.tensor("float32", [LENGTH, shape.heads]),
    b.integers([0, LENGTH, 0, 0], [1, 4]),
    b.tensor("float32", [LENGTH, 4]),
    shape,
  ],
  kvStore: (b) => [
    pagesOf(b, 2),
    b.tensor("bfloat16", [64, width]),
    b.integers(range(64, () => 1)),
    b.integers(range(64)),
    shape,
  ],
  headsForward: (b) => [
    b.tensor("bfloat16", [64, width]),
    b.tensor("float32", [64, shape.heads]),
    b.tensor("float32", [64, shape.kvHeads]),
    b.tensor("bfloat16", [64, width]),
    { q: b.weight([shape.headDim]), k: b.weight([shape.headDim]), epsilon: 1e-6 },
    b.integers(range(64)),
    ...[0, 1].map(() => b.tensor("float32", [64, shape.headDim / 2])),
    shape,
  ],
  attentionDecode: (b) => [
    b.tensor("bfloat16", [4, shape.heads * shape.headDim]),
    b.tensor("bfloat16", [4, width]),
    b.tensor("bfloat16", [4, width]),
    {
      norms: { q: b.weight([shape.headDim]), k: b.weight([shape.headDim]), epsilon: 1e-6 },
      positions: b.integers([0, 1, 2, 3]),
      cos: b.tensor("float32", [4, shape.headDim / 2]),
      sin: b.tensor("float32", [4, shape.headDim / 2]),
    },
    { pages: pagesOf(b, 40), page: b.integers([9, 19, 29, 39]), offset: b.integers(range(4, () => 63)) },
    b.integers(range(40), [4, 10]),
    b.integers(range(4, () => 128)),
    b.integers(range(4, () => 512)),
    shape,
  ],
  gluForward: (b) => [b.tensor("bfloat16", [32, F]), b.tensor("bfloat16", [32, 2 * F]), false],
  gluBackward: (b) => [
    b.tensor("bfloat16", [32, 2 * F]),
    b.tensor("bfloat16", [32, F]),
    b.tensor("bfloat16", [32, 2 * F]),
    false,
    b.tensor("bfloat16", [32, F]),
  ],
  lmHeadForward: (b) => {
    const { logits, hidden, w, starts, targets, values } = head(b);
    return [values(), values(), values(), logits, hidden, w, starts, targets, 1];
  },
  lmHeadBackward: (b) => {
    const { logits, hidden, w, starts, targets, values } = head(b);
    const [dhidden, dw] = [b.tensor("bfloat16", [16, 64]), b.tensor("float32", [VOCABULARY, 64])];
    return [dhidden, dw, logits, values(), values(), hidden, w, starts, targets, values(), values(), 1, true];
  },
  sample: (b) => [
    b.integers(range(4)),
    b.tensor("float32", [4]),
    b.tensor("float32", [4]),
    b.tensor("float32", [4, VOCABULARY]),
    b.integers(range(4)),
    b.integers(range(20), [4, 5]),
    null,
    { seed: 1, stream: 0, temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 },
  ],
  adamw: (b) => {
    const flat = () => b.tensor("float32", [FLAT]);
    const settings = { learningRate: 1e-6, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 };
    return [b.weight([FLAT]), flat(), flat(), flat(), flat(), { ...settings, step: 1, gradientScale: 1 }];
  },
  sumSquares: (b) => [b.tensor("float64", [1]), b.tensor("float32", [FLAT])],
  scale: (b) => [b.tensor("float32", [FLAT]), 0.5],
  add: (b) => [b.tensor("float32", [FLAT]), b.tensor("float32", [FLAT])],
  fill: (b) => [b.tensor("float32", [FLAT]), 0],
  cast: (b) => [b.tensor("float32", [FLAT]), b.tensor("float32", [FLAT])],
  gatherRows: (b) => [b.tensor("float32", [32, D]), b.tensor("float32", [64, D]), b.integers(range(32, (i) => 2 * i))],
  scatterRows: (b) => [
    b.tensor("float32", [64, D]),
    b.tensor("bfloat16", [32, D]),
    b.integers(range(32, (i) => 2 * i)),
  ],
};

const VOCABULARY = 16384;
const FLAT = 2 ** 18;

function rope(b: Buffers): Call {
  const tables = () => b.tensor("float32", [64, shape.headDim / 2]);
  const x = b.tensor("bfloat16", [64, (shape.heads + shape.kvHeads) * shape.headDim]);
  return [x, b.integers(range(64)), tables(), tables(), shape.headDim];
}

function pagesOf(b: Buffers, count: number) {
  const page = () => b.tensor("bfloat16", [count, shape.kvHeads * PAGE_TOKENS * shape.headDim]);
  return { keys: page(), values: page() };
}

function head(b: Buffers) {
  return {
    logits: b.tensor("float32", [16, VOCABULARY]),
    hidden: b.tensor("bfloat16", [16, 64]),
    w: b.weight([VOCABULARY, 64]),
    starts: b.integers(range(17)),
    targets: b.integers(range(16, (i) => 100 * i)),
    values: () => b.tensor("float32", [16]),
  };
}

/** Ops whose cost is counted in operations: those that grow with the square of the length. */
const byFlops: readonly (keyof Ops)[] = ["attentionForward", "attentionBackward"];

const lengths: Lengths = {
  segments: () => Int32Array.of(0, LENGTH, 0, 0),
  cache: () => ({ tokens: 4 * 640, distinct: 4 * 640 }),
};

const four = (value: number) => Number(value.toPrecision(4));

/** Sources whose kernels are tensor-core loops: their instructions are counted in machine code. */
const loopSources: Readonly<Partial<Record<Counted, readonly (readonly [KernelDefinition, variant: Defines])[]>>> = {
  attentionForward: [[attentionKernels.forward, { HEAD_DIM: shape.headDim, O_TYPE: "bf16", WINDOWED: 0 }]],
  attention_forward_warpgroup: [[attentionWarpgroupKernels.forward, { HEAD_DIM: shape.headDim }]],
  attentionBackward: [[attentionBackwardKernels.keys, { HEAD_DIM: shape.headDim, DQKV_TYPE: "bf16", WINDOWED: 0 }]],
  attention_backward_keys_warpgroup: [
    [attentionBackwardWarpgroupKernels.keys, { HEAD_DIM: shape.headDim, WINDOWED: 0 }],
    [attentionBackwardWarpgroupKernels.queries, { HEAD_DIM: shape.headDim, WINDOWED: 0 }],
  ],
};

/** Kernels whose products are those of warpgroups. */
const ofWarpgroups = new Set(
  [attentionWarpgroupKernels, attentionBackwardWarpgroupKernels].flatMap((kernels) =>
    Object.values(kernels).map(({ name }): string => name),
  ),
);

/** @param loops machine code of the op's kernels; null: only the executed PTX */
function countsOf(
  op: keyof Ops,
  args: Call,
  counters: readonly KernelCounters[],
  loops: ReadonlyMap<string, MachineLoop> | null,
): KernelCounts {
  const cost = (opTable[op].cost as CostOf<keyof Ops>)(lengths, ...(args as Parameters<Ops[keyof Ops]>));
  const unit = byFlops.includes(op) ? "flop" : "byte";
  const amount = unit === "flop" ? cost.flops : (cost.own ?? movedBytes(cost));
  const per = (value: (c: KernelCounters) => number) => four(counters.reduce((sum, c) => sum + value(c), 0) / amount);
  const executed = (pipe: keyof MachineLoop, ptx: (c: KernelCounters) => number) =>
    per((c) => {
      const loop = loops?.get(c.kernel);
      return loop ? 32 * loop[pipe] * c.mmaFlops : ptx(c);
    });
  // The driver counts both kinds of product as one; a kernel has one of them.
  const products = (warpgroups: boolean) => per((c) => (ofWarpgroups.has(c.kernel) === warpgroups ? c.mmaFlops : 0));
  return {
    unit,
    from: loops ? "machine code" : "ptx",
    instructions: executed("instructions", (c) => c.instructions),
    integer: executed("alu", (c) => c.integer),
    floating: executed("fma", (c) => c.floating + c.fused),
    special: executed("special", (c) => c.special),
    mmaFlops: products(false),
    wgmmaFlops: products(true),
    sectorBytes: per((c) => 32 * c.sectors),
    sharedPasses: per((c) => c.sharedPasses),
  };
}

/** The op that a kernel by itself belongs to, or the op. */
const opOf = (counted: Counted): keyof Ops =>
  Object.hasOwn(otherKernels, counted) ? otherKernels[counted as keyof typeof otherKernels] : (counted as keyof Ops);

/** Counts of one op on an open device. `machine`: with the loops of the machine code, which requires NVIDIA's compiler. */
export async function countOp(
  device: Device,
  control: EmulatorControl,
  counted: Counted,
  machine = false,
): Promise<KernelCounts> {
  const op = opOf(counted);
  const sources = machine ? loopSources[counted] : undefined;
  const found = sources && (await Promise.all(sources.map((source) => machineLoops(...source))));
  const loops = found ? new Map(found.flatMap((each) => [...each])) : null;
  const args = samples[op]!(buffersOn(device));
  const call = () => (device.ops[op] as (...rest: Call) => void)(...args);
  call(); // compiles
  control.clearCounters();
  call();
  return countsOf(op, args, control.counters(), loops);
}

/** The ops, and the kernels that only a GPU of `otherCapability` launches. */
export const countedOps = Object.keys(samples) as (keyof Ops)[];
export const countedKernels = Object.keys(otherKernels) as (keyof typeof otherKernels)[];
export const otherCapability = WARPGROUP_CAPABILITY;

/** Opens the emulated device with counting on. */
export async function openCounted(capability = 80) {
  const { folder: libraryFolder } = await buildEmulator();
  const control = openControl(libraryFolder);
  control.setCheck(true);
  control.setComputeCapability(capability);
  return { device: await openCudaDevice({ libraryFolder }), control };
}

if (import.meta.main) {
  const table: { -readonly [K in Counted]?: KernelCounts } = {};
  for (const [capability, all] of [
    [80, countedOps],
    [otherCapability, countedKernels],
  ] as const) {
    const { device, control } = await openCounted(capability);
    for (const counted of all) table[counted] = await countOp(device, control, counted, true);
    device.close();
  }
  if (process.argv.includes("--update")) writeFileSync(countsFile, `${JSON.stringify(table, null, 2)}\n`);
  else process.stdout.write(`${JSON.stringify(table, null, 2)}\n`);
}
