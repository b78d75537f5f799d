/**
 * Compiles kernels to machine code for one architecture: NVRTC's options, the headers, and the cache of compiled
 * modules. The kernels' static checks compile with the same options.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Compiled, Nvrtc } from "../../../ffi/bindings/nvrtc.ts";
import { assetPath } from "../../assets.ts";
import { cacheFolder, writeInCache } from "../../cache.ts";
import { InputError } from "../../errors.ts";
import type { Defines } from "./runtime.ts";

/**
 * Options for every kernel: machine code for the GPU itself, never PTX for the driver to compile. `own`: with the
 * instructions that this compute capability has to itself (sm_90a).
 */
export function compileOptions(computeCapability: number, defines: Defines, own = false): string[] {
  return [
    "-std=c++17",
    "-lineinfo",
    "-default-device",
    `-arch=sm_${computeCapability}${own ? "a" : ""}`,
    ...Object.entries(defines)
      .map(([name, value]) => `-D${name}=${value}`)
      .sort(),
  ];
}

export interface KernelSource {
  readonly name: string;
  readonly source: string;
}

export function kernelSource(name: string): KernelSource {
  return { name, source: readFileSync(assetPath(join("ffi/cuda", name)), "utf8") };
}

/** Every header of ffi/cuda, so that NVRTC reads nothing from disk. */
export function kernelHeaders(): KernelSource[] {
  return readdirSync(assetPath("ffi/cuda"))
    .filter((name) => name.endsWith(".cuh"))
    .sort()
    .map(kernelSource);
}

/** @throws NvidiaCallError with the compiler's log */
export function compileKernel(
  nvrtc: Nvrtc,
  name: string,
  headers: readonly KernelSource[],
  options: readonly string[],
): Compiled {
  return nvrtc.compile({ ...kernelSource(name), headers, options });
}

/**
 * The architecture to compile for: machine code also runs on later GPUs of the same generation.
 *
 * @throws InputError if the compiler supports none of the GPU's generation
 */
export function architectureFor({ architectures, version }: Nvrtc, computeCapability: number): number {
  const generation = Math.floor(computeCapability / 10);
  const fitting = architectures.filter((a) => Math.floor(a / 10) === generation && a <= computeCapability);
  if (fitting.length > 0) return Math.max(...fitting);
  throw new InputError(
    `NVRTC ${version} does not compile for this GPU (sm_${computeCapability}); install a newer one, but not newer than the driver`,
  );
}

export interface KernelCompiler {
  /** The module of a source specialized by `defines`, from the cache or compiled into it; `own`: see compileOptions. */
  module(name: string, defines: Defines, own: boolean): Uint8Array<ArrayBuffer>;
}

/** Compiles for one GPU. `onBuild` is called before the first compilation. */
export function kernelCompiler(nvrtc: Nvrtc, computeCapability: number, onBuild?: () => void): KernelCompiler {
  const architecture = architectureFor(nvrtc, computeCapability);
  const headers = kernelHeaders();
  // Another compiler may produce other machine code; an update in place changes its size or time.
  const { size, mtimeMs } = existsSync(nvrtc.path) ? statSync(nvrtc.path) : { size: 0, mtimeMs: 0 };
  const compiler = [nvrtc.path, nvrtc.version, size, mtimeMs];
  let told = false;
  return {
    module(name, defines, own) {
      const options = compileOptions(architecture, defines, own);
      const key = new Bun.CryptoHasher("sha256")
        .update(JSON.stringify([compiler, options, kernelSource(name), headers]))
        .digest("hex");
      const file = join(cacheFolder(), `cuda-${key.slice(0, 24)}.cubin`);
      if (existsSync(file)) return new Uint8Array(readFileSync(file));
      if (!told) onBuild?.();
      told = true;
      const { cubin } = compileKernel(nvrtc, name, headers, options);
      writeInCache(file, cubin);
      return cubin;
    },
  };
}
