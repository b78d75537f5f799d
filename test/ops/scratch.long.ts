/** The memory that kernels use beyond the planned buffers stays below the device's own figure (promise 5). */
import { expect, test } from "bun:test";
import { join } from "node:path";
import type { ScratchSizes } from "../../src/device/device.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { emulatedLibrary } from "./emulated.ts";

type Case = readonly [
  what: string,
  sizes: Omit<ScratchSizes, "attention" | "headRows" | "sequences" | "dtype">,
  H: number,
  Hkv: number,
  Dh: number,
];

const cases: readonly Case[] = [
  ["a tiny model", { vocabSize: 33, hiddenSize: 16, intermediateSize: 24, longest: 20, tokens: 10 }, 1, 1, 16],
  ["a small one", { vocabSize: 4099, hiddenSize: 128, intermediateSize: 512, longest: 700, tokens: 1500 }, 8, 2, 24],
  [
    "a large vocabulary",
    { vocabSize: 60000, hiddenSize: 64, intermediateSize: 64, longest: 90, tokens: 300 },
    2,
    1,
    16,
  ],
  ["many tokens", { vocabSize: 259, hiddenSize: 32, intermediateSize: 500, longest: 90, tokens: 31000 }, 2, 1, 16],
  ["long sequences", { vocabSize: 259, hiddenSize: 64, intermediateSize: 64, longest: 900, tokens: 500 }, 16, 1, 128],
];

function measure(
  [, sizes, heads, kvHeads, headDim]: Case,
  dtype: ComputeDType,
  ...device: string[]
): { held: number; planned: number } {
  const all = { ...sizes, dtype, headRows: 256, sequences: 32, attention: { heads, kvHeads, headDim, scale: 1 } };
  const command = [process.execPath, join(import.meta.dir, "measure-scratch.ts"), JSON.stringify(all), ...device];
  const result = Bun.spawnSync(command, { stdout: "pipe", stderr: "pipe" });
  expect(result.stderr.toString()).toBe("");
  return JSON.parse(result.stdout.toString());
}

for (const one of cases) {
  test.each(["float32", "bfloat16"] as const)(`scratch memory of %s: ${one[0]}`, (dtype) => {
    const { held, planned } = measure(one, dtype);
    expect(held).toBeGreaterThan(0);
    expect(held).toBeLessThanOrEqual(planned);
  });
}

// This path's extra memory does not depend on the instruction, so the slow emulation runs two sizes of one path.
for (const one of cases.slice(1, 3)) {
  test(`scratch memory of a path that multiplies in bfloat16: ${one[0]}`, async () => {
    const library = await emulatedLibrary();
    const { held, planned } = measure(one, "bfloat16", "avx512bf16", library);
    expect(held).toBeGreaterThan(measure(one, "bfloat16", "portable", library).held); // the path that it extends
    expect(held).toBeLessThanOrEqual(planned);
  });
}
