/** `grpo bench` on the emulated GPU: ops are checked and timed by its events; rollout and update run
 * through the program's own code, with counts by phase. */
import { beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { cudaMeter, isEmulated } from "../../bench/cuda-meter.ts";
import { countingDevice } from "../../bench/roofline/counting-device.ts";
import { openCudaDevice } from "../../src/device/cuda/device.ts";
import { root } from "../e2e/runs.ts";
import { buildEmulator } from "../emulator/build.ts";

// The emulator may have to be compiled first, and kernels are compiled on demand.
setDefaultTimeout(300_000);

let folder = "";
beforeAll(async () => {
  ({ folder } = await buildEmulator());
});

async function bench(...argv: string[]) {
  const child = Bun.spawn(
    [process.execPath, join(root, "src/cli/main.ts"), "bench", ...argv, "--device", "cuda", "--json"],
    {
      env: { ...process.env, LD_LIBRARY_PATH: folder, EMULATOR_CHECK: "0" },
      stdout: "pipe",
      stderr: "pipe",
    },
  );
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect({ code: child.exitCode, err: err.replace(/^compiling .*\n/, "") }).toEqual({ code: 0, err: "" });
  return JSON.parse(out);
}

test("ops: both formats, gradients in the model's, shares of the card's own peaks", async () => {
  const report = await bench("ops", "--filter", "^(rmsnormBackward|attentionBackward|add) ", "--shape", "SmolLM2-135M");
  expect(report).toMatchObject({ measuredOn: expect.stringContaining("Emulated GPU"), sharedMachine: false });
  expect(report.peaks.first).toEqual({
    compute: expect.any(Number),
    products: expect.any(Number),
    memory: expect.any(Number),
  });
  const kinds = report.results.map(({ op, dtype }: { op: string; dtype: string }) => `${op} ${dtype}`);
  expect([...new Set(kinds)].sort()).toEqual([
    "add float32",
    "attentionBackward bfloat16",
    "attentionBackward float32",
    "rmsnormBackward bfloat16",
    "rmsnormBackward float32",
  ]);
  for (const { milliseconds, rate, peak, share } of report.results) {
    expect(milliseconds).toBeGreaterThan(0);
    expect(share).toBeCloseTo(rate / peak, 9);
  }
});

test("rollout and update: checked, timed, launches and bytes by phase, the memory taken by the driver", async () => {
  const { suites } = await bench("rollout", "update", "--shape", "data/model", "--dtype", "bfloat16");
  const { rollout, update } = suites;
  expect(rollout.checked).toMatch(/^the logprobs of \d+ sampled tokens are .* from training's at worst$/);
  expect(update.checked).toEndWith("of all gradients of a small model against float64");
  for (const { value } of [...rollout.figures, ...update.figures]) expect(value).toBeGreaterThan(0);
  expect(update.tokens).toBe(16 + 2 * 7);
  expect(update.besideBytes).toBeLessThan(2 ** 20);
  const phases = [...rollout.perPhase, ...update.perPhase];
  expect(phases.map(({ phase }: { phase: string }) => phase)).toEqual([
    ...["prefill", "decode step", "forward", "forward and backward", "optimizer"],
  ]);
  for (const { launches, bytes } of phases) {
    expect(launches).toBeGreaterThan(5);
    expect(bytes).toBeGreaterThan(1000);
  }
  const [, decode, scoring, both] = phases;
  expect(decode.launches).toBeLessThan(both.launches);
  expect(scoring.launches).toBeLessThan(both.launches);
});

test("the roofline's device has the real one's settings", async () => {
  const device = await openCudaDevice({ libraryFolder: folder });
  const counting = countingDevice(() => ({ tokens: 1, distinct: 1 }), device.gpu);
  for (const field of ["headBytes", "headRows", "microBatchTokens", "rowBlock"] as const)
    expect({ [field]: counting[field] }).toEqual({ [field]: device[field] });
  for (const count of [1, 5, 64, 100, 256]) expect(counting.decodeBucket(count)).toBe(device.decodeBucket(count));
  for (const dtype of ["float32", "bfloat16"] as const) {
    expect(counting.activationDType(dtype)).toBe(device.activationDType(dtype));
    expect(counting.gradientDType(dtype)).toBe(device.gradientDType(dtype));
  }
  const shape = { heads: 6, kvHeads: 2, headDim: 64, scale: 1 };
  expect(counting.pageElements(shape)).toEqual(device.pageElements(shape));
  expect(counting.parameterElements([33, 65], "bfloat16")).toBe(device.parameterElements([33, 65], "bfloat16"));
  expect(counting.exactlyOnPolicy).toBe(device.exactlyOnPolicy);
  device.close();
});

test("time is the GPU's own: that of the work queued between two events", async () => {
  const device = await openCudaDevice({ libraryFolder: folder });
  expect(isEmulated(device)).toBe(true);
  const { meter } = cudaMeter(device).device as typeof device;
  expect(meter.elapsed(() => {})).toBeGreaterThanOrEqual(0);
  const from = device.allocate(1024, "from");
  const to = device.allocate(1024, "to");
  const view = (address: number) => ({ name: "t", address, dtype: "int32" as const, shape: [256], rowStride: 1 });
  device.upload(
    view(from.address),
    Int32Array.from({ length: 256 }, (_, i) => i),
  );
  meter.copy(to.address, from.address, 1024);
  expect(device.download(view(to.address))).toEqual(Int32Array.from({ length: 256 }, (_, i) => i));
  device.close();
});
