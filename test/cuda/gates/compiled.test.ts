/** The gates' own parsers: of the assembler's log, PTX signatures and the table; each wrong signature is noticed. */
import { describe, expect, test } from "bun:test";
import type { KernelDefinition } from "../../../src/device/cuda/runtime.ts";
import { readResources, readSignatures, signatureFault } from "./compiled.ts";
import { olderFaults } from "./older.ts";
import { differences } from "./resources.ts";

const log = `ptxas info    : 24 bytes gmem, 40 bytes cmem[4]
ptxas info    : Compiling entry function 'sum' for 'sm_80'
ptxas info    : Function properties for sum
ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 28 registers, used 1 barriers, 64 bytes smem, 372 bytes cmem[0]
ptxas info    : Compiling entry function 'add' for 'sm_80'
ptxas info    : Function properties for add
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers, used 0 barriers, 392 bytes cmem[0]`;

const ptx = `.version 9.5
.visible .entry scale(
	.param .u64 .ptr .align 1 scale_param_0,
	.param .u32 scale_param_1,
	.param .u64 scale_param_2,
	.param .f32 scale_param_3
)
.maxntid 256
{
	ret;
}
.visible .entry bare()
{
	ret;
}
.visible .entry wide(
	.param .align 16 .b8 wide_param_0[24]
)
.maxntid 32, 4, 2
.minnctapersm 2
{
	ret;
}`;

test("the assembler's log gives registers, shared memory, stack and spills by kernel", () => {
  expect(Object.fromEntries(readResources(log))).toEqual({
    sum: { registers: 28, shared: 64, stack: 16, spillStores: 8, spillLoads: 12 },
    add: { registers: 20, shared: 0, stack: 0, spillStores: 0, spillLoads: 0 },
  });
});

test("PTX gives parameters at natural alignment and the launch bound", () => {
  const found = readSignatures(ptx);
  expect([...found.keys()]).toEqual(["scale", "bare", "wide"]);
  expect(found.get("scale")!.parameters.map(({ offset, size }) => [offset, size])).toEqual([
    [0, 8],
    [8, 4],
    [16, 8],
    [24, 4],
  ]);
  expect(found.get("scale")!.threads).toBe(256);
  expect(found.get("bare")).toEqual({ parameters: [], threads: 0 });
  expect(found.get("wide")).toEqual({ parameters: [{ offset: 0, size: 24, float: false }], threads: 256 });
});

describe("a launch signature that differs from the kernel's", () => {
  const sound: KernelDefinition = {
    file: "scale.cu",
    name: "scale",
    parameters: "x:ptr n:i32 rows:i64 factor:f32",
    threads: 256,
    sizes: () => ({}),
    variants: [{}],
  };
  const signature = readSignatures(ptx).get("scale");
  test("a correct one passes", () => expect(signatureFault(sound, signature)).toBeUndefined());
  const wrong: readonly (readonly [string, Partial<KernelDefinition>, string])[] = [
    [
      "narrower",
      { parameters: "x:ptr n:i32 rows:i32 factor:f32" },
      "rows:i32 is 4 bytes at 12; CUDA has 8 bytes at 16",
    ],
    ["wider", { parameters: "x:ptr n:i64 rows:i64 factor:f32" }, "n:i64 is 8 bytes at 8"],
    ["a float for an integer", { parameters: "x:ptr n:f32 rows:i64 factor:f32" }, "n:f32"],
    ["an integer for a float", { parameters: "x:ptr n:i32 rows:i64 factor:i32" }, "factor:i32"],
    ["one too few", { parameters: "x:ptr n:i32 rows:i64" }, "3 parameters in TypeScript, 4 in CUDA"],
    ["an unknown type", { parameters: "x:ptr n:i32 rows:i64 factor:f16" }, "unknown type f16"],
    ["another block size", { threads: 128 }, "up to 128 threads; the source's bound is 256"],
  ];
  for (const [name, change, part] of wrong) {
    test(name, () => expect(signatureFault({ ...sound, ...change }, signature)).toContain(part));
  }
  test("no such kernel", () => expect(signatureFault(sound, undefined)).toContain("no kernel of this name"));
});

test("the table: a new row, a lost one, a changed number", () => {
  const row = { registers: 20, shared: 0, stack: 0, spillStores: 0, spillLoads: 0 };
  const key = "a.cu\tf\t-\tsm_80";
  expect(differences(new Map([[key, row]]), new Map([[key, row]]))).toEqual([]);
  expect(differences(new Map(), new Map([[key, row]]))).toEqual(["a.cu f - sm_80: not in resources.tsv"]);
  expect(differences(new Map([[key, row]]), new Map())).toEqual([
    "a.cu f - sm_80: in resources.tsv, but no longer compiled",
  ]);
  expect(differences(new Map([[key, row]]), new Map([[key, { ...row, registers: 24 }]]))).toEqual([
    "a.cu f - sm_80: registers 20 in resources.tsv, 24 now",
  ]);
});

test("an older compiler: more registers or shared memory than allowed, unlisted spills, listed ones that no longer occur", () => {
  const row = { registers: 40, shared: 64, stack: 0, spillStores: 0, spillLoads: 0 };
  const key = "a.cu\tf\t-\tsm_80";
  const newest = new Map([[key, row]]);
  const listed = [{ version: "12.0", architecture: 80, kernel: "f", bytes: 8, reason: "known" }];
  const faults = (change: Partial<typeof row>, version = "12.0", known: typeof listed = []) =>
    olderFaults(version, new Map([[key, { ...row, ...change }]]), newest, known);
  expect(faults({ registers: 66 })).toEqual([]);
  expect(faults({ registers: 67 })).toEqual([
    expect.stringContaining("67 registers, more than 26 above the newest's 40"),
  ]);
  expect(faults({ shared: 128 })).toEqual([expect.stringContaining("128 bytes of shared memory for 64")]);
  const spilling = { stack: 8, spillStores: 4, spillLoads: 4 };
  expect(faults(spilling)).toEqual([expect.stringContaining("8 bytes of stack, spills 4, loads 4")]);
  expect(faults(spilling, "12.0", listed)).toEqual([]);
  expect(faults({ ...spilling, stack: 16 }, "12.0", listed)).toEqual([expect.stringContaining("16 bytes of stack")]);
  expect(faults(spilling, "12.8", listed)).toEqual([expect.stringContaining("NVRTC 12.8: a.cu f - sm_80: 8 bytes")]);
  expect(faults({}, "12.0", listed)).toEqual([
    expect.stringContaining("f sm_80 is listed in older.ts and spills nothing"),
  ]);
  expect(olderFaults("12.0", newest, new Map(), [])).toEqual([expect.stringContaining("not in resources.tsv")]);
});
