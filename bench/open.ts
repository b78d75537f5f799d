/** The device of a run and its meter, from the flags. */
import { buildKernels, openCpuLibrary } from "../ffi/bindings/cpu.ts";
import { type CpuDevice, openCpuDevice } from "../src/device/cpu/device.ts";
import type { CudaDevice } from "../src/device/cuda/device.ts";
import type { Device } from "../src/device/device.ts";
import { openDevice } from "../src/device/open.ts";
import { InputError } from "../src/errors.ts";
import { cudaMeter } from "./cuda-meter.ts";
import type { BenchFlags } from "./flags.ts";
import { cpuMeter, type Meter } from "./measure.ts";

const noted = new Set<string>();

/** A line on stderr, the first time: every suite opens a device of its own. */
export function note(text: string): void {
  if (!noted.has(text)) process.stderr.write(`${text}\n`);
  noted.add(text);
}

/** The device of --device, or the instruction path of --path. @throws InputError for a path that this machine lacks */
export async function openBenchDevice({ device, path, threads }: BenchFlags): Promise<Device> {
  if (path === null) return openDevice({ device, threads, note });
  if (device.startsWith("cuda")) throw new InputError(`--path ${path}: a GPU has no instruction paths; omit --device`);
  const { library } = await buildKernels(() => note("compiling the CPU kernels"));
  requirePath(path, library);
  return openCpuDevice({ libraryFile: library, threads, path });
}

export function meterOf(device: Device): Meter {
  return device.kind === "cuda" ? cudaMeter(device as CudaDevice) : cpuMeter(device as CpuDevice);
}

/** Runs `work` with the device and its meter, then closes both. */
export async function withMeter<R>(flags: BenchFlags, work: (meter: Meter) => Promise<R>): Promise<R> {
  const device = await openBenchDevice(flags);
  const meter = meterOf(device);
  try {
    return await work(meter);
  } finally {
    meter.free();
    device.close();
  }
}

/** @throws InputError for a path that is not compiled in, or that the processor lacks */
function requirePath(name: string, library: string): void {
  const { paths } = openCpuLibrary(library);
  const usable = paths.filter((p) => p.supported).map((p) => p.name);
  if (usable.includes(name)) return;
  const known = paths.some((p) => p.name === name);
  const reason = known ? "this processor has no such instructions" : "no such path";
  throw new InputError(`--path ${name}: ${reason}; this machine runs ${usable.join(", ")}`);
}
