/**
 * What `grpo doctor` finds out about the machine it runs on: the system's own figures, the kernels, and two measurements.
 * What it means for training is said in doctor.ts.
 */
import { accessSync, constants, existsSync, statfsSync } from "node:fs";
import { availableParallelism, cpus, release, totalmem } from "node:os";
import { type BuildResult, buildKernels } from "../../ffi/bindings/cpu.ts";
import { assetPath } from "../assets.ts";
import { cacheFolder } from "../cache.ts";
import { type CpuDevice, openCpuDevice } from "../device/cpu/device.ts";
import { bfloat16Paths, provenPaths } from "../device/cpu/path.ts";
import { type CudaSurvey, surveyCuda } from "../device/cuda/survey.ts";
import type { DeviceMemory, Weight } from "../device/device.ts";
import { errorText, InputError, RunError } from "../errors.ts";
import { availableBytes } from "../session/memory.ts";
import { bfloat16ToNumber, bytesPerElement, type ComputeDType, numberToBfloat16 } from "../tensor/dtype.ts";
import { elementCount, tensor } from "../tensor/tensor.ts";

/** What was found out; plain data, so that what is said about it can be tested on machines that are not at hand. */
export interface Machine {
  readonly bun: string;
  readonly platform: string;
  readonly arch: string;
  readonly release: string;
  readonly processor: string;
  readonly cores: {
    readonly installed: number;
    /** By the affinity mask. */
    readonly allowed: number;
    /** By the control group's quota too: the threads that kernels run on. */
    readonly usable: number;
  };
  readonly memory: { readonly total: number; readonly available: number };
  readonly cacheFolder: string;
  /** Why there are none, in a line with the cure. */
  readonly kernels: BuildResult | { readonly failure: string };
  /** Slowest first; empty without kernels. */
  readonly paths: readonly InstructionPath[];
  /** $BUN_GRPO_CPU_PATH */
  readonly forcedPath: string | null;
  /** Null without kernels, or if the requested path is missing. */
  readonly compute: Compute | { readonly failure: string } | null;
  readonly cuda: CudaSurvey;
  readonly folder: { readonly path: string; readonly free: number; readonly writable: boolean };
  readonly bundled: { readonly model: boolean; readonly problems: boolean };
}

interface InstructionPath {
  readonly name: string;
  /** By this processor. */
  readonly supported: boolean;
  /** It has run on real hardware and passed the op suite there. */
  readonly proven: boolean;
}

export interface Compute {
  readonly path: string;
  readonly threads: number;
  readonly peakGflops: number;
  /** Of products with bfloat16 weights, where the path has instructions of its own for them. */
  readonly bfloat16Gflops: number | null;
  readonly readGigabytes: number;
  readonly selfCheck: SelfCheck;
}

export interface SelfCheck {
  readonly samples: number;
  /** Largest difference from the portable path, and from float64, by the sum of the terms' magnitudes. */
  readonly fromPortable: number;
  readonly fromExact: number;
  readonly tolerance: number;
  readonly passed: boolean;
}

/** Looks at the machine this runs on; builds the kernels where they are not in the cache. */
export async function examine(note: (text: string) => void): Promise<Machine> {
  const kernels = await attempt(() => buildKernels(() => note("compiling the CPU kernels for this machine")));
  return {
    bun: Bun.version,
    platform: process.platform,
    arch: process.arch,
    release: release(),
    processor: cpus()[0]?.model.trim() || "unknown",
    memory: { total: totalmem(), available: availableBytes() },
    cacheFolder: cacheFolder(),
    kernels,
    forcedPath: process.env.BUN_GRPO_CPU_PATH || null,
    ...("failure" in kernels ? withoutKernels : await withKernels(kernels.library)),
    cuda: surveyCuda(),
    folder: folderOf(process.cwd()),
    bundled: {
      model: existsSync(assetPath("data/model/config.json")),
      problems: existsSync(assetPath("data/problems/train.arrow")),
    },
  };
}

type KernelFacts = Pick<Machine, "cores" | "paths" | "compute"> & Partial<Pick<Machine, "kernels">>;

const withoutKernels: KernelFacts = {
  cores: { installed: cpus().length, allowed: availableParallelism(), usable: availableParallelism() },
  paths: [],
  compute: null,
};

async function withKernels(libraryFile: string): Promise<KernelFacts> {
  const opened = await attempt(() => openCpuDevice({ libraryFile }));
  // If the requested path is missing, the others can still be listed.
  const device = "failure" in opened ? await attempt(() => openCpuDevice({ libraryFile, path: "portable" })) : opened;
  if ("failure" in device) return { ...withoutKernels, kernels: device };
  const { library, threads } = device;
  return {
    cores: { installed: cpus().length, allowed: library.availableThreads(), usable: threads },
    paths: library.paths.map(({ name, supported }) => ({ name, supported, proven: provenPaths.includes(name) })),
    compute: "failure" in opened ? opened : compute(device),
  };
}

/** What `work` gives, or the one line of why it failed; a bug of ours is thrown on. */
async function attempt<T extends object>(work: () => Promise<T>): Promise<T | { failure: string }> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof RunError || error instanceof InputError) return { failure: errorText(error) };
    throw error;
  }
}

function folderOf(path: string): Machine["folder"] {
  const { bavail, bsize } = statfsSync(path);
  let writable = true;
  try {
    accessSync(path, constants.W_OK);
  } catch {
    writable = false;
  }
  return { path, free: bavail * bsize, writable };
}

/** Peaks are the best of several short measurements: what else runs on the machine only ever lowers them. */
function compute(device: CpuDevice): Compute {
  const { library, path, threads } = device;
  const bytes = (availableBytes() > 2 ** 30 ? 256 : 32) * 2 ** 20;
  const memory = device.allocate(bytes, "doctor: read loop");
  // Pages that were never written are all one page of zeros, which stays in the cache.
  device.ops.fill(tensor("read loop", memory.address, "float32", [bytes / 4]), 1);
  const best = (measure: () => number) => Math.max(...Array.from({ length: 5 }, measure));
  const readGigabytes = best(() => library.readBandwidth(memory.address, bytes));
  memory.free();
  const peakGflops = best(() => library.peakGflops(40));
  const bfloat16Gflops = bfloat16Paths.includes(path) ? best(() => library.peakGflops(40, "bfloat16")) : null;
  return { path, threads, peakGflops, bfloat16Gflops, readGigabytes, selfCheck: checkProduct(device) };
}

/** float32's rounding of a sum of 100 products, by the sum of their magnitudes; far above it, far below a wrong result. */
const TOLERANCE = 2 ** -18;
const SAMPLES = 32;

/**
 * One product y (13, 33) = x (13, 100) · wᵀ in both number formats, whose sizes leave a rest in every block of the
 * kernel: some elements as the chosen path, the portable path and float64 compute them.
 */
export function checkProduct(device: CpuDevice): SelfCheck {
  const [M, N, K] = [13, 33, 100];
  const places = Array.from({ length: SAMPLES }, (_, i) => Math.round((i * (M * N - 1)) / (SAMPLES - 1)));
  let [fromPortable, fromExact] = [0, 0];
  for (const dtype of ["float32", "bfloat16"] as const) {
    const stored = (i: number) =>
      dtype === "float32" ? Math.fround(Math.sin(i)) : bfloat16ToNumber(numberToBfloat16(Math.sin(i)));
    const x = Float32Array.from({ length: M * K }, (_, i) => stored(i));
    const w = Float32Array.from({ length: N * K }, (_, i) => stored(7000 + i));
    const chosen = product(device, device.path, dtype, x, w, [M, N, K]);
    const portable = product(device, "portable", dtype, x, w, [M, N, K]);
    for (const i of places) {
      const [m, n] = [Math.floor(i / N), i % N];
      let [sum, magnitude] = [0, 0];
      for (let k = 0; k < K; k++) {
        const term = x[m * K + k]! * w[n * K + k]!;
        sum += term;
        magnitude += Math.abs(term);
      }
      fromPortable = worse(fromPortable, Math.abs(chosen[i]! - portable[i]!) / magnitude);
      fromExact = worse(fromExact, Math.abs(chosen[i]! - sum) / magnitude);
    }
  }
  const passed = fromPortable <= TOLERANCE && fromExact <= TOLERANCE;
  return { samples: 2 * SAMPLES, fromPortable, fromExact, tolerance: TOLERANCE, passed };
}

/** The larger one; not a number where either is none. */
const worse = (a: number, b: number) => (Number.isNaN(a) || Number.isNaN(b) ? Number.NaN : Math.max(a, b));

/** y (M, N) float32 = x · wᵀ on one instruction path; the values fit bfloat16 exactly. */
function product(
  device: CpuDevice,
  path: string,
  dtype: ComputeDType,
  x: Float32Array,
  w: Float32Array,
  [M, N, K]: readonly [number, number, number],
): Float32Array {
  const memories: DeviceMemory[] = [];
  const place = (name: string, type: ComputeDType, shape: readonly number[]) => {
    const memory = device.allocate(elementCount(shape) * bytesPerElement(type), `doctor: ${name}`);
    memories.push(memory);
    return tensor(name, memory.address, type, shape);
  };
  try {
    device.library.selectPath(path);
    const elements = device.parameterElements([N, K], dtype);
    const { address } = place("w", dtype, [elements]);
    const weight: Weight = { name: "w", address, dtype, shape: [N, K], elements };
    const rows = place("w rows", "float32", [N, K]);
    device.upload(rows, w);
    device.loadParameter(weight, rows.address, "float32", 0, N);
    const wide = place("x float32", "float32", [M, K]);
    device.upload(wide, x);
    const input = place("x", dtype, [M, K]);
    device.ops.cast(input, wide);
    const y = place("y", "float32", [M, N]);
    device.ops.matmulForward(y, input, weight, null);
    return device.download(y) as Float32Array;
  } finally {
    device.library.selectPath(device.path);
    for (const memory of memories) memory.free();
  }
}
