/**
 * cuBLAS on one GPU: products on the device's stream in a workspace of its own, set once, so that they can be captured and
 * give the same bits on every run. Sums are float32, without TF32. Those with a bias are in biased-products.ts.
 */
import {
  CUBLAS_COMPUTE_32F,
  CUBLAS_GEMM_DEFAULT,
  CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION,
  type Cublas,
} from "../../../ffi/bindings/cublas.ts";
import { nativeBlock } from "../../../ffi/bindings/native.ts";
import { openBiasedProducts } from "./biased-products.ts";
import type { Gpu } from "./gpu.ts";
import type { KernelLauncher } from "./kernels.ts";
import type { GpuMemory } from "./memory.ts";
import { dataType, operation, type Product } from "./product.ts";

export interface Products {
  multiply(product: Product): void;
  /** The same + bias (m) on every column; false where cuBLASLt offers no way, and nothing was done. */
  multiplyWithBias(product: Product, bias: number): boolean;
  close(): void;
}

const MiB = 2 ** 20;
/** NVIDIA's recommendation for cublasSetWorkspace: more from Hopper on. */
function workspaceBytes(computeCapability: number): number {
  return (computeCapability >= 90 ? 32 : 4) * MiB;
}

/** @throws NvidiaCallError where the libraries do not start, RunError without memory for the workspace */
export function openProducts(gpu: Gpu, memory: GpuMemory, cublas: Cublas, timed: KernelLauncher["timed"]): Products {
  const { calls, light } = cublas;
  const check: Cublas["check"] = (call, status) => {
    // A fault in an earlier kernel reaches cuBLAS first at times, which has no name for it: the driver has.
    if (status !== 0 && !gpu.capturing) gpu.synchronize();
    cublas.check(call, status);
  };
  const workspace = memory.allocate(workspaceBytes(gpu.limits.computeCapability), "workspace of cuBLAS");
  const block = nativeBlock(32);
  block.view.setFloat32(0, 1, true);
  block.view.setFloat32(8, 0, true);
  const [one, zero] = [block.address, block.address + 8];
  const closers: (() => void)[] = [() => block.free()];
  const close = () => {
    for (let closer = closers.pop(); closer; closer = closers.pop()) closer();
  };
  try {
    check("cublasCreate_v2", calls.cublasCreate_v2(block.address + 16));
    const handle = block.u64(16);
    closers.push(() => calls.cublasDestroy_v2(handle));
    check("cublasSetStream_v2", calls.cublasSetStream_v2(handle, gpu.stream));
    check("cublasSetWorkspace_v2", calls.cublasSetWorkspace_v2(handle, workspace.address, workspace.byteLength));
    const mode = CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    check("cublasSetMathMode", calls.cublasSetMathMode(handle, mode));
    const biased = openBiasedProducts(light, check, workspace, gpu.stream, timed);
    closers.push(biased.close);
    return {
      multiply({ m, n, k, a, b, c, accumulate }) {
        const left = [a.address, dataType(a.dtype), a.stride] as const;
        const right = [b.address, dataType(b.dtype), b.stride] as const;
        const result = [c.address, dataType(c.dtype), c.stride] as const;
        const how = [CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT] as const;
        const factor = accumulate ? one : zero;
        const sizes = [operation(a), operation(b), m, n, k] as const;
        timed("cublasGemmEx", () => {
          check(
            "cublasGemmEx",
            calls.cublasGemmEx(handle, ...sizes, one, ...left, ...right, factor, ...result, ...how),
          );
        });
      },
      multiplyWithBias: biased.multiply,
      close,
    };
  } catch (error) {
    close();
    throw error;
  }
}
