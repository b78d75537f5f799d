/** Nothing escapes the suite: every op has a case that calls it, every kernel is reached, every table is run. */
import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { kernelSignatures } from "../../ffi/bindings/cpu.ts";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import { tables } from "./cases/all.ts";
import { caseName, execute, type OpCase, type OpName } from "./harness.ts";
import { cpuPath, defaultDevice, someCpuPaths } from "./paths.ts";

const cases = Object.values(tables).flat();
const parameterWays: readonly OpName[] = ["loadParameter", "saveParameter"];
const names = [...Object.keys(defaultDevice.ops), ...parameterWays];

/** The op's smallest case, by the length of its name: it is run here once more. */
function shortest(op: string): OpCase | undefined {
  return cases.filter((c) => c.op === op).sort((a, b) => caseName(a).length - caseName(b).length)[0];
}

test("every op of the device has a case, and the case calls it", () => {
  expect(names.filter((op) => !cases.some((c) => c.op === op))).toEqual([]);
  for (const op of names) expect([...execute(shortest(op)!, someCpuPaths)]).toContain(op);
});

test("every case is of an op that there is", () => {
  for (const c of cases) expect(names).toContain(c.op);
});

test("an op without a case is noticed", () => {
  const found = ["matmulForward", "newOp"].filter((op) => !cases.some((c) => c.op === op));
  expect(found).toEqual(["newOp"]);
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

test("every file of cases is a table that a test file of its name runs", () => {
  const files = readdirSync(join(import.meta.dir, "cases")).map((file) => file.replace(/\.ts$/, ""));
  expect(files.filter((file) => file !== "all").sort()).toEqual(Object.keys(tables).sort());
  for (const name of Object.keys(tables)) {
    const file = join(import.meta.dir, `${name}.test.ts`);
    expect(existsSync(file)).toBe(true);
    expect(readFileSync(file, "utf8")).toContain("testCases(");
  }
});
