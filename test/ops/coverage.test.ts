/** Completeness of the suite: every op has a case that calls it, every kernel is reached, every omission has a reason. */
import { describe, expect, test } from "bun:test";
import { caseName, type OpCase, type OpName, opCase, type SuiteRun } from "../../bench/ops/case.ts";
import { tables } from "../../bench/ops/cases/all.ts";
import { kernelSignatures } from "../../ffi/bindings/cpu.ts";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import { execute, takes } from "./harness.ts";
import { cpuPath, defaultDevice, someCpuPaths } from "./paths.ts";

const cases = Object.values(tables).flat();
const parameterWays: readonly OpName[] = ["loadParameter", "saveParameter"];
const names = [...Object.keys(defaultDevice.ops), ...parameterWays];

/** The op's smallest case, judged by the length of its name: it runs here once more. */
function shortest(op: string, among: readonly OpCase[] = cases): OpCase | undefined {
  return among
    .filter((c) => c.op === op && takes(defaultDevice, c))
    .sort((a, b) => caseName(a).length - caseName(b).length)[0];
}

/** Ops without a case, and those whose smallest case calls another op. */
function uncovered(among: readonly OpCase[]): string[] {
  return names.filter((op) => {
    const one = shortest(op, among);
    return one === undefined || !execute(one, someCpuPaths).has(op);
  });
}

describe("every op of the device has a case, and the case calls it", () => {
  test("in the tables as they are", () => expect(uncovered(cases)).toEqual([]));

  test("an op without a case is noticed, and one whose case calls another op", () => {
    const without = cases.filter(({ op }) => op !== "ropeForward");
    expect(uncovered(without)).toEqual(["ropeForward"]);
    const other = opCase("add", {}, (run: SuiteRun) => {
      const y = run.output("y", "float32", [3]);
      run.run(({ ops }) => ops.fill(y, 1));
    });
    expect(uncovered([...cases, other])).toEqual(["add"]);
  });
});

test("every case belongs to an existing op", () => {
  for (const c of cases) expect(names).toContain(c.op);
});

test("the reasons why some cases run only on a GPU or only on the CPU are true", () => {
  const [reasons, elsewhere] = [false, true].map(
    (here) => new Set(cases.flatMap(({ only }) => (only && only.on(defaultDevice) !== here ? [only.reason] : []))),
  );
  expect(defaultDevice.gradientDType("bfloat16")).toBe("float32");
  expect(defaultDevice.masterDType).toBe("uint16");
  expect([1, 3, 33].map((rows) => defaultDevice.decodeBucket(rows))).toEqual([1, 3, 33]);
  expect([...reasons!]).toEqual(["a GPU's masters are float32 (masterDType)"]);
  expect([...elsewhere!].sort()).toEqual([
    "decode steps of the CPU have no padding (decodeBucket)",
    "elsewhere gradients of activations are float32 (gradientDType)",
  ]);
});

test("every kernel is reached by an op's case", async () => {
  const traced = await openCpuDevice({ threads: 1, trace: true });
  for (const op of names) execute(shortest(op)!, [cpuPath(traced.path, traced, traced.path)]);
  const unreached = Object.keys(kernelSignatures).filter((name) => {
    return !traced.library.trace.get(name as keyof typeof kernelSignatures)?.calls;
  });
  expect(unreached).toEqual([]);
});

test("no two cases have the same name", () => {
  const seen = new Map<string, number>();
  for (const c of cases) seen.set(caseName(c), (seen.get(caseName(c)) ?? 0) + 1);
  expect([...seen].filter(([, count]) => count > 1)).toEqual([]);
});
