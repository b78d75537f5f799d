/**
 * cuBLAS on one GPU: products on the device's stream with a fixed workspace, so that they can be captured and give the
 * same bits on every run. Sums are float32, without TF32. A product with a bias per column of a row-major result uses
 * cuBLASLt's epilogue.
 */
import {
  CUBLAS_COMPUTE_32F,
  CUBLAS_GEMM_DEFAULT,
  CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION,
  type Cublas,
} from "../../../ffi/bindings/cublas.ts";
import { nativeBlock } from "../../../ffi/bindings/native.ts";
import type { Gpu } from "./gpu.ts";
import type { KernelLauncher } from "./kernels.ts";
import type { GpuMemory } from "./memory.ts";
import { dataType, openPlans, operation, type Product } from "./product-plans.ts";

export interface Products {
  multiply(product: Product): void;
  /** The same + bias (m) on every column; false if cuBLASLt does not support it and nothing was done. */
  multiplyWithBias(product: Product, bias: number): boolean;
  close(): void;
}

const MiB = 2 ** 20;
/** NVIDIA's recommendation for cublasSetWorkspace: more from Hopper on. */
export function workspaceBytes(computeCapability: number): number {
  return (computeCapability >= 90 ? 32 : 4) * MiB;
}

/** @throws NvidiaCallError if the libraries do not start, RunError without memory for the workspace */
export function openProducts(gpu: Gpu, memory: GpuMemory, cublas: Cublas, timed: KernelLauncher["timed"]): Products {
  const { calls, light } = cublas;
  const check: Cublas["check"] = (call, status) => {
    // cuBLAS may be the first to see an earlier kernel's fault, but cannot name it; the driver can.
    if (status !== 0 && !gpu.capturing) gpu.synchronize();
    cublas.check(call, status);
  };
  const bytes = workspaceBytes(gpu.limits.computeCapability);
  const workspace = memory.allocate(bytes, "workspace of cuBLAS").address;
  const block = nativeBlock(32);
  block.view.setFloat32(0, 1, true);
  block.view.setFloat32(8, 0, true);
  const [one, zero] = [block.address, block.address + 8];
  const [out, scaled] = [block.address + 16, block.address + 24];
  const made = () => block.u64(16);

  let handle = 0;
  let lightHandle = 0;
  const release = () => {
    if (handle !== 0) calls.cublasDestroy_v2(handle);
    if (lightHandle !== 0) light.cublasLtDestroy(lightHandle);
    block.free();
  };
  try {
    check("cublasCreate_v2", calls.cublasCreate_v2(out));
    handle = made();
    check("cublasLtCreate", light.cublasLtCreate(out));
    lightHandle = made();
    check("cublasSetStream_v2", calls.cublasSetStream_v2(handle, gpu.stream));
    check("cublasSetWorkspace_v2", calls.cublasSetWorkspace_v2(handle, workspace, bytes));
    const mode = CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    check("cublasSetMathMode", calls.cublasSetMathMode(handle, mode));
  } catch (error) {
    release();
    throw error;
  }
  const plans = openPlans({ light, handle: lightHandle, check, workspaceBytes: bytes });

  return {
    multiply({ m, n, k, a, b, c, accumulate, factor = 1 }) {
      block.view.setFloat32(24, factor, true);
      timed("cublasGemmEx", () => {
        const status = calls.cublasGemmEx(
          handle,
          operation(a),
          operation(b),
          m,
          n,
          k,
          factor === 1 ? one : scaled,
          a.address,
          dataType(a.dtype),
          a.stride,
          b.address,
          dataType(b.dtype),
          b.stride,
          accumulate ? one : zero,
          c.address,
          dataType(c.dtype),
          c.stride,
          CUBLAS_COMPUTE_32F,
          CUBLAS_GEMM_DEFAULT,
        );
        check("cublasGemmEx", status);
      });
    },
    multiplyWithBias(product, bias) {
      const plan = plans.of(product, bias);
      if (!plan) return false;
      const { a, b, c, accumulate } = product;
      const { description, layouts, algorithm } = plan;
      const [A = 0, B = 0, C = 0] = layouts;
      timed("cublasLtMatmul", () => {
        const status = light.cublasLtMatmul(
          lightHandle,
          description,
          one,
          a.address,
          A,
          b.address,
          B,
          accumulate ? one : zero,
          c.address,
          C,
          c.address,
          C,
          algorithm.address,
          workspace,
          bytes,
          gpu.stream,
        );
        check("cublasLtMatmul", status);
      });
      return true;
    },
    close() {
      plans.close();
      release();
    },
  };
}
