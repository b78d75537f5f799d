/** `grpo plan --fit`: what it suggests fits, what is given stays, and one measure more takes part in the search. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { trainingPaths } from "../../src/api/bundled.ts";
import { fitSettings, type Measure, measures } from "../../src/api/fit.ts";
import { memoryNamed } from "../../src/config/gpus.ts";
import { configFor } from "../../src/config/load.ts";
import { setUpTraining } from "../../src/grpo/setup.ts";
import { grpo } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const small = ["--device", "cpu", "--num_generations", "8", "--per_device_train_batch_size", "64"];
const MiB = 2 ** 20;

test("the suggested flags give a plan that fits; nothing fits into too little", async () => {
  const { code, out } = await grpo(["plan", ...small, "--fit", "--memory", "160MiB"]);
  expect(code).toBe(0);
  const line = out.split("\n").find((each) => each.startsWith("bun run train"))!;
  const flags = line.split(" ").slice(3);
  expect(flags.slice(0, small.length)).toEqual(small);
  expect(flags).not.toContain("--memory");
  const planned = await grpo(["plan", ...flags, "--memory", "160MiB"]);
  expect(planned.out).toMatch(/there are +160 +fits/);
  expect(planned.code).toBe(0);
  const none = await grpo(["plan", ...small, "--fit", "--memory", "60MiB"]);
  expect(none.code).toBe(1);
  expect(none.out).toContain("nothing that was tried fits");
});

test("more memory gives more, up to what is of use; given settings stay", async () => {
  const { config } = configFor("train", [...small, "--max_completion_length", "48"]);
  const setup = await setUpTraining(config, trainingPaths(config), () => {});
  try {
    const fit = (mebibytes: number, given: string[] = [], table?: readonly Measure[]) =>
      fitSettings(setup, config, new Set(given), { bytes: mebibytes * MiB, onGpu: false }, table);
    const ample = await fit(4000);
    expect(ample.fits).toBe(true);
    expect(ample.peakBytes).toBeLessThan(4000 * MiB);
    expect(Object.fromEntries(ample.changes.map(({ key, value }) => [key, value]))).toMatchObject({
      gradient_checkpointing: false,
      micro_batch_tokens: 4096, // twice as many are more than the 64 completions have
    });
    const keeps = await fit(4000, ["micro_batch_tokens", "gradient_checkpointing"]);
    expect(keeps.changes.map(({ key }) => key)).not.toContain("micro_batch_tokens");
    const least = await fit(1);
    expect(least.fits).toBe(false);
    expect(least.changes.map(({ key }) => key)).toContain("max_concurrent_sequences");
    const noReference: Measure = {
      ...{ key: "beta", cost: "no reference", tier: 1 },
      less: ({ beta }) => (beta === 0 ? null : { beta: 0 }),
      more: () => null,
    };
    // Adapters, the last resort, need none either. In 4 bits, the weights of so small a model may save less than the
    // panels take that are made of them.
    expect(least.changes.filter(({ key }) => key !== "load_in_4bit").slice(-2)).toMatchObject([
      { key: "optim", value: "adamw_8bit", cost: expect.stringContaining("8 bits") },
      { key: "use_peft", value: true, cost: expect.stringContaining("adapters") },
    ]);
    const fourBits = measures.find(({ key }) => key === "load_in_4bit")!;
    const limits = { completions: 64, row: 64, microBatchTokens: 2048, hasHostMemory: false };
    expect(fourBits.less({ ...config, usePeft: true }, limits)).toEqual({ loadIn4bit: true });
    const whole = await fit(1, ["use_peft"]);
    expect(whole.changes.map(({ key }) => key)).not.toContain("use_peft");
    const without = await fit(1, ["use_peft"], [...measures, noReference]);
    expect(without.peakBytes).toBeLessThan(whole.peakBytes);
    expect(without.changes).toContainEqual({ key: "beta", value: 0, cost: "no reference" });
  } finally {
    setup.close();
  }
});

test("sizes and GPUs by name", () => {
  expect(memoryNamed("24GiB")).toEqual({ bytes: 24 * 2 ** 30, gpu: null });
  expect(memoryNamed("1.5 g").bytes).toBe(1.5 * 2 ** 30);
  expect(memoryNamed("24GB").bytes).toBe(24e9);
  expect(memoryNamed("rtx4090")).toMatchObject({ gpu: "RTX 4090" });
  expect(memoryNamed("NVIDIA GeForce RTX 3090").gpu).toBe("RTX 3090");
  expect(memoryNamed("4090").gpu).toBe("RTX 4090");
  for (const text of ["", "24", "lots", "0x10GiB", "A100"]) expect(() => memoryNamed(text)).toThrow("memory");
});
