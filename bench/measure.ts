/**
 * The time of a piece of work beside the machine's own peak, measured between its samples. On a shared machine both slow down
 * alike, so their ratio is more stable than either.
 */
import { Bench } from "tinybench";
import type { CpuDevice } from "../src/device/cpu/device.ts";
import { bfloat16Paths } from "../src/device/cpu/path.ts";
import type { Device } from "../src/device/device.ts";
import { tensor } from "../src/tensor/tensor.ts";
import { cpuRounding, type Rounding } from "./ops/tolerance.ts";

/** The machine's measured limits. */
export interface Peak {
  /**
   * GFLOP/s: on a processor, of a multiply-add loop on the instruction path and threads in use; on a GPU, of a large float32
   * product.
   */
  readonly compute: number;
  /** GFLOP/s of products with bfloat16 weights, if the device has dedicated instructions for them. */
  readonly products?: number;
  /** GB/s: of a loop that reads memory; on a GPU, of a copy within its memory, counting bytes read and written. */
  readonly memory: number;
}

/** A device, and how to time work on it beside its peak. */
export interface Meter {
  readonly device: Device;
  readonly rounding: Rounding;
  /** How peaks and wrong results name the device. */
  readonly name: string;
  /** Each share uses the peak measured between its own samples, since others may use the machine too. */
  readonly shared: boolean;
  /** The limits now. */
  peak(): Promise<Peak>;
  /** Times `work`, one call of an op, after one untimed run. */
  time(work: () => void, cost: Cost, patience: Patience): Promise<Timing>;
  free(): void;
}

/** What one call of an op does, and which limit bounds it. */
export interface Cost {
  /** Floating-point operations. */
  readonly flops: number;
  readonly bytes: number;
  readonly bound: Bound;
  /** Its arithmetic uses the instructions that `Peak.products` measures. */
  readonly wide: boolean;
}

/** A processor's meter: peaks are measured again beside each sample, since others may use the machine. */
export function cpuMeter(device: CpuDevice, peaks: PeakMeter = openPeakMeter(device)): Meter {
  return {
    device,
    rounding: cpuRounding(device),
    shared: true,
    name: `${device.path} on ${device.threads} thread${device.threads === 1 ? "" : "s"}`,
    peak: async () => peaks.measure(),
    time: async (work, cost, patience) =>
      measure(work, cost, cost.wide ? { ...peaks, compute: peaks.products } : peaks, patience),
    free: () => peaks.free(),
  };
}

export interface PeakMeter {
  compute(milliseconds: number): number;
  /** Of products with bfloat16 weights. */
  products(milliseconds: number): number;
  /** Reads `bytes` of a buffer that exceeds the caches. */
  memory(bytes: number): number;
  /** All of them, in about 0.3 s. */
  measure(): Peak;
  free(): void;
}

const BUFFER_BYTES = 256 * 2 ** 20;

export function openPeakMeter(device: CpuDevice): PeakMeter {
  const buffer = device.allocate(BUFFER_BYTES, "bench: read loop");
  // Pages that were never written all map to one page of zeros, which stays in the cache.
  device.ops.fill(tensor("read loop", buffer.address, "float32", [BUFFER_BYTES / 4]), 1);
  let at = 0;
  const meter: PeakMeter = {
    compute: (milliseconds) => device.library.peakGflops(milliseconds),
    products: (milliseconds) => device.library.peakGflops(milliseconds, "bfloat16"),
    memory(bytes) {
      if (at + bytes > BUFFER_BYTES) at = 0;
      const rate = device.library.readBandwidth(buffer.address + at, bytes);
      at += bytes;
      return rate;
    },
    measure() {
      const reads = Array.from({ length: 5 }, () => meter.memory(BUFFER_BYTES / 4));
      const products = bfloat16Paths.includes(device.path) ? { products: meter.products(150) } : {};
      return { compute: meter.compute(150), ...products, memory: median(reads) };
    },
    free: () => buffer.free(),
  };
  return meter;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

export type Bound = "compute" | "memory";

/** Which limit bounds a piece of work: the roofline of Williams, Waterman & Patterson 2009. */
export function boundOf(flops: number, bytes: number, peak: Peak): Bound {
  return flops / peak.compute >= bytes / peak.memory ? "compute" : "memory";
}

/** How long to time a piece of work. */
export interface Patience {
  readonly samples: number;
  /** Minimum total, in milliseconds. */
  readonly time: number;
}

export interface Timing {
  /** Median milliseconds per run. */
  readonly milliseconds: number;
  readonly samples: number;
  /** GFLOP/s or GB/s at that time. */
  readonly rate: number;
  /** The peak that bounds the work; on a processor, the median of those before and after each sample. */
  readonly peak: number;
  /** Rate divided by peak; on a processor, the median over the samples, each relative to the mean of the two peaks around it. */
  readonly share: number;
}

/** Short work is repeated until a sample takes about this long, in milliseconds. */
const SHORTEST_SAMPLE = 4;
/** A peak is measured for as long as the sample beside it, up to this many milliseconds. */
const LONGEST_PEAK = 40;
const PEAK_BYTES = 64 * 2 ** 20;

/** Times `work`, which does `flops` operations or moves `bytes`; measures the peak that bounds it between samples. */
export function measure(work: () => void, cost: Omit<Cost, "wide">, meter: PeakMeter, patience: Patience): Timing {
  const once = warmUp(work);
  const repeats = Math.max(1, Math.ceil(SHORTEST_SAMPLE / Math.max(once, 1e-3)));
  const peakTime = Math.min(LONGEST_PEAK, once * repeats);
  const peakBytes = PEAK_BYTES * (peakTime > LONGEST_PEAK / 4 ? 4 : 1);
  const peakNow = () => (cost.bound === "compute" ? meter.compute(peakTime) : meter.memory(peakBytes));
  const peaks: number[] = [];
  const times: number[] = [];
  const bench = new Bench({ iterations: patience.samples, time: patience.time, warmup: false, throws: true });
  const sample = () => {
    const start = bench.now();
    for (let i = 0; i < repeats; i++) work();
    const elapsed = bench.now() - start;
    times.push(elapsed / repeats);
    return { overriddenDuration: elapsed / repeats, overriddenIterationCost: elapsed };
  };
  bench.add("work", sample, { async: false, beforeEach: () => void peaks.push(peakNow()) });
  const result = bench.runSync()[0]!.result;
  if (result.state !== "completed") throw new Error(`the benchmark ended as ${result.state}`);
  peaks.push(peakNow());
  const rateOf = (milliseconds: number) => (cost.bound === "compute" ? cost.flops : cost.bytes) / milliseconds / 1e6;
  return {
    milliseconds: result.latency.p50,
    samples: times.length,
    rate: rateOf(result.latency.p50),
    peak: median(peaks),
    share: median(times.map((time, i) => (2 * rateOf(time)) / (peaks[i]! + peaks[i + 1]!))),
  };
}

/** Milliseconds of the second of two runs; the first finds pages and caches cold. */
function warmUp(work: () => void): number {
  work();
  const start = performance.now();
  work();
  return performance.now() - start;
}
