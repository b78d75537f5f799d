// The emulated driver rejects what the real one rejects: arguments, limits, handles, contexts; faults end the context. See
// README.md.
import { beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { nativeBlock } from "../../ffi/bindings/native.ts";
import { buildEmulator } from "./build.ts";
import { CUDA, openCalls, testPtx } from "./calls.ts";

setDefaultTimeout(180_000); // the emulator may have to be compiled first

const { folder } = await buildEmulator();
const calls = openCalls(folder);
const { control, cu, out, made } = calls;

beforeEach(() => calls.restart());

describe("device and context", () => {
  test("one device with the limits of its compute capability", () => {
    const attribute = (which: number) => {
      made(cu.cuDeviceGetAttribute(out.address, which, 0));
      return out.i32();
    };
    expect([attribute(75), attribute(76), attribute(97)]).toEqual([8, 0, 166912]);
    control.setComputeCapability(90);
    expect([attribute(75), attribute(76), attribute(97)]).toEqual([9, 0, 232448]);
    control.setComputeCapability(80);
    expect(cu.cuDeviceGet(out.address, 1)).toBe(101);
    expect(cu.cuDeviceGetAttribute(out.address, 5000, 0)).toBe(CUDA.INVALID_VALUE);
  });

  test("calls without a current context are refused", () => {
    cu.cuCtxSetCurrent(0);
    expect(cu.cuMemAlloc_v2(out.address, 64)).toBe(CUDA.INVALID_CONTEXT);
    expect(calls.text(CUDA.INVALID_CONTEXT)).toBe("invalid device context");
    expect(cu.cuCtxSetCurrent(12345)).toBe(CUDA.INVALID_CONTEXT);
  });

  test("objects alive at the last release are leaks", () => {
    calls.alloc(64);
    calls.stream();
    expect(control.live()).toMatchObject({ allocations: 1, streams: 1, contexts: 1 });
    cu.cuDevicePrimaryCtxRelease_v2(0);
    expect(control.reports().map(({ kind }) => kind)).toEqual(["leak"]);
    expect(control.live()).toMatchObject({ allocations: 0, streams: 0, contexts: 0 });
  });
});

describe("memory", () => {
  test("fresh memory is NaN in every float type, addresses are multiples of 256", () => {
    for (const bytes of [1, 255, 4096, 5000, 20_000_000]) {
      const address = calls.alloc(bytes);
      expect(address % 256).toBe(0);
      const copy = nativeBlock(4096);
      cu.cuMemcpyDtoH_v2(copy.address, address, Math.min(bytes, 4096));
      expect(copy.view.getUint8(Math.min(bytes, 4096) - 1)).toBe(255);
      expect(cu.cuMemFree_v2(address)).toBe(0);
    }
    expect(control.live()).toMatchObject({ allocations: 0, bytes: 0 });
  });

  test("sizes and addresses that match no allocation", () => {
    const address = calls.alloc(1000);
    expect(cu.cuMemAlloc_v2(out.address, 0)).toBe(CUDA.INVALID_VALUE);
    expect(cu.cuMemFree_v2(address + 256)).toBe(CUDA.INVALID_VALUE);
    const host = nativeBlock(2000);
    expect(cu.cuMemcpyHtoD_v2(address, host.address, 1001)).toBe(CUDA.INVALID_VALUE);
    expect(cu.cuMemcpyHtoD_v2(address + 1000, host.address, 1)).toBe(CUDA.INVALID_VALUE);
    expect(cu.cuMemcpyHtoD_v2(host.address, address, 1)).toBe(CUDA.INVALID_VALUE);
    expect(cu.cuMemcpyHtoD_v2(address, host.address, 0)).toBe(0);
    expect(cu.cuMemcpyDtoHAsync_v2(host.address, address + 500, 501, 0)).toBe(CUDA.INVALID_VALUE);
    expect(cu.cuMemsetD32Async(address + 2, 0, 1, 0)).toBe(CUDA.INVALID_VALUE);
    expect(cu.cuMemsetD32Async(address, 0, 251, 0)).toBe(CUDA.INVALID_VALUE);
    expect(cu.cuMemFree_v2(address)).toBe(0);
    expect(cu.cuMemFree_v2(address)).toBe(CUDA.INVALID_VALUE);
  });

  test("the limit is the device's memory", () => {
    control.setMemory(1 << 20);
    const first = calls.alloc(600_000);
    expect(cu.cuMemAlloc_v2(out.address, 600_000)).toBe(CUDA.OUT_OF_MEMORY);
    cu.cuMemGetInfo_v2(out.address, out.address + 8);
    expect([out.u64(0) < 450_000, out.u64(8)]).toEqual([true, 1 << 20]);
    cu.cuMemFree_v2(first);
    calls.alloc(600_000);
  });

  test("pinned memory is known by its start only, registered memory not twice", () => {
    const { address } = calls.pinned(5000);
    expect(cu.cuMemFreeHost(address + 8)).toBe(CUDA.INVALID_VALUE);
    const own = nativeBlock(4096);
    expect(cu.cuMemHostRegister_v2(own.address, 4096, 0)).toBe(0);
    expect(cu.cuMemHostRegister_v2(own.address + 100, 50, 0)).toBe(712);
    expect(cu.cuMemFreeHost(own.address)).toBe(CUDA.INVALID_VALUE);
    expect(cu.cuMemHostUnregister(own.address)).toBe(0);
    expect(cu.cuMemHostUnregister(own.address)).toBe(713);
  });
});

describe("modules and launches", () => {
  test("images that are not a module for this device", () => {
    expect(() => calls.module("nothing of the sort")).toThrow(`${CUDA.INVALID_IMAGE}`);
    expect(() => calls.module(testPtx.replace("sm_80", "sm_90"))).toThrow(`${CUDA.NO_BINARY_FOR_GPU}`);
    const module = calls.module();
    expect(cu.cuModuleGetFunction(out.address, module, out.setText(64, "absent"))).toBe(CUDA.NOT_FOUND);
    expect(cu.cuModuleUnload(module)).toBe(0);
    expect(cu.cuModuleUnload(module)).toBe(CUDA.INVALID_HANDLE);
  });

  test("an unknown opcode is named", () => {
    expect(() => calls.module(testPtx.replace("add.s32 %x", "frobnicate.s32 %x"))).toThrow("218");
    expect(control.reports()[0]?.text).toContain("frobnicate");
  });

  test("parameters are reported with their natural alignment", () => {
    const kernel = calls.kernel("add");
    expect(cu.cuFuncGetParamInfo(kernel, 1, out.address, out.address + 8)).toBe(0);
    expect([out.u64(0), out.u64(8)]).toEqual([8, 4]);
    expect(cu.cuFuncGetParamInfo(kernel, 2, out.address, out.address + 8)).toBe(CUDA.INVALID_VALUE);
  });

  test.each([
    ["an empty grid", [0, 1, 1], [1, 1, 1]],
    ["65,536 blocks in y", [1, 65536, 1], [1, 1, 1]],
    ["65,536 blocks in z", [1, 1, 65536], [1, 1, 1]],
    ["an empty block", [1, 1, 1], [32, 0, 1]],
    ["1,025 threads in x", [1, 1, 1], [1025, 1, 1]],
    ["65 threads in z", [1, 1, 1], [1, 1, 65]],
    ["1,056 threads in all", [1, 1, 1], [32, 33, 1]],
  ])("%s", (_, grid, block) => {
    expect(calls.launchShape(calls.kernel("limited"), grid, block, 0)).toBe(CUDA.INVALID_VALUE);
  });

  test("more threads than the kernel was compiled for", () => {
    expect(calls.launchShape(calls.kernel("limited"), [1], [65], 0)).toBe(CUDA.LAUNCH_OUT_OF_RESOURCES);
    expect(calls.launchShape(calls.kernel("limited"), [1], [64], 0)).toBe(0);
  });

  test("shared memory above 48 KiB is opted in to, within the device's limit", () => {
    const kernel = calls.kernel("limited"); // 64 static bytes of its own
    expect(calls.launchShape(kernel, [1], [1], 49152 - 64)).toBe(0);
    expect(calls.launchShape(kernel, [1], [1], 49152)).toBe(CUDA.INVALID_VALUE);
    expect(cu.cuFuncSetAttribute(kernel, 8, 166912 - 63)).toBe(CUDA.INVALID_VALUE);
    expect(cu.cuFuncSetAttribute(kernel, 8, 166912 - 64)).toBe(0);
    expect(calls.launchShape(kernel, [1], [1], 166912 - 64)).toBe(0);
    cu.cuFuncGetAttribute(out.address, 1, kernel);
    expect(out.i32()).toBe(64);
  });

  test("parameters are copied during the call", () => {
    control.setStreams("lazy");
    const address = calls.alloc(4);
    calls.launch(calls.kernel("put"), address, 5);
    calls.launchShape(calls.kernel("limited"), [1], [1], 0); // overwrites the block of parameters
    cu.cuStreamSynchronize(0);
    expect(calls.peek(address)).toBe(5);
  });
});

describe("faults", () => {
  test("an illegal access is returned by the next call and by all that follow", () => {
    const address = calls.alloc(64);
    expect(calls.launch(calls.kernel("put"), address + 64, 1)).toBe(0);
    expect(cu.cuStreamSynchronize(0)).toBe(CUDA.ILLEGAL_ADDRESS);
    expect(cu.cuMemAlloc_v2(out.address, 64)).toBe(CUDA.ILLEGAL_ADDRESS);
    expect(cu.cuMemFree_v2(address)).toBe(CUDA.ILLEGAL_ADDRESS);
    expect(calls.text(CUDA.ILLEGAL_ADDRESS)).toBe("an illegal memory access was encountered");
    expect(control.reports().map(({ kind, kernel }) => [kind, kernel])).toEqual([["out-of-bounds", "put"]]);
    cu.cuDevicePrimaryCtxReset_v2(0);
    expect(cu.cuMemAlloc_v2(out.address, 64)).toBe(0);
  });

  test("a misaligned access has its own status", () => {
    calls.launch(calls.kernel("put"), calls.alloc(64) + 2, 1);
    expect(cu.cuCtxSynchronize()).toBe(CUDA.MISALIGNED_ADDRESS);
  });

  test("work after a fault does not run", () => {
    control.setStreams("lazy");
    const [bad, good] = [calls.alloc(4), calls.alloc(4)];
    calls.launch(calls.kernel("put"), bad + 4, 1);
    calls.launch(calls.kernel("put"), good, 1);
    expect(cu.cuStreamSynchronize(0)).toBe(CUDA.ILLEGAL_ADDRESS);
    expect(calls.peek(good)).toBe(0xffffffff);
  });
});

test("every call is counted by its symbol", () => {
  control.clearCounters();
  calls.alloc(64);
  calls.launch(calls.kernel("put"), calls.alloc(64), 1);
  expect(control.calls()).toMatchObject({ cuMemAlloc_v2: 2, cuLaunchKernel: 1 });
  expect(control.launches()).toEqual({ put: 1 });
});
