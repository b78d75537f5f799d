/**
 * Each model family on the emulated GPU against numbers of transformers, TRL and torch.optim.AdamW
 * (test/golden/make_families.py): logprobs in float32 and, within its limit, in bfloat16; losses, gradient norms and weights
 * after three steps.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import { openCudaDevice } from "../../src/device/cuda/device.ts";
import type { Device } from "../../src/device/device.ts";
import { expectOnlyRounding } from "../e2e/expect-rerouted.ts";
import { expectUpdated, familyModels, mixtures, scoreFlags, scoresApart, updateFlags } from "../e2e/golden.ts";
import { overBfloat16Line } from "../e2e/logprob-line.ts";
import { workFolder } from "../e2e/runs.ts";
import { buildEmulator } from "../emulator/build.ts";
import { succeeds } from "./emulated.ts";

// The emulator may have to be compiled first, and kernels are compiled on demand.
setDefaultTimeout(600_000);

const work = workFolder();
let cpu: Device;
let gpu: Device;
beforeAll(async () => {
  if (process.env.BUN_GRPO_CUDA === "real") gpu = await openCudaDevice();
  else gpu = await openCudaDevice({ libraryFolder: (await buildEmulator()).folder });
  cpu = await openCpuDevice();
});
afterAll(() => {
  gpu.close();
  cpu.close();
  work.remove();
});
const output = (model: string, what: string) => work.at(`${model.replace("/", "-")}-${what}`);

const logprobsOf = (path: string) =>
  readFileSync(path, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => (JSON.parse(line) as { logprobs: number[] }).logprobs.map(Math.fround));

describe.each(familyModels)("%s", (model) => {
  test("logprobs and entropies; in bfloat16 close to float32", async () => {
    const [exact, close] = [output(model, "float32.jsonl"), output(model, "bfloat16.jsonl")];
    await Promise.all([
      succeeds("score", scoreFlags(model, exact, { micro_batch_tokens: 64 })),
      succeeds("score", scoreFlags(model, close, { dtype: "bfloat16" })),
    ]);
    const apart = scoresApart(model, exact);
    expect(apart.logprob).toBeLessThanOrEqual(2e-5);
    expect(apart.entropy).toBeLessThanOrEqual(1e-4);
    if (!mixtures.includes(model)) return expect(overBfloat16Line(scoresApart(model, close))).toEqual([]);
    // Rounding may send a token to another expert.
    const { logprobs } = await expectOnlyRounding(gpu, cpu, model);
    expect(logprobsOf(close)).toEqual(logprobs.map((own) => [...own]));
  });

  test("losses, gradient norms, metrics, weights", async () => {
    await succeeds("update", updateFlags(model, "grpo", output(model, "update")));
    expectUpdated(model, "grpo", output(model, "update"));
  });
});
