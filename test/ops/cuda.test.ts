/**
 * Every table of cases on the CUDA device (cuda-paths.ts), in one process per core: on the emulator this is the longest part of
 * the suite. `OPS_PATH=cuda OPS_CASE=rmsnorm bun test test/ops/cuda.test.ts` runs a part.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { caseName, type OperandTypes } from "../../bench/ops/case.ts";
import { tables } from "../../bench/ops/cases/all.ts";
import { CONTEXT_LOST } from "../../check/tests.ts";
import { kernelDefinitions } from "../../src/device/cuda/ops.ts";
import { buildEmulator } from "../emulator/build.ts";
import { onHardware } from "./cuda-paths.ts";
import { cudaWorkers } from "./cuda-workers.ts";
import { chosenCases, takes } from "./harness.ts";

// The emulator may have to be compiled first, and kernels are compiled on demand.
setDefaultTimeout(600_000);

/** As every CUDA device. */
const cuda: OperandTypes = { kind: "cuda", gradientDType: (dtype) => dtype };
const asked = (process.env.OPS_PATH ?? "cuda") === "cuda";
const chosen = Object.entries(asked ? tables : {}).map(
  ([name, cases]) => [name, chosenCases(cases).filter((one) => takes(cuda, one))] as const,
);
const names = chosen.flatMap(([, cases]) => cases.map(caseName));
// The host computes the references, so several processes keep one GPU busier than one does.
const cores = navigator.hardwareConcurrency;
const workers = cudaWorkers(names, onHardware ? Math.min(4, cores) : cores, onHardware ? 30 : 300);
const launched = new Set<string>();

beforeAll(async () => {
  if (asked && !onHardware) await buildEmulator(); // once, before several processes look for it
});
afterAll(() => workers.close());

for (const [table, cases] of chosen)
  describe(table, () => {
    for (const one of cases)
      test(caseName(one), async () => {
        const answer = await workers.answer(caseName(one));
        for (const name of answer.launched) launched.add(name);
        if (answer.failure) throw new Error(`${answer.failure}${answer.lost ? ` ${CONTEXT_LOST}` : ""}`);
        expect(answer.called).toContain(one.op);
      });
  });

if (asked && !onHardware && !process.env.OPS_CASE)
  test("every kernel is launched by a case", () => {
    // Those of one compute capability: cuda-hopper.long.ts.
    const unreached = kernelDefinitions.filter(({ name, only }) => only === undefined && !launched.has(name));
    expect(unreached.map(({ file, name }) => `${file}: ${name}`)).toEqual([]);
  });
