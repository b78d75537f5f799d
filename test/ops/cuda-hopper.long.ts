/**
 * The cases that take the kernels of sm_90a, on an emulated GPU of that compute capability; everywhere else the emulated GPU is
 * an older one, so that both kernels of an op are tested. Other cases on it would only repeat cuda.test.ts.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { caseName } from "../../bench/ops/case.ts";
import { tables } from "../../bench/ops/cases/all.ts";
import { kernelDefinitions } from "../../src/device/cuda/ops.ts";
import { buildEmulator } from "../emulator/build.ts";
import { onHardware } from "./cuda-paths.ts";
import { cudaWorkers } from "./cuda-workers.ts";
import { chosenCases } from "./harness.ts";

setDefaultTimeout(600_000);

const asked = (process.env.OPS_PATH ?? "cuda") === "cuda" && !onHardware;
const taken = /^attention(Forward|Backward) .*Dh=(64|128) .*x=bf16 /;
const names = asked
  ? chosenCases(tables.attention ?? [])
      .map(caseName)
      .filter((name) => taken.test(name))
  : [];
const workers = cudaWorkers(names, navigator.hardwareConcurrency, 300, { EMULATOR_COMPUTE_CAPABILITY: "90" });
const launched = new Set<string>();

beforeAll(async () => {
  if (asked) await buildEmulator();
});
afterAll(() => workers.close());

for (const name of names)
  test(name, async () => {
    const answer = await workers.answer(name);
    expect(answer.failure).toBeNull();
    for (const kernel of answer.launched) launched.add(kernel);
  });

test.skipIf(!asked || !!process.env.OPS_CASE)("they launch every kernel of sm_90a, and not those it replaces", () => {
  const own = kernelDefinitions.filter(({ only }) => only === 90).map(({ name }) => name);
  expect(own.filter((name) => !launched.has(name))).toEqual([]);
  expect([...launched].filter((name) => name === "attention_forward")).toEqual([]);
});
