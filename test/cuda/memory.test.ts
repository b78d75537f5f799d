/**
 * A GPU without enough memory, on the emulator with a limit: when a run is planned and when it allocates, the message says what
 * was requested and what to lower, the exit status is 1, and nothing is left behind.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { type CudaDevice, openCudaDevice } from "../../src/device/cuda/device.ts";
import { RunError } from "../../src/errors.ts";
import { planPolicy, planSampling, planTraining } from "../../src/session/policy.ts";
import { planReference } from "../../src/session/reference.ts";
import { planSession } from "../../src/session/session.ts";
import { folderOf, models, scoreFlags } from "../e2e/golden.ts";
import { workFolder } from "../e2e/runs.ts";
import { buildEmulator } from "../emulator/build.ts";
import { type EmulatorControl, type LiveObjects, openControl } from "../emulator/control.ts";
import { emulated } from "./emulated.ts";

// The emulator may have to be compiled first, and kernels are compiled on demand.
setDefaultTimeout(300_000);

const MiB = 2 ** 20;
const model = models[0]!;
const folder = folderOf(model);
const work = workFolder();

let control: EmulatorControl;
let device: CudaDevice;
/** Handles that devices of other test files lost with their context are still counted. */
let earlier: LiveObjects;
beforeAll(async () => {
  const { folder: libraryFolder } = await buildEmulator();
  control = openControl(libraryFolder);
  control.reset();
  earlier = control.live();
  device = await openCudaDevice({ libraryFolder });
});
afterAll(() => {
  control.setMemory(64 * 1024 * MiB);
  work.remove();
});

/** Enough for the plan but not the rest; not for the plan either; not even to open the GPU. */
test.each([
  [
    380,
    /the plan needs \d[^;]* MiB, \d+ of them reserved for .* and 37\d MiB are free on CUDA .*lower micro_batch_tokens/,
  ],
  [
    5,
    /the plan needs \d[^;]* MiB, \d+ of them reserved for .* and 1\.0 MiB are free on CUDA .*lower micro_batch_tokens/,
  ],
  [1, /workspace of cuBLAS: .* refused 4\.0 MiB.*lower micro_batch_tokens/],
])("with %i MiB a command ends with 1 and one line", async (limit, message) => {
  const env = { EMULATOR_MEMORY: String(limit * MiB) };
  const { code, err } = await emulated("score", scoreFlags(model, work.at("scores.jsonl"), {}), { env, always: true });
  expect(code).toBe(1);
  const lines = err.split("\n").filter((line) => line !== "" && !/^compiling/.test(line));
  expect(lines).toEqual([expect.stringMatching(message)]); // the emulator would report leaks
});

test("memory that is gone when a session allocates: what it had taken is freed, and it opens once there is enough", async () => {
  // Another program takes the memory after it was checked.
  const hopeful = { ...device, freeBytes: () => 2 ** 40 };
  const plan = () =>
    planSession(hopeful, (tenants) => {
      const from = tenants.folder(folder);
      const model = planPolicy(tenants, from, { dtype: "bfloat16", positions: 64 });
      const reference = planReference(tenants, from, model);
      const policy = planTraining(tenants, model, { tokens: 512, longestPrompt: 32 });
      const limits = { maxSequences: 4, promptRoom: 2, longestPrompt: 32, maxCompletion: 16, penalized: false };
      return { policy, reference, rollout: planSampling(tenants, model, limits) };
    });
  (await plan().open()).close(); // scratch memory stays with the device
  const before = control.live();
  const needed = plan().memory.plan.totalBytes;
  for (const share of [0, 0.3, 0.9]) {
    const planned = plan();
    control.setMemory(before.bytes + Math.floor(share * needed));
    const failure = await planned.open().then(
      () => null,
      (error: unknown) => error,
    );
    control.setMemory(64 * 1024 * MiB);
    expect(failure).toBeInstanceOf(RunError);
    expect((failure as Error).message).toMatch(/refused .* MiB.*lower micro_batch_tokens/);
    const { allocations, pinned } = control.live();
    expect({ allocations, pinned }).toEqual({ allocations: before.allocations, pinned: before.pinned });
  }
  (await plan().open()).close();
  device.close();
  expect(control.live()).toEqual(earlier);
  // A leak of ours shows above; the emulator's own report also counts leftovers of other files.
  expect(control.reports().filter(({ kind }) => kind !== "leak")).toEqual([]);
});
