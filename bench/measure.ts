/**
 * Time of a piece of work beside the machine's own peak, measured between its samples: on a machine that others use,
 * both are slowed alike, and their ratio says more than either.
 */
import { Bench } from "tinybench";
import type { CpuDevice } from "../src/device/cpu.ts";
import { tensor } from "../src/tensor/tensor.ts";

/** The machine's limits, measured on as many threads as the kernels use. */
export interface Peak {
  /** GFLOP/s of a multiply-add loop on the instruction path in use. */
  readonly compute: number;
  /** GB/s of a loop that reads memory. */
  readonly memory: number;
}

export interface PeakMeter {
  compute(milliseconds: number): number;
  /** Reads `bytes` of a buffer too large for the caches. */
  memory(bytes: number): number;
  /** Both, over about 0.3 s. */
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
    memory(bytes) {
      if (at + bytes > BUFFER_BYTES) at = 0;
      const rate = device.library.readBandwidth(buffer.address + at, bytes);
      at += bytes;
      return rate;
    },
    measure() {
      const reads = Array.from({ length: 5 }, () => meter.memory(BUFFER_BYTES / 4));
      return { compute: meter.compute(150), memory: median(reads) };
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
  /** Median of the peak that bounds the work, measured before each sample: GFLOP/s or GB/s. */
  readonly peak: number;
}

/** Short work is repeated until a sample takes about this long. */
const SAMPLE_MILLISECONDS = 4;
const PEAK_MILLISECONDS = 4;
const PEAK_BYTES = 64 * 2 ** 20;

export function measure(work: () => void, bound: Bound, meter: PeakMeter, patience: Patience): Timing {
  const repeats = repeatsFor(work);
  const peaks: number[] = [];
  const bench = new Bench({ iterations: patience.samples, time: patience.time, warmup: false, throws: true });
  bench.add(
    "work",
    () => {
      for (let i = 0; i < repeats; i++) work();
    },
    {
      async: false,
      beforeEach() {
        peaks.push(bound === "compute" ? meter.compute(PEAK_MILLISECONDS) : meter.memory(PEAK_BYTES));
      },
    },
  );
  const [task] = bench.runSync();
  const result = task!.result;
  if (result.state !== "completed") throw new Error(`the benchmark ended as ${result.state}`);
  const { latency } = result;
  return { milliseconds: latency.p50 / repeats, samples: latency.samplesCount, peak: median(peaks) };
}

/** Runs it twice, which also warms it up: once for its pages and caches, once for its time. */
function repeatsFor(work: () => void): number {
  work();
  const start = performance.now();
  work();
  return Math.max(1, Math.ceil(SAMPLE_MILLISECONDS / Math.max(performance.now() - start, 1e-3)));
}
