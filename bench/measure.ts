/**
 * Time of a piece of work beside the machine's own peak, measured between its samples: on a machine that others use,
 * both are slowed alike, and their ratio says more than either.
 */
import { Bench } from "tinybench";
import type { CpuDevice } from "../src/device/cpu/device.ts";
import { bfloat16Paths } from "../src/device/cpu/path.ts";
import type { Device } from "../src/device/device.ts";
import { tensor } from "../src/tensor/tensor.ts";
import { cpuRounding, type Rounding } from "./ops/tolerance.ts";

/** The machine's limits, as measured. */
export interface Peak {
  /**
   * GFLOP/s: of a multiply-add loop on a processor's instruction path in use and its threads; on a GPU of a large
   * float32 product.
   */
  readonly compute: number;
  /** GFLOP/s of products with bfloat16 weights, where there are instructions of their own for them. */
  readonly products?: number;
  /** GB/s: of a loop that reads memory; on a GPU of a copy within its memory, read and written bytes together. */
  readonly memory: number;
}

/** A device, and how work on it is timed beside its peak. */
export interface Meter {
  readonly device: Device;
  readonly rounding: Rounding;
  /** What its peak is said to be of, and a wrong result to be on. */
  readonly name: string;
  /** Each share is of the peak measured between its samples: others may use the machine, too. */
  readonly shared: boolean;
  /** The limits now. */
  peak(): Promise<Peak>;
  /** Times `work`, one call of an op, after it has run once. */
  time(work: () => void, cost: Cost, patience: Patience): Promise<Timing>;
  free(): void;
}

/** What one call of an op does, and which limit it meets first. */
export interface Cost {
  /** Floating-point operations. */
  readonly flops: number;
  readonly bytes: number;
  readonly bound: Bound;
  /** Its arithmetic is done by the instructions that `Peak.products` is of. */
  readonly wide: boolean;
}

/** A processor's meter: peaks are measured again beside each sample, as others may use it. */
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
  /** Reads `bytes` of a buffer too large for the caches. */
  memory(bytes: number): number;
  /** All of them, over about 0.3 s. */
  measure(): Peak;
  free(): void;
}

const BUFFER_BYTES = 256 * 2 ** 20;

export function openPeakMeter(device: CpuDevice): PeakMeter {
  const buffer = device.allocate(BUFFER_BYTES, "bench: read loop");
  // Pages that were never written are all one page of zeros, which stays in the cache.
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

/** Which limit a piece of work meets first: the roofline of Williams, Waterman & Patterson 2009. */
export function boundOf(flops: number, bytes: number, peak: Peak): Bound {
  return flops / peak.compute >= bytes / peak.memory ? "compute" : "memory";
}

/** How long a piece of work is timed. */
export interface Patience {
  readonly samples: number;
  /** Timed at least this long, in milliseconds. */
  readonly time: number;
}

export interface Timing {
  /** Median milliseconds of one run. */
  readonly milliseconds: number;
  readonly samples: number;
  /** GFLOP/s or GB/s at that time. */
  readonly rate: number;
  /** The peak that bounds the work; on a processor the median of those before and after each sample. */
  readonly peak: number;
  /** Rate by peak; on a processor the median over the samples, each by the mean of the two peaks around it. */
  readonly share: number;
}

/** Short work is repeated until a sample takes about this long, in milliseconds. */
const SHORTEST_SAMPLE = 4;
/** A peak is measured for as long as the sample beside it, up to this. */
const LONGEST_PEAK = 40;
const PEAK_BYTES = 64 * 2 ** 20;

/** Times `work`, which does `flops` operations or moves `bytes`, and measures the peak that bounds it in between. */
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

/** Milliseconds of the second of two runs; the first meets pages and caches that are cold. */
function warmUp(work: () => void): number {
  work();
  const start = performance.now();
  work();
  return performance.now() - start;
}
