// The null libraries: they have every name of the emulated ones, always succeed and give plausible handles. See README.md.
import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { bindLibrary } from "../../ffi/bindings/bind.ts";
import { driverSignatures } from "../../ffi/bindings/cuda.ts";
import { nativeBlock } from "../../ffi/bindings/native.ts";
import { openNvrtc } from "../../ffi/bindings/nvrtc.ts";
import { buildEmulator } from "./build.ts";

setDefaultTimeout(180_000);

const { folder, nullFolder } = await buildEmulator();

/** Strings of the emulated libraries that look like a symbol but name an operation or an object. */
const others = ["cuMemcpyHtoD", "cuMemcpyDtoH", "cuMemcpyDtoD", "cuMemset", "cublasLt"];

/** NVIDIA's names among a library's strings: the exported ones. */
function names(path: string): string[] {
  const text = readFileSync(path, "latin1");
  const found = text.match(/(?<=\0)(cu[A-Z]\w*|cublas[A-Z]\w*|nvrtc[A-Z]\w*)(?=\0)/g) ?? [];
  return [...new Set(found)].sort();
}

test.each(["libcuda.so.1", "libcublas.so.13", "libcublasLt.so.13", "libnvrtc.so.13"])(
  "%s has every name",
  (library) => {
    const emulated = names(join(folder, library));
    expect(emulated.length).toBeGreaterThan(10);
    const missing = emulated.filter((name) => !names(join(nullFolder, library)).includes(name));
    expect(missing.filter((name) => !others.includes(name))).toEqual([]);
  },
);

test("calls succeed; device memory is an address, pinned memory can be used", () => {
  const cu = bindLibrary(join(nullFolder, "libcuda.so.1"), driverSignatures, [], null);
  const out = nativeBlock(64);
  expect([cu.cuInit(0), cu.cuDeviceGetCount(out.address), out.i32()]).toEqual([0, 0, 1]);
  expect(cu.cuMemAlloc_v2(out.address, 2 ** 36)).toBe(0);
  expect(out.u64()).toBeGreaterThan(4096);
  expect(cu.cuMemFree_v2(out.u64())).toBe(0);
  expect(cu.cuMemHostAlloc(out.address, 4096, 0)).toBe(0);
  expect(cu.cuMemFreeHost(out.u64())).toBe(0);
  expect(cu.cuStreamCreate(out.address, 0)).toBe(0);
  expect(out.u64()).not.toBe(0);
});

test("NVRTC gives a few bytes for any source", () => {
  const { cubin, log } = openNvrtc({ folder: nullFolder }).compile({
    name: "a.cu",
    source: "",
    headers: [],
    options: [],
  });
  expect([cubin.length > 0, log]).toEqual([true, ""]);
});
