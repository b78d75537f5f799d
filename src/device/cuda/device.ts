/**
 * The CUDA device: implements device.ts on one NVIDIA GPU. This file opens the libraries and combines the parts in
 * cuda/: memory, transfers, kernels, products, recordings, and the ops on top of them.
 */
import { type Trace, traceLines } from "../../../ffi/bindings/calls.ts";
import { openCublas } from "../../../ffi/bindings/cublas.ts";
import { openDriver, versionText } from "../../../ffi/bindings/cuda.ts";
import { majorVersions } from "../../../ffi/bindings/nvidia-libraries.ts";
import { openNvrtc } from "../../../ffi/bindings/nvrtc.ts";
import { InputError } from "../../errors.ts";
import { elementCount, tensor } from "../../tensor/tensor.ts";
import type { Device } from "../device.ts";
import { kernelCompiler } from "./compile.ts";
import { openCounters } from "./counters.ts";
import { chooseGpu, type GpuFacts, listGpus, openGpu } from "./gpu.ts";
import { openKernels } from "./kernels.ts";
import { openMemory } from "./memory.ts";
import { pageElements } from "./ops/attention.ts";
import { attentionScratchElements } from "./ops/attention-backward.ts";
import { cudaOps } from "./ops.ts";
import { openParameters } from "./parameters.ts";
import { peakFlops } from "./peak.ts";
import { openPeers } from "./peers.ts";
import { openProducts } from "./products.ts";
import { openRecordings } from "./recordings.ts";
import type { CudaRuntime } from "./runtime.ts";
import { largestSlots } from "./scratch.ts";
import { openStaging } from "./staging.ts";
import { openTensorMaps } from "./tensor-maps.ts";
import { openTransfers } from "./transfers.ts";

export interface CudaOptions {
  /** "cuda", or "cuda:1" for the second GPU that the driver shows. */
  readonly device?: string;
  /** The process's place among the ranks of this machine, which "cuda" gives a GPU each. */
  readonly localRank?: number;
  /** Counts calls and time per symbol and kernel; by default if $BUN_GRPO_TRACE is set. */
  readonly trace?: boolean;
  /** Searched for the libraries first. */
  readonly libraryFolder?: string | null;
  /** Called before kernels are compiled that are not in the cache. */
  readonly onBuild?: () => void;
}

export interface CudaDevice extends Device {
  readonly kind: "cuda";
  readonly gpu: GpuFacts;
  readonly runtime: CudaRuntime;
  /** For benchmarks. */
  readonly meter: CudaMeter;
}

export interface CudaMeter {
  /** GPU time in milliseconds of the ops and replays that `queue` puts into the stream. Waits for them. */
  elapsed(queue: () => void): number;
  /** The same for work that is queued by and by: it ends at the call of the returned function. One at a time. */
  start(): () => number;
  /** The driver's copy within device memory, to measure bandwidth with. */
  copy(to: number, from: number, bytes: number): void;
}

/**
 * Chunks of logits. Each reads the head's weights and adds to the whole of their float32 gradient, so it should have
 * many rows: a 40th of the GPU's memory, up to 1 GiB, which is 1,767 rows of a vocabulary of 151,936.
 */
export function headChunks(totalBytes: number): Pick<Device, "headBytes" | "headRows"> {
  return { headBytes: Math.min(2 ** 30, Math.floor(totalBytes / 40)), headRows: 4096 };
}

/** Tokens of a micro-batch: 16,384 with 40 GB, in proportion with less. Each one launches and reads everything anew. */
export function microBatchTokens(totalBytes: number): number {
  const thousands = Math.floor((16 * totalBytes) / 40e9);
  return 1024 * Math.max(2, Math.min(16, thousands));
}

/** Rows of a matrix that keep what follows it aligned: 16 bytes of bfloat16. */
export const ROW_BLOCK = 8;

/** Rows of a recorded decode step: more buckets cost memory and recordings, fewer waste rows. */
export function decodeBucket(sequences: number): number {
  for (const bucket of [1, 2, 4, 8]) if (sequences <= bucket) return bucket;
  const step = sequences <= 64 ? 8 : sequences <= 128 ? 16 : 32;
  return Math.ceil(sequences / step) * step;
}

/**
 * Opens a GPU.
 *
 * @throws MissingLibraryError if the driver, cuBLAS or NVRTC is missing, InputError for a GPU that is missing or too
 *   old, RunError if it cannot be used
 */
export async function openCudaDevice(options: CudaOptions = {}): Promise<CudaDevice> {
  const trace: Trace | null = (options.trace ?? !!process.env.BUN_GRPO_TRACE) ? new Map() : null;
  const kernelTrace: Trace | null = trace ? new Map() : null;
  const search = { folder: options.libraryFolder ?? null };
  const driver = openDriver(search, trace);
  const facts = chooseGpu(listGpus(driver), options.device ?? "cuda", options.localRank);
  // Libraries newer than the driver do not work with it.
  const versions = majorVersions.filter((major) => major <= Math.floor(driver.version / 1000));
  if (versions.length === 0)
    throw new InputError(
      `device cuda: the driver runs CUDA ${versionText(driver.version)}, and 12.0 is needed; update the driver`,
    );
  const cublas = openCublas(search, versions, trace);
  const nvrtc = openNvrtc(search, versions, trace);

  const gpu = openGpu(driver, facts);
  const closers: (() => void)[] = [() => gpu.close()];
  /** Closes in reverse order of opening; all of them, even if one fails. */
  const close = () => {
    let failure: unknown;
    for (let closer = closers.pop(); closer; closer = closers.pop()) {
      try {
        closer();
      } catch (error) {
        failure ??= error;
      }
    }
    if (failure !== undefined) throw failure;
  };
  try {
    const memory = openMemory(gpu);
    closers.push(() => memory.close());
    const compiler = kernelCompiler(nvrtc, facts.limits.computeCapability, options.onBuild);
    const kernels = openKernels(gpu, compiler, kernelTrace);
    closers.push(() => kernels.close());
    const products = openProducts(gpu, memory, cublas, kernels.timed);
    closers.push(() => products.close());
    const recordings = openRecordings(gpu, memory);
    closers.push(() => recordings.forget(""));

    const peers = openPeers(gpu, search, trace);
    closers.push(() => peers.close());
    const maps = openTensorMaps(gpu);
    closers.push(() => maps.close());

    const { kernel, launch } = kernels;
    const { tensorMap } = maps;
    const counters = openCounters(gpu, memory);
    const runtime: CudaRuntime = {
      limits: facts.limits,
      kernel,
      launch,
      scratch: memory.scratch,
      tensorMap,
      counters,
    };
    const ops = cudaOps(runtime, products);
    const transfers = openTransfers(gpu, memory);
    const version = versionText(driver.version);
    const { multiprocessors, computeCapability } = facts.limits;
    return {
      kind: "cuda",
      gpu: facts,
      runtime,
      meter: {
        elapsed: gpu.elapsed,
        start: gpu.startTimer,
        copy: (to, from, bytes) => gpu.call("cuMemcpyDtoDAsync_v2", to, from, bytes, gpu.stream),
      },
      description: `CUDA ${facts.name} (sm_${computeCapability}, ${multiprocessors} SMs), driver ${version}, cuBLAS ${cublas.version}`,
      numericsKey: `cuda ${facts.name} sm_${computeCapability} driver ${version} cublas ${cublas.version} nvrtc ${nvrtc.version}`,
      // cuBLAS selects its algorithm by the number of rows, so a row's bits may depend on its batch.
      exactlyOnPolicy: false,
      queuesWork: true,
      ops,
      microBatchTokens: microBatchTokens(facts.totalBytes),
      ...headChunks(facts.totalBytes),
      peakFlops: () => peakFlops(facts),
      traceLines: () => [...traceLines(kernelTrace), ...traceLines(trace)],
      freeBytes: gpu.freeBytes,
      heldBytes: memory.heldBytes,
      allocate: memory.allocate,
      populate({ address, byteLength }) {
        ops.fill(tensor("new memory", address, "float32", [Math.floor(byteLength / 4)]), 0);
      },
      allocateHost: memory.allocateHost,
      ...transfers,
      activationDType: (dtype) => dtype,
      gradientDType: (dtype) => dtype,
      masterDType: "float32",
      parameterLayout: () => "rows",
      decodeBucket,
      rowBlock: ROW_BLOCK,
      parameterElements: elementCount,
      pageElements,
      attentionScratchElements,
      // cuBLAS's workspace is already allocated, so free memory excludes it.
      scratchBytes: (...sizes) => largestSlots(sizes, facts.limits).reduce((a, b) => a + b, 0),
      prepare(...sizes) {
        for (const [slot, bytes] of largestSlots(sizes, facts.limits).entries()) memory.scratch(slot, bytes);
      },
      ...openParameters(gpu, memory, ops, transfers.upload),
      staging: openStaging(gpu, memory),
      peers,
      record: recordings.record,
      async replay(key) {
        kernels.timed("replay", () => recordings.replay(key));
      },
      forget: recordings.forget,
      close,
    };
  } catch (error) {
    try {
      close();
    } catch {
      // report the first failure, not the cleanup's
    }
    throw error;
  }
}
