/**
 * Whole runs on the emulated GPU: training, the same with streams that run only what a wait forces, stopped and resumed;
 * what happens where memory or NVIDIA's libraries are missing.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type CudaDevice, openCudaDevice } from "../../src/device/cuda.ts";
import { planSession } from "../../src/engine/session.ts";
import { RunError } from "../../src/errors.ts";
import { argvOf, bundledModel, root, tinyTraining, workFolder } from "../e2e/runs.ts";
import { buildEmulator } from "../emulator/build.ts";
import { openControl } from "../emulator/control.ts";
import { emulated, succeeds } from "./emulated.ts";

const work = workFolder();
afterAll(() => work.remove());

const training = { ...tinyTraining, device: "cuda", max_steps: 3 };

function model(name: string): Buffer {
  return readFileSync(join(work.at(name), "model.safetensors"));
}

/** Lines of metrics.jsonl without what is timed. */
function metrics(name: string): Record<string, number>[] {
  const lines = readFileSync(join(work.at(name), "metrics.jsonl"), "utf8")
    .trim()
    .split("\n");
  const timed = /^time\/|step_time$|tokens_per_second$|^mfu$|^memory_/;
  return lines.map((line) => {
    const record = Object.entries(JSON.parse(line) as Record<string, number>);
    return Object.fromEntries(record.filter(([key]) => !timed.test(key)));
  });
}

describe("training", () => {
  test("a run, the same with lazy streams, and one that was stopped and resumed: equal bytes", async () => {
    const run = (name: string, flags: object, env = {}) =>
      succeeds("train", { ...training, ...flags, output_dir: work.at(name) }, { env });
    await Promise.all([run("whole", {}), run("lazy", {}, { EMULATOR_STREAMS: "lazy" })]);
    await run("resumed", { max_steps: 3, save_steps: 2 });
    expect(metrics("whole").length).toBe(3);
    expect(metrics("lazy")).toEqual(metrics("whole"));
    expect(model("lazy").equals(model("whole"))).toBe(true);
    expect(model("resumed").equals(model("whole"))).toBe(true);
    const checkpoint = join(work.at("resumed"), "checkpoint-2");
    await run("goes on", { resume_from_checkpoint: checkpoint });
    expect(model("goes on").equals(model("whole"))).toBe(true);
    for (const line of metrics("whole")) {
      expect(line["sampling/sampling_logp_difference/max"]).toBeLessThan(1e-4);
      expect(line.grad_norm).toBeGreaterThan(0);
    }
  });

  test("several updates of a generation learn from logprobs of the training pass", async () => {
    const flags = { ...training, max_steps: 2, num_iterations: 2, dtype: "bfloat16", output_dir: work.at("twice") };
    await succeeds("train", flags);
    const [first, second] = metrics("twice");
    // The first update is on-policy to the bit, whatever sampling has recorded.
    expect(first!["clip_ratio/region_mean"] ?? 0).toBe(0);
    expect(second!.loss).not.toBe(first!.loss);
    expect(first!["sampling/sampling_logp_difference/max"]).toBeGreaterThan(0);
    const line = readFileSync(join(work.at("twice"), "completions", "step-000001.jsonl"), "utf8").split("\n")[0]!;
    const { old_logprobs, sampling_logprobs } = JSON.parse(line);
    expect(old_logprobs).not.toEqual(sampling_logprobs);
  });
});

describe("memory that is not there", () => {
  test("a plan that does not fit the GPU: exit status 1, one line with sizes and settings", async () => {
    const env = { EMULATOR_MEMORY: String(24 * 2 ** 20) };
    const { code, err } = await emulated("train", { ...training, output_dir: work.at("small") }, { env });
    expect(err).toMatch(/the plan needs \d+.* MiB and \d+.* MiB are free on CUDA .*lower micro_batch_tokens/);
    expect(err).not.toContain("    at ");
    expect(code).toBe(1);
  });

  test("memory that another program took meanwhile: a clear error, and nothing is left behind", async () => {
    const { folder: libraryFolder } = await buildEmulator();
    const control = openControl(libraryFolder);
    const device: CudaDevice = await openCudaDevice({ libraryFolder });
    try {
      const before = control.live();
      const meanwhile = { ...device, prepare: () => control.setMemory(before.bytes + 2 ** 20) };
      const planned = planSession({
        device: meanwhile,
        folder: bundledModel,
        dtype: null,
        packed: { tokens: 512, entries: 512, headChunk: 64, longestPrompt: 64 },
        training: true,
        reference: null,
        rollout: null,
        positions: 128,
      });
      const failure: unknown = await planned.open().catch((error) => error);
      planned.close();
      expect(failure).toBeInstanceOf(RunError);
      expect((failure as RunError).message).toMatch(
        /the memory plan: .* refused \d+.* MiB; .* are free and this run holds/,
      );
      expect(control.live()).toEqual(before);
    } finally {
      control.setMemory(8 * 2 ** 30);
      device.close();
    }
    expect(control.live()).toMatchObject({ allocations: 0, pinned: 0, streams: 0, events: 0, modules: 0, graphs: 0 });
  });
});

/** A process that finds NVIDIA's libraries nowhere but where the system has them. */
function plain(device: string) {
  const hidden = ["LD_LIBRARY_PATH", "CUDA_HOME", "CONDA_PREFIX", "VIRTUAL_ENV"];
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !hidden.includes(name)));
  const flags = { ...tinyTraining, device, max_steps: 1, output_dir: work.at(`plain-${device}`) };
  const result = Bun.spawnSync([process.execPath, join(root, "src/cli/main.ts"), "train", ...argvOf(flags)], {
    env: { ...env, NO_COLOR: "1" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  return { code: result.exitCode, err: result.stderr.toString(), all: `${result.stdout}${result.stderr}` };
}

const usable = await openCudaDevice().then(
  (device) => {
    device.close();
    return true;
  },
  () => false,
);

// A machine with a usable GPU has nothing missing.
describe.skipIf(usable)("without NVIDIA's libraries", () => {
  test("--device cuda: one clear error, exit status 2", () => {
    const { code, err } = plain("cuda");
    expect(code).toBe(2);
    expect(err.trim().split("\n").length).toBe(1);
    expect(err).toMatch(/device cuda: .*libcuda.* not found; looked in .*; .*--device cpu/);
  });

  test("--device auto: the CPU, and one line that says so", () => {
    const { code, all } = plain("auto");
    expect(code).toBe(0);
    expect(all.split("\n").filter((line) => line.includes("computing on the CPU: no CUDA device")).length).toBe(1);
  });
});
