/**
 * Every table of cases on the CUDA device (cuda-paths.ts). One file, so that the device is opened and its kernels are
 * loaded once; `OPS_CASE=rmsnorm OPS_PATH=cuda bun test test/ops/cuda.test.ts` runs a part.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { tables } from "./cases/all.ts";
import { openCudaUnderTest } from "./cuda-paths.ts";
import { testCases } from "./harness.ts";

// The emulator may have to be compiled first, and kernels as they are needed.
setDefaultTimeout(180_000);

const cuda = await openCudaUnderTest();
afterAll(() => cuda?.close());

if (cuda) {
  for (const [name, cases] of Object.entries(tables))
    describe(name, () => testCases(cases, cuda.paths, () => cuda.reopen()));

  if (!process.env.OPS_CASE)
    test("every kernel is launched by a case", () => {
      expect(cuda.unreached().map(({ file, name }) => `${file}: ${name}`)).toEqual([]);
    });
}
