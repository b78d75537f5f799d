/**
 * The roofline's numbers match the current kernels, its device is the emulated one in launches, bytes and memory, and ops below
 * 70 % of their bound have a reason.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import counts from "../../bench/roofline/counts.json" with { type: "json" };
import {
  type Counted,
  type CountsTable,
  type KernelCounts,
  otherKernels,
  requestedBytes,
} from "../../bench/roofline/evaluate.ts";
import { openModel, type Phase, runStep, type StepPart, stepPhases } from "../../bench/roofline/phases.ts";
import { reasons } from "../../bench/roofline/reasons.ts";
import { rooflineTables } from "../../bench/roofline/report.ts";
import { type CudaDevice, openCudaDevice } from "../../src/device/cuda/device.ts";
import { workspaceBytes } from "../../src/device/cuda/products.ts";
import { parseModelConfig } from "../../src/families/families.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { tensor } from "../../src/tensor/tensor.ts";
import { buildEmulator } from "../emulator/build.ts";
import { type EmulatorControl, openControl } from "../emulator/control.ts";
import { countedKernels, countedOps, countOp, openCounted, otherCapability } from "./kernel-counts.ts";

const table = counts as unknown as CountsTable;

/** All counts except those that require NVIDIA's compiler. */
function executed({ from, instructions, integer, floating, special, ...rest }: KernelCounts): unknown {
  return from === "ptx" ? { ...rest, instructions, integer, floating, special } : rest;
}

/** Fast ones of each kind; the slow ones are counted when the file is written. */
const recounted: readonly Counted[] = ["rmsnormForward", "gluBackward", "adamw", "attentionDecode", "kvStore"];

describe("counts", () => {
  let device: CudaDevice;
  let control: EmulatorControl;
  beforeAll(async () => {
    ({ device, control } = await openCounted());
  });
  afterAll(() => device.close());

  for (const op of recounted)
    test(`${op} executes what bench/roofline/counts.json says (else: bun test/cuda/kernel-counts.ts --update)`, async () => {
      const fresh = await countOp(device, control, op);
      expect(executed({ ...fresh, from: table[op]!.from })).toEqual(executed(table[op]!));
    });

  test("every op with its own kernels is counted, and every kernel that takes one over", () => {
    expect(Object.keys(counts).sort()).toEqual([...countedOps, ...countedKernels].sort());
  });
});

test("every op below 70 % of its bound has a written reason, and no other op has one", async () => {
  const { lines, low } = await rooflineTables(table);
  expect([...low.keys()].sort()).toEqual(Object.keys(reasons).sort());
  for (const machine of ["A100", "H100", "RTX 4090"]) expect(lines.join("\n")).toContain(` on ${machine}: `);
  expect(lines[0]).toStartWith("A model, not a measurement");
});

/** The parts of a real model: norms over heads, groups of two heads, heads that Hopper's kernel takes. */
const config = parseModelConfig(
  {
    model_type: "qwen3",
    vocab_size: 432,
    hidden_size: 128,
    intermediate_size: 256,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 64,
    tie_word_embeddings: true,
    eos_token_id: 1,
  },
  "a small model",
);
const shape = { groups: 1, samples: 2, promptTokens: 40, completionTokens: 60, sequences: 4, microBatchTokens: 512 };

/** How far the bytes requested by warps may be from the roofline's, which are counted at a large bfloat16 model's widths. */
const allowed: Readonly<Record<ComputeDType, number>> = { bfloat16: 0.1, float32: 0.3 };

const tally = (names: readonly string[]) => {
  const found: Record<string, number> = {};
  for (const name of names) found[name] = (found[name] ?? 0) + 1;
  return found;
};

/** The model's buffers on the device, zero. */
async function opened(device: CudaDevice, dtype: ComputeDType) {
  const model = openModel(device, config, shape, dtype, "auto");
  const { address, byteLength } = model.arena;
  device.ops.fill(tensor("arena", address, "float32", [Math.floor(byteLength / 4)]), 0);
  await device.read(model.optimizer.sums);
  return model;
}

const partOf = ({ name }: Phase): StepPart =>
  name === "prefill" || name === "decode" ? "rollout" : (name as StepPart);

for (const dtype of ["float32", "bfloat16"] as const)
  test(`the roofline of ${dtype} is what the emulated GPU launches, requests and plans`, async () => {
    const { device, control } = await openCounted();
    try {
      const { phases, memory } = await stepPhases(config, shape, device.gpu, { dtype, checkpointing: "auto" });
      const model = await opened(device, dtype);
      expect(model.arena.byteLength).toBe(memory.plan.totalBytes);
      control.clearCounters();
      await runStep(device, model, shape, (part) => {
        const work = phases.filter((phase) => partOf(phase) === part).flatMap((phase) => phase.work);
        expect({ part, ...control.launches() }).toEqual({ part, ...tally(work.flatMap(({ launches }) => launches)) });
        const requested = control.counters().reduce((sum, { sectors }) => sum + 32 * sectors, 0);
        const predicted = work.reduce((sum, each) => sum + requestedBytes(each, table), 0);
        expect(Math.abs(requested / predicted - 1), `${part}: ${requested} bytes`).toBeLessThan(allowed[dtype]);
        control.clearCounters();
      });
      model.rollout.close();
    } finally {
      device.close();
    }
  });

// Kernels of other GPUs are recorded only where they are for these alone.
test(`on an emulated sm_${otherCapability}, too, an op with a kernel of its own there launches and executes that`, async () => {
  const { device, control } = await openCounted(otherCapability);
  try {
    for (const kernel of countedKernels) {
      const { from, ...fresh } = await countOp(device, control, kernel);
      expect(executed({ ...fresh, from: "machine code" })).toEqual(executed(table[kernel]!));
      const ran = control.launches();
      expect(ran).toMatchObject({ [kernel]: 1 });
      const { phases } = await stepPhases(config, shape, device.gpu);
      const launched = phases.flatMap(({ work }) => work.filter(({ op }) => op === otherKernels[kernel]));
      expect(launched.length).toBeGreaterThan(0);
      for (const { launches } of launched) expect(tally(launches)).toEqual(ran);
    }
  } finally {
    device.close();
    control.setComputeCapability(80);
  }
});

test("with room for the activations of one of two layers, both keep one", async () => {
  const { folder: libraryFolder } = await buildEmulator();
  const control = openControl(libraryFolder);
  const gpu = { limits: { multiprocessors: 8, computeCapability: 80, sharedMemory: 0 }, totalBytes: 2 ** 31 };
  const peak = async (checkpointing: boolean) =>
    (await stepPhases(config, shape, gpu, { dtype: "bfloat16", checkpointing })).memory.peakBytes;
  const [least, most] = [await peak(true), await peak(false)];
  const totalBytes = Math.ceil((least + 0.7 * (most - least)) / 0.9) + workspaceBytes(80);
  control.setMemory(totalBytes);
  const device = await openCudaDevice({ libraryFolder });
  try {
    const { memory } = await stepPhases(config, shape, device.gpu);
    expect(memory.peakBytes).toBeGreaterThan(least);
    expect(memory.peakBytes).toBeLessThan(most);
    expect((await opened(device, "bfloat16")).arena.byteLength).toBe(memory.plan.totalBytes);
  } finally {
    device.close();
    control.setMemory(64 * 2 ** 30);
  }
});
