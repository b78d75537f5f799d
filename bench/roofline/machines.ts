/** The GPUs of the roofline table: figures from NVIDIA's data sheets, dense, without sparsity. */
import type { CountedGpu } from "./counting-device.ts";

export interface Gpu extends CountedGpu {
  readonly name: string;
  /** Bytes per second from device memory. */
  readonly bandwidth: number;
  /** Floating-point operations per second of bfloat16 products summed in float32, as available to cuBLAS. */
  readonly tensor: number;
  /** The same through `mma.sync`, the instruction in most of this project's kernels. */
  readonly mma: number;
  /** Floating-point operations per second of float32 multiply-adds outside tensor cores. */
  readonly float32: number;
  /** Cycles per second under load. */
  readonly clock: number;
  /** Warp instructions that a multiprocessor issues per cycle. */
  readonly issue: number;
  /** Results of ex2, rcp, rsqrt, … per multiprocessor and cycle. */
  readonly special: number;
  readonly source: string;
}

export const gpus: readonly Gpu[] = [
  {
    name: "A100",
    bandwidth: 2.039e12,
    tensor: 312e12,
    mma: 312e12,
    float32: 19.5e12,
    limits: { multiprocessors: 108, computeCapability: 80, sharedMemory: 163 * 1024 },
    clock: 1.41e9,
    issue: 4,
    special: 16,
    totalBytes: 80e9,
    source: "A100 80GB SXM data sheet (2021), A100 architecture white paper",
  },
  {
    name: "H100",
    bandwidth: 3.352e12,
    tensor: 989e12,
    // mma.sync reaches 62 % of what wgmma does (Luo et al. 2024, arXiv 2402.13499, table of dense mma).
    mma: 0.62 * 989e12,
    float32: 67e12,
    limits: { multiprocessors: 132, computeCapability: 90, sharedMemory: 227 * 1024 },
    clock: 1.83e9,
    issue: 4,
    special: 16,
    totalBytes: 80e9,
    source: "H100 SXM5 data sheet (2023), H100 architecture white paper",
  },
  {
    name: "RTX 4090",
    bandwidth: 1.008e12,
    tensor: 165.2e12,
    mma: 165.2e12,
    float32: 82.6e12,
    limits: { multiprocessors: 128, computeCapability: 89, sharedMemory: 99 * 1024 },
    clock: 2.52e9,
    issue: 4,
    special: 16,
    totalBytes: 24e9,
    source: "Ada GPU architecture white paper (2022), table of GeForce RTX 4090",
  },
];

/** Microseconds the device idles between two kernels: in a replayed graph, and launched one by one. */
export const launchGap = { graph: 1.0e-6, stream: 2.5e-6 } as const;
