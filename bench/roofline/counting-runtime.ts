/**
 * The CUDA device's own launchers on a runtime that launches nothing and notes what would be: which kernel an op takes on a GPU,
 * and how many, is decided nowhere else.
 */
import { cudaOps } from "../../src/device/cuda/ops.ts";
import type { Products } from "../../src/device/cuda/products.ts";
import type { CudaLimits, CudaRuntime } from "../../src/device/cuda/runtime.ts";
import type { Ops } from "../../src/device/device.ts";

/** Any address that every alignment divides: nothing is read or written there. */
const SOMEWHERE = 2 ** 40;

export interface LaunchNotes {
  readonly ops: Ops;
  /** Kernels and products launched since the last `take`, by name, in order. */
  take(): string[];
}

export function noteLaunches(limits: CudaLimits): LaunchNotes {
  let launched: string[] = [];
  const runtime: CudaRuntime = {
    limits,
    counters: SOMEWHERE,
    kernel: (definition) => ({ definition, function: 0 }),
    launch({ definition }, grid) {
      if (!grid.includes(0)) launched.push(definition.name);
    },
    scratch: () => SOMEWHERE,
    tensorMap: () => SOMEWHERE,
  };
  const products: Products = {
    multiply: () => void launched.push("cublasGemmEx"),
    multiplyWithBias: () => launched.push("cublasLtMatmul") > 0,
    close() {},
  };
  return {
    ops: cudaOps(runtime, products),
    take() {
      const taken = launched;
      launched = [];
      return taken;
    },
  };
}
