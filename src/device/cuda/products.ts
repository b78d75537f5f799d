/**
 * cuBLAS on one GPU: products on the device's stream in a workspace of its own, set once, so that they can be captured and
 * give the same bits on every run. Sums are float32, without TF32. A product with a bias added per column of a row-major
 * result goes through cuBLASLt's epilogue.
 */
import {
  CUBLAS_COMPUTE_32F,
  CUBLAS_GEMM_DEFAULT,
  CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION,
  CUBLAS_OP_N,
  CUBLAS_OP_T,
  CUBLASLT_EPILOGUE_BIAS,
  CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE,
  CUDA_R_16BF,
  CUDA_R_32F,
  type Cublas,
  heuristicResult,
  matmulAttribute,
  preferenceAttribute,
} from "../../../ffi/bindings/cublas.ts";
import { type NativeBlock, nativeBlock } from "../../../ffi/bindings/native.ts";
import type { ComputeDType } from "../../tensor/dtype.ts";
import type { Gpu } from "./gpu.ts";
import type { KernelLauncher } from "./kernels.ts";
import type { GpuMemory } from "./memory.ts";

/** A column-major operand: `transposed` says whether the product takes its transpose. */
export interface ColumnMajor {
  readonly address: number;
  readonly dtype: ComputeDType;
  /** Elements between the starts of two columns. */
  readonly stride: number;
  readonly transposed: boolean;
}

/** c (m, n) = a (m, k) · b (k, n), column-major. a and b have one type; c has that type or float32. */
export interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: ColumnMajor;
  readonly b: ColumnMajor;
  readonly c: Omit<ColumnMajor, "transposed">;
  /** c += … */
  readonly accumulate: boolean;
}

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

/** Plans of products with a bias that are kept; each is a few hundred bytes on the host. */
const PLANS = 512;
const WIDEST_ALIGNMENT = 16;

/** A product with a bias, as cuBLASLt wants it described, with the algorithm it chose. */
interface Plan {
  readonly description: number;
  readonly layouts: readonly number[];
  readonly algorithm: NativeBlock;
}

function dataType(dtype: ComputeDType): number {
  return dtype === "float32" ? CUDA_R_32F : CUDA_R_16BF;
}

const operation = ({ transposed }: ColumnMajor) => (transposed ? CUBLAS_OP_T : CUBLAS_OP_N);

/** @throws NvidiaCallError where the libraries do not start, RunError without memory for the workspace */
export function openProducts(gpu: Gpu, memory: GpuMemory, cublas: Cublas, timed: KernelLauncher["timed"]): Products {
  const { calls, light } = cublas;
  const check: Cublas["check"] = (call, status) => {
    // A fault in an earlier kernel reaches cuBLAS first at times, which has no name for it: the driver has.
    if (status !== 0 && !gpu.capturing) gpu.synchronize();
    cublas.check(call, status);
  };
  const bytes = workspaceBytes(gpu.limits.computeCapability);
  const workspace = memory.allocate(bytes, "workspace of cuBLAS").address;
  const block = nativeBlock(256);
  block.view.setFloat32(0, 1, true);
  block.view.setFloat32(8, 0, true);
  const [one, zero] = [block.address, block.address + 8];
  const out = block.address + 16;
  const made = () => block.u64(16);

  let handle = 0;
  let lightHandle = 0;
  const plans = new Map<string, Plan | null>();
  const dropPlans = () => {
    for (const plan of plans.values()) {
      if (!plan) continue;
      light.cublasLtMatmulDescDestroy(plan.description);
      for (const layout of plan.layouts) light.cublasLtMatrixLayoutDestroy(layout);
      plan.algorithm.free();
    }
    plans.clear();
  };
  const close = () => {
    dropPlans();
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
    close();
    throw error;
  }

  const set = (symbol: "cublasLtMatmulDescSetAttribute" | "cublasLtMatmulPreferenceSetAttribute") => {
    return (of: number, attribute: number, value: number, size: 4 | 8) => {
      block.setU64(24, value);
      check(symbol, light[symbol](of, attribute, block.address + 24, size));
    };
  };
  const describe = set("cublasLtMatmulDescSetAttribute");
  const prefer = set("cublasLtMatmulPreferenceSetAttribute");

  const layoutOf = (dtype: ComputeDType, rows: number, columns: number, stride: number): number => {
    const status = light.cublasLtMatrixLayoutCreate(out, dataType(dtype), rows, columns, stride);
    check("cublasLtMatrixLayoutCreate", status);
    return made();
  };

  /** Has cuBLASLt choose an algorithm for the product; null where it offers none. */
  const planFor = ({ m, n, k, a, b, c }: Product, bias: number): Plan | null => {
    check("cublasLtMatmulDescCreate", light.cublasLtMatmulDescCreate(out, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const description = made();
    const layouts: number[] = [];
    let preference = 0;
    let kept = false;
    const algorithm = nativeBlock(heuristicResult.bytes);
    try {
      describe(description, matmulAttribute.TRANSA, operation(a), 4);
      describe(description, matmulAttribute.TRANSB, operation(b), 4);
      describe(description, matmulAttribute.EPILOGUE, CUBLASLT_EPILOGUE_BIAS, 4);
      describe(description, matmulAttribute.BIAS_POINTER, bias, 8);
      layouts.push(a.transposed ? layoutOf(a.dtype, k, m, a.stride) : layoutOf(a.dtype, m, k, a.stride));
      layouts.push(b.transposed ? layoutOf(b.dtype, n, k, b.stride) : layoutOf(b.dtype, k, n, b.stride));
      layouts.push(layoutOf(c.dtype, m, n, c.stride));
      check("cublasLtMatmulPreferenceCreate", light.cublasLtMatmulPreferenceCreate(out));
      preference = made();
      const { MAX_WORKSPACE_BYTES, REDUCTION_SCHEME_MASK, ...alignments } = preferenceAttribute;
      prefer(preference, MAX_WORKSPACE_BYTES, bytes, 8);
      prefer(preference, REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 4);
      for (const attribute of Object.values(alignments)) prefer(preference, attribute, WIDEST_ALIGNMENT, 4);
      const [A = 0, B = 0, C = 0] = layouts;
      const status = light.cublasLtMatmulAlgoGetHeuristic(
        lightHandle,
        description,
        A,
        B,
        C,
        C,
        preference,
        1,
        algorithm.address,
        out,
      );
      // CUBLAS_STATUS_NOT_SUPPORTED, or no result: the product is computed another way
      kept = status === 0 && block.i32(16) > 0 && algorithm.i32(heuristicResult.statusAt) === 0;
      return kept ? { description, layouts, algorithm } : null;
    } finally {
      if (preference !== 0) light.cublasLtMatmulPreferenceDestroy(preference);
      if (!kept) {
        light.cublasLtMatmulDescDestroy(description);
        for (const layout of layouts) light.cublasLtMatrixLayoutDestroy(layout);
        algorithm.free();
      }
    }
  };

  return {
    multiply({ m, n, k, a, b, c, accumulate }) {
      timed("cublasGemmEx", () => {
        const status = calls.cublasGemmEx(
          handle,
          operation(a),
          operation(b),
          m,
          n,
          k,
          one,
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
      const { m, n, k, a, b, c, accumulate } = product;
      const sizes = [m, n, k, a.stride, b.stride, c.stride];
      const key = `${a.dtype} ${c.dtype} ${a.transposed} ${b.transposed} ${sizes.join(" ")}`;
      let plan = plans.get(key);
      if (plan === undefined) {
        if (plans.size >= PLANS) dropPlans();
        plan = planFor(product, bias);
        plans.set(key, plan);
      }
      if (!plan) return false;
      const { description, layouts, algorithm } = plan;
      describe(description, matmulAttribute.BIAS_POINTER, bias, 8);
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
    close,
  };
}

/** Whether an operand is aligned as the products with a bias ask for: address and every row. */
export function widelyAligned(address: number, strideBytes: number): boolean {
  return address % WIDEST_ALIGNMENT === 0 && strideBytes % WIDEST_ALIGNMENT === 0;
}
