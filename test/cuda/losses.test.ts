/**
 * Every loss type at both levels of importance sampling on the emulated GPU against the CPU, whose losses are tested with
 * torch's numbers: the step's loss, metrics and each tensor's gradient on recorded off-policy rollouts with KL, entropy bonus
 * and entropy mask, so that everything that passes between the language-model head and the loss is involved.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import { openCudaDevice } from "../../src/device/cuda/device.ts";
import type { Device } from "../../src/device/device.ts";
import type { LossType } from "../../src/grpo/loss/config.ts";
import { LOSS_TYPES } from "../../src/grpo/loss/loss-types.ts";
import { expectClose, firstGradients } from "../e2e/golden.ts";
import type { Flags } from "../e2e/runs.ts";
import { type Tensors, worstRelative } from "../e2e/tensors.ts";
import { buildEmulator } from "../emulator/build.ts";
import { type EmulatorControl, openControl } from "../emulator/control.ts";

// The emulator may have to be compiled first.
setDefaultTimeout(300_000);

let cuda: Device;
let cpu: Device;
let control: EmulatorControl | null = null;
beforeAll(async () => {
  if (process.env.BUN_GRPO_CUDA === "real") cuda = await openCudaDevice();
  else {
    const { folder: libraryFolder } = await buildEmulator();
    // Kernels are checked elsewhere; here only their results count.
    control = openControl(libraryFolder);
    control.setCheck(false);
    cuda = await openCudaDevice({ libraryFolder });
  }
  cpu = await openCpuDevice();
});
afterAll(() => {
  cuda.close();
  cpu.close();
  control?.setCheck(true);
});

const levels = ["token", "sequence"] as const;
const cases = (Object.keys(LOSS_TYPES) as LossType[]).flatMap((type) => levels.map((level) => [type, level] as const));
/** From the CPU, for the test that they are not all the same. */
const seen = new Map<string, Tensors>();

test.each(cases)("%s, %s level: loss, metrics and every gradient as on the CPU", async (lossType, level) => {
  const flags: Flags = {
    ...{ loss_type: lossType, importance_sampling_level: level, beta: 0.1, entropy_coef: 0.05 },
    ...{ top_entropy_quantile: 0.8, epsilon: 0.1, temperature: 0.9, use_bias_correction_kl: true },
    epsilon_high: lossType === "cispo" ? 1.1 : 0.15,
  };
  const [emulated, expected] = await Promise.all(
    [cuda, cpu].map((device) => firstGradients(device, "qwen3-qknorm", "grpo", flags)),
  );
  for (const [metric, want] of Object.entries(expected!.metrics))
    expectClose(emulated!.metrics[metric]!, want!, 1e-4, 1e-5, metric);
  const worst = worstRelative(emulated!.gradients, expected!.gradients);
  expectClose(worst.error, 0, 0, 1e-4, `gradient of ${worst.name}`);
  seen.set(`${lossType} ${level}`, expected!.gradients);
});

test("the cases are different losses: no two give the same gradients", () => {
  expect(seen.size).toBe(cases.length);
  const names = [...seen.keys()];
  for (const [i, a] of names.entries())
    for (const b of names.slice(i + 1)) {
      // bnpo equals dapo if a step is one block.
      if ([a, b].every((name) => /^(bnpo|dapo) /.test(name)) && a.split(" ")[1] === b.split(" ")[1]) continue;
      expect(worstRelative(seen.get(a)!, seen.get(b)!).error, `${a} and ${b}`).toBeGreaterThan(1e-3);
    }
});
