/** `gradient_checkpointing` on the emulated GPU, or with BUN_GRPO_CUDA=real on this machine's own: the bits are the same. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { openCudaDevice } from "../../src/device/cuda/device.ts";
import type { Device } from "../../src/device/device.ts";
import { keptRun } from "../e2e/kept-activations.ts";
import { workFolder } from "../e2e/runs.ts";
import { buildEmulator } from "../emulator/build.ts";
import { writeTinyModel } from "../fixtures/scalar-model.ts";

// The emulator may have to be compiled first, and kernels are compiled on demand.
setDefaultTimeout(300_000);

const work = workFolder();
const models = { policy: work.at("policy"), critic: work.at("critic") };
let gpu: Device;
beforeAll(async () => {
  if (process.env.BUN_GRPO_CUDA === "real") gpu = await openCudaDevice();
  else gpu = await openCudaDevice({ libraryFolder: (await buildEmulator()).folder });
  const config = { head_dim: 16 }; // for which every kernel is recorded
  await writeTinyModel(models.policy, { modelType: "qwen3", head: "lm", config });
  await writeTinyModel(models.critic, { modelType: "qwen3", seed: 5, config });
});
afterAll(() => {
  gpu.close();
  work.remove();
});

test.each(["float32", "bfloat16"] as const)("%s", async (dtype) => {
  const recomputed = await keptRun(gpu, { ...models, dtype, checkpointing: true });
  const kept = await keptRun(gpu, { ...models, dtype, checkpointing: false });
  expect([recomputed.kept, kept.kept]).toEqual([0, 2]);
  expect(kept.numbers).toEqual(recomputed.numbers);
});
