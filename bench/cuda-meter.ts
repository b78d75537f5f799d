/**
 * Times ops on a GPU with its own clock. Calls are recorded as one graph, which excludes the host's launch cost, and the graph
 * is replayed between two events. Peaks are what the card reaches in practice: a large product through cuBLAS, and the driver's
 * copy within device memory.
 */
import type { CudaDevice } from "../src/device/cuda/device.ts";
import type { ComputeDType } from "../src/tensor/dtype.ts";
import { type Meter, median, type Peak } from "./measure.ts";
import { gpuRounding } from "./ops/tolerance.ts";
import { openWorkspace } from "./ops/workspace.ts";

/** Minimum milliseconds of a graph, so that its launch is negligible. */
const SHORTEST_GRAPH = 1;
const MOST_CALLS = 256;
/** Calls per graph; benchmarks with copies of a weight or cache go through all of them. */
const LEAST_CALLS = 8;

const LEAST_SAMPLES = 7;

/** Sizes that reach the card's peaks; on an emulated one they only exercise the measurement. */
const large = { bfloat16: 8192, float32: 4096, copyBytes: 2 ** 30 } as const;
const small = { bfloat16: 32, float32: 32, copyBytes: 2 ** 12 } as const;

/** Whether the driver computes on a processor, or not at all: times are meaningless there, and sizes must be small. */
export function isEmulated({ gpu }: Pick<CudaDevice, "gpu">): boolean {
  return /^(Emulated|Null) GPU/.test(gpu.name);
}

export function cudaMeter(device: CudaDevice): Meter {
  const { meter } = device;
  const emulated = isEmulated(device);
  const sizes = emulated ? small : large;

  /** Milliseconds per call: the median over replays of a graph of several calls. */
  const millisecondsOf = async (work: () => void, samples: number): Promise<number> => {
    work(); // cuBLAS has chosen its algorithm, kernels are loaded, scratch memory has grown
    const once = Math.max(1e-4, meter.elapsed(work));
    const calls = emulated ? 1 : Math.max(LEAST_CALLS, Math.min(MOST_CALLS, Math.ceil(SHORTEST_GRAPH / once)));
    const key = "bench";
    await device.record(key, function* () {
      for (let i = 0; i < calls; i++) work();
      yield;
    });
    const replay = () => void device.replay(key);
    meter.elapsed(replay); // the first launch of a graph also uploads it
    const times = Array.from({ length: samples }, () => meter.elapsed(replay) / calls);
    device.forget(key);
    return Math.max(1e-6, median(times));
  };

  const productRate = async (dtype: ComputeDType): Promise<number> => {
    const n = sizes[dtype];
    const w = openWorkspace(device);
    try {
      const [x, y] = [w.input("x", dtype, [n, n]), w.output("y", dtype, [n, n])];
      const weight = w.weight("w", dtype, [n, n]);
      const milliseconds = await millisecondsOf(() => device.ops.matmulForward(y, x, weight, null), emulated ? 1 : 5);
      return (2 * n ** 3) / milliseconds / 1e6;
    } finally {
      w.free();
    }
  };

  const copyRate = (): number => {
    const bytes = sizes.copyBytes;
    const w = openWorkspace(device);
    try {
      const [from, to] = [w.input("from", "float32", [bytes / 4]), w.output("to", "float32", [bytes / 4])];
      const copy = () => meter.copy(to.address, from.address, bytes);
      const times = Array.from({ length: 5 }, () => meter.elapsed(copy));
      return (2 * bytes) / Math.max(1e-6, median(times)) / 1e6;
    } finally {
      w.free();
    }
  };

  let now: Peak | null = null;
  const self: Meter = {
    device,
    rounding: gpuRounding,
    name: device.gpu.name,
    shared: false,
    async peak() {
      now = { compute: await productRate("float32"), products: await productRate("bfloat16"), memory: copyRate() };
      return now;
    },
    async time(work, { flops, bytes, bound, wide }, { samples }) {
      const { compute, products = compute, memory } = now ?? (await self.peak());
      const taken = emulated ? 1 : Math.max(samples, LEAST_SAMPLES);
      const milliseconds = await millisecondsOf(work, taken);
      const rate = (bound === "compute" ? flops : bytes) / milliseconds / 1e6;
      const arithmetic = wide ? products : compute;
      const peak = bound === "compute" ? arithmetic : memory;
      return { milliseconds, samples: taken, rate, peak, share: rate / peak };
    },
    free() {},
  };
  return self;
}
