/** `gradient_checkpointing`: the bits are the same whatever is kept, and `auto` keeps what fits. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { families } from "../../src/families/families.ts";
import { openRunDevice } from "../../src/run/device.ts";
import { invented } from "../fixtures/invented-family.ts";
import { writeTinyModel } from "../fixtures/scalar-model.ts";
import { type KeptRun, keptRun } from "./kept-activations.ts";
import { workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const LAYERS = 4;
const work = workFolder();
let device: Device;
families.set("invented", invented);
beforeAll(async () => {
  device = await openRunDevice({ device: "cpu", threads: 2 }, () => {});
});
afterAll(() => {
  work.remove();
  families.delete("invented");
});

/** One family has norms over heads, the other layers of different shapes. */
describe.each(["qwen3", "invented"])("%s", (modelType) => {
  const models: { policy: string; critic: string } = { policy: "", critic: "" };
  beforeAll(async () => {
    const config = { num_hidden_layers: LAYERS };
    models.policy = await writeTinyModel(work.at(`${modelType} policy`), { modelType, head: "lm", config });
    models.critic = await writeTinyModel(work.at(`${modelType} critic`), { modelType, seed: 5, config });
  });
  const run = (on: Device, dtype: KeptRun["dtype"], checkpointing: KeptRun["checkpointing"]) =>
    keptRun(on, { ...models, dtype, checkpointing });

  test.each(["float32", "bfloat16"] as const)("%s: the same bits, whatever is kept", async (dtype) => {
    const recomputed = await run(device, dtype, true);
    expect(recomputed.kept).toBe(0);
    const kept = await run(device, dtype, false);
    expect(kept.kept).toBe(LAYERS);
    expect(kept.totalBytes).toBeGreaterThan(recomputed.totalBytes);
    expect(kept.numbers).toEqual(recomputed.numbers);
  });

  test("auto keeps as many layers as there is room for", async () => {
    const [least, most] = [await run(device, "float32", true), await run(device, "float32", false)];
    // A device with memory of its own, of which a plan may take nine tenths; the rest is for its driver.
    const besides = least.scratchBytes + 384 * 2 ** 20;
    const withMemory = (bytes: number) => ({ ...device, freeBytes: () => Math.ceil((bytes + besides) / 0.9) + 4096 });
    const between = await run(withMemory((least.totalBytes + most.totalBytes) / 2), "float32", "auto");
    expect(between.kept).toBeGreaterThan(0);
    expect(between.kept).toBeLessThan(LAYERS);
    expect(between.numbers).toEqual(least.numbers);
    const all = await run(withMemory(most.totalBytes), "float32", "auto");
    expect([all.kept, all.totalBytes]).toEqual([LAYERS, most.totalBytes]);
  });
});
