/**
 * A minimal session with the emulated driver for tests of the emulator itself: buffers, launches and streams through the
 * product's own bindings, and the emulator's reports. Each session starts with an empty driver.
 */
import { readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { type Driver, type DriverSymbol, openDriver } from "../../../ffi/bindings/cuda.ts";
import { bytesAt } from "../../../ffi/bindings/libc.ts";
import { nativeBlock } from "../../../ffi/bindings/native.ts";
import { type Nvrtc, openNvrtc } from "../../../ffi/bindings/nvrtc.ts";
import { compileOptions, kernelHeaders } from "../../../src/device/cuda/compile.ts";
import { type EmulatorControl, openControl } from "../control.ts";

/** A launch argument: a plain number is a device address. */
export type Argument =
  | number
  | { readonly i32: number }
  | { readonly i64: number }
  | { readonly f32: number }
  | { readonly map: number };

export const i32 = (value: number): Argument => ({ i32: value });
export const i64 = (value: number): Argument => ({ i64: value });
export const f32 = (value: number): Argument => ({ f32: value });

export type Extent = number | readonly [x: number, y: number, z: number];
type Data = ArrayBufferView;

export interface Session {
  readonly driver: Driver;
  readonly control: EmulatorControl;
  call(symbol: DriverSymbol, ...args: number[]): void;
  /** Device memory that holds a copy of `data`, or `bytes` of unwritten memory. */
  buffer(data: Data | number): number;
  free(address: number): void;
  /** Pinned host memory. */
  pinned(bytes: number): { readonly address: number; readonly bytes: ArrayBuffer };
  stream(): number;
  event(): number;
  /** A kernel from planted/kernels, compiled by the emulated NVRTC. */
  kernel(file: string, name: string): number;
  kernelOf(ptx: string, name: string): number;
  launch(kernel: number, grid: Extent, block: Extent, shared: number, args: readonly Argument[], stream?: number): void;
  /** Waits, then copies the memory out. */
  read(address: number, bytes: number): ArrayBuffer;
  synchronize(stream?: number): void;
  /** A bfloat16 matrix of 64 columns in device memory, in tiles of all its rows. */
  tensorMap(address: number, rows: number): Argument;
}

export const kernelFolder = join(import.meta.dir, "kernels");

/**
 * The product's compiler options and headers for a planted kernel: for the architecture that the emulator usually represents,
 * and for sm_90a those whose names say so.
 */
export function plantedCompilation(file: string) {
  const hopper = basename(file).startsWith("hopper-");
  return { options: compileOptions(hopper ? 90 : 80, {}, hopper), headers: hopper ? kernelHeaders() : [] };
}

const PARAMETERS = 32;

/** @param folder of the emulated libraries */
export function openSession(folder: string): Session {
  const control = openControl(folder);
  control.reset();
  control.setComputeCapability(80);
  const driver = openDriver({ folder });
  const { calls, out } = driver;
  const call = (symbol: DriverSymbol, ...args: number[]) => driver.check(symbol, calls[symbol](...args));
  call("cuDeviceGet", out.address, 0);
  call("cuDevicePrimaryCtxRetain", out.address, out.i32());
  call("cuCtxSetCurrent", out.u64());
  const made = (symbol: DriverSymbol, ...args: number[]) => {
    call(symbol, out.address, ...args);
    return out.u64();
  };
  const block = nativeBlock(16 * PARAMETERS);
  const staging = nativeBlock(1 << 20);
  const modules = new Map<string, number>();
  let nvrtc: Nvrtc | undefined;

  const load = (ptx: string) => {
    const known = modules.get(ptx);
    if (known !== undefined) return known;
    const bytes = new TextEncoder().encode(`${ptx}\0`);
    const image = nativeBlock(bytes.length);
    new Uint8Array(image.view.buffer).set(bytes);
    try {
      const status = calls.cuModuleLoadData(out.address, image.address);
      if (status !== 0)
        throw new Error(
          control
            .reports()
            .map(({ text }) => text)
            .join("; ") || `module: status ${status}`,
        );
      modules.set(ptx, out.u64());
      return out.u64();
    } finally {
      image.free();
    }
  };
  const kernelOf = (ptx: string, name: string) => {
    const module = load(ptx);
    call("cuModuleGetFunction", out.address, module, out.setText(8, name));
    return out.u64();
  };

  return {
    driver,
    control,
    call,
    buffer(data) {
      const bytes = typeof data === "number" ? data : data.byteLength;
      const address = made("cuMemAlloc_v2", bytes);
      if (typeof data === "number") return address;
      const source = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      for (let at = 0; at < bytes; at += staging.byteLength) {
        const part = source.subarray(at, at + staging.byteLength);
        new Uint8Array(staging.view.buffer).set(part);
        call("cuMemcpyHtoDAsync_v2", address + at, staging.address, part.length, 0);
        call("cuStreamSynchronize", 0);
      }
      return address;
    },
    free: (address) => call("cuMemFree_v2", address),
    pinned(bytes) {
      const address = made("cuMemHostAlloc", bytes, 0);
      return { address, bytes: bytesAt(address, bytes) };
    },
    stream: () => made("cuStreamCreate", 1),
    event: () => made("cuEventCreate", 2),
    kernel(file, name) {
      nvrtc ??= openNvrtc({ folder });
      const source = readFileSync(join(kernelFolder, file), "utf8");
      const { options, headers } = plantedCompilation(file);
      if (headers.length > 0) control.setComputeCapability(90);
      const { ptx } = nvrtc.compile({ name: basename(file), source, headers, options });
      return kernelOf(ptx, name);
    },
    kernelOf,
    launch(kernel, grid, extent, shared, args, stream = 0) {
      for (const [i, argument] of args.entries()) {
        const at = 8 * PARAMETERS + 8 * i;
        if (typeof argument === "object" && "map" in argument) {
          block.setU64(8 * i, argument.map);
          continue;
        }
        block.setU64(8 * i, block.address + at);
        if (typeof argument === "number") block.setU64(at, argument);
        else if ("f32" in argument) block.view.setFloat32(at, argument.f32, true);
        else if ("i32" in argument) block.view.setInt32(at, argument.i32, true);
        else block.view.setBigInt64(at, BigInt(argument.i64), true);
      }
      const three = (e: Extent) => (typeof e === "number" ? ([e, 1, 1] as const) : e);
      call("cuLaunchKernel", kernel, ...three(grid), ...three(extent), shared, stream, block.address, 0);
    },
    read(address, bytes) {
      const target = nativeBlock(Math.max(bytes, 1));
      try {
        call("cuMemcpyDtoHAsync_v2", target.address, address, bytes, 0);
        call("cuStreamSynchronize", 0);
        return (target.view.buffer as ArrayBuffer).slice(0, bytes);
      } finally {
        target.free();
      }
    },
    synchronize: (stream = 0) => call("cuStreamSynchronize", stream),
    tensorMap(address, rows) {
      const memory = nativeBlock(256);
      const [extent, strides, box, steps] = [128, 144, 152, 160];
      memory.setU64(extent, 64);
      memory.setU64(extent + 8, rows);
      memory.setU64(strides, 128);
      for (const [at, values] of [
        [box, [64, rows]],
        [steps, [1, 1]],
      ] as const)
        for (const [i, value] of values.entries()) memory.view.setUint32(at + 4 * i, value, true);
      const places = [extent, strides, box, steps].map((at) => memory.address + at);
      call("cuTensorMapEncodeTiled", memory.address, 9, 2, address, ...places, 0, 3, 0, 0);
      return { map: memory.address };
    },
  };
}
