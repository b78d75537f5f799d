/**
 * The host's cost of a decode step, TypeScript and FFI together, for the shape of a 0.6B model: measured against a driver that
 * does nothing, so all of it is ours.
 */
import { expect, test } from "bun:test";
import { rooflineModels } from "../../bench/models.ts";
import { openModel } from "../../bench/roofline/phases.ts";
import { openCudaDevice } from "../../src/device/cuda/device.ts";
import { buildEmulator } from "../emulator/build.ts";

const SEQUENCES = 64;
const STEPS = 400;

/** Microseconds between the ends of two decode steps, sorted. */
async function stepTimes(): Promise<number[]> {
  const { nullFolder } = await buildEmulator();
  const device = await openCudaDevice({ libraryFolder: nullFolder });
  const shape = { groups: 1, samples: SEQUENCES, promptTokens: 100, completionTokens: 512, sequences: SEQUENCES };
  const { rollout } = openModel(device, rooflineModels[0]!.config, { ...shape, microBatchTokens: 2048 });
  const times: number[] = [];
  let last = 0;
  const settings = { seed: 1, stream: 0, temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, step: 1 };
  await rollout.generate(
    [{ promptIds: new Int32Array(100), samples: SEQUENCES, prompt: 0 }],
    { ...settings, maxCompletionLength: STEPS, isStop: () => false },
    {
      onProgress() {
        const now = performance.now();
        if (last > 0) times.push((now - last) * 1000);
        last = now;
      },
    },
  );
  rollout.close();
  device.close();
  return times.slice(50).sort((a, b) => a - b);
}

test("the host's share of a decode step of 64 sequences is under 100 µs", async () => {
  // The fastest of a few runs: other load only ever adds time.
  const medians: number[] = [];
  for (let run = 0; run < 3; run++) {
    const times = await stepTimes();
    expect(times.length).toBeGreaterThan(STEPS / 2);
    medians.push(times[Math.floor(times.length / 2)]!);
  }
  expect(Math.min(...medians)).toBeLessThan(100);
});
