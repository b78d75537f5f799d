/** The roofline's numbers match the current kernels, and ops below 70 % of their bound have a reason. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import counts from "../../bench/roofline/counts.json" with { type: "json" };
import type { CountsTable, KernelCounts } from "../../bench/roofline/evaluate.ts";
import { reasons } from "../../bench/roofline/reasons.ts";
import { rooflineTables } from "../../bench/roofline/report.ts";
import type { CudaDevice } from "../../src/device/cuda/device.ts";
import type { Ops } from "../../src/device/device.ts";
import type { EmulatorControl } from "../emulator/control.ts";
import { countedOps, countOp, openCounted } from "./kernel-counts.ts";

const table = counts as unknown as CountsTable;
let device: CudaDevice;
let control: EmulatorControl;

beforeAll(async () => {
  ({ device, control } = await openCounted());
});
afterAll(() => device.close());

/** All counts except those that require NVIDIA's compiler. */
function executed({ from, instructions, integer, floating, special, ...rest }: KernelCounts): unknown {
  return from === "ptx" ? { ...rest, instructions, integer, floating, special } : rest;
}

/** Fast ones of each kind; the slow ones are counted when the file is written. */
const recounted: readonly (keyof Ops)[] = ["rmsnormForward", "gluBackward", "adamw", "attentionDecode", "kvStore"];

for (const op of recounted)
  test(`${op} executes what bench/roofline/counts.json says (else: bun test/cuda/kernel-counts.ts --update)`, async () => {
    const fresh = await countOp(device, control, op);
    expect(executed({ ...fresh, from: table[op]!.from })).toEqual(executed(table[op]!));
  });

test("every op with its own kernels is counted", () => {
  expect(Object.keys(counts).sort()).toEqual([...countedOps].sort());
});

test("every op below 70 % of its bound has a written reason, and no other op has one", async () => {
  const { lines, low } = await rooflineTables(table);
  expect([...low.keys()].sort()).toEqual(Object.keys(reasons).sort());
  for (const machine of ["A100", "H100", "RTX 4090"]) expect(lines.join("\n")).toContain(` on ${machine}: `);
  expect(lines[0]).toStartWith("A model, not a measurement");
});
