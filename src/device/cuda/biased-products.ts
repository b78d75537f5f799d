/**
 * Products with a bias added per column of a row-major result, by cuBLASLt's epilogue. Each shape is described to it once,
 * with the algorithm it chose; some it does not offer.
 */
import {
  CUBLAS_COMPUTE_32F,
  CUBLASLT_EPILOGUE_BIAS,
  CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE,
  CUDA_R_32F,
  type Cublas,
  heuristicResult,
  matmulAttribute,
  preferenceAttribute,
} from "../../../ffi/bindings/cublas.ts";
import { type NativeBlock, nativeBlock } from "../../../ffi/bindings/native.ts";
import type { ComputeDType } from "../../tensor/dtype.ts";
import type { DeviceMemory } from "../device.ts";
import type { KernelLauncher } from "./kernels.ts";
import { dataType, operation, type Product } from "./product.ts";

/** Plans of products with a bias that are kept; each is a few hundred bytes on the host. */
const PLANS = 512;
const WIDEST_ALIGNMENT = 16;

/** A product with a bias, as cuBLASLt wants it described, with the algorithm it chose. */
interface Plan {
  readonly description: number;
  readonly layouts: readonly number[];
  readonly algorithm: NativeBlock;
}

/** Whether an operand is aligned as the products with a bias ask for: address and every row. */
export function widelyAligned(address: number, strideBytes: number): boolean {
  return address % WIDEST_ALIGNMENT === 0 && strideBytes % WIDEST_ALIGNMENT === 0;
}

/** Where calls write, an attribute's value, and the factors of operands and of the result. */
const [OUT_AT, VALUE_AT, ONE_AT, ZERO_AT] = [0, 8, 16, 24];

export interface BiasedProducts {
  /** c = a · b + bias (m) on every column; false where there is no way, and nothing was done. */
  multiply(product: Product, bias: number): boolean;
  close(): void;
}

type Check = Cublas["check"];

/** Has cuBLASLt describe products and choose their algorithms, in a workspace of `workspaceBytes`. */
function planner(light: Cublas["light"], check: Check, handle: number, block: NativeBlock, workspaceBytes: number) {
  const out = block.address + OUT_AT;
  const made = () => block.u64(OUT_AT);
  const set = (symbol: "cublasLtMatmulDescSetAttribute" | "cublasLtMatmulPreferenceSetAttribute") => {
    return (of: number, attribute: number, value: number, size: 4 | 8) => {
      block.setU64(VALUE_AT, value);
      check(symbol, light[symbol](of, attribute, block.address + VALUE_AT, size));
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
      prefer(preference, MAX_WORKSPACE_BYTES, workspaceBytes, 8);
      prefer(preference, REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 4);
      for (const attribute of Object.values(alignments)) prefer(preference, attribute, WIDEST_ALIGNMENT, 4);
      const [A = 0, B = 0, C = 0] = layouts;
      const wanted = [handle, description, A, B, C, C, preference, 1] as const;
      const status = light.cublasLtMatmulAlgoGetHeuristic(...wanted, algorithm.address, out);
      // CUBLAS_STATUS_NOT_SUPPORTED, or no result: the product is computed another way
      kept = status === 0 && block.i32() > 0 && algorithm.i32(heuristicResult.statusAt) === 0;
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
  return { describe, planFor };
}

/** @throws NvidiaCallError where the library does not start */
export function openBiasedProducts(
  light: Cublas["light"],
  check: Check,
  workspace: DeviceMemory,
  stream: number,
  timed: KernelLauncher["timed"],
): BiasedProducts {
  const block = nativeBlock(64);
  block.view.setFloat32(ONE_AT, 1, true);
  block.view.setFloat32(ZERO_AT, 0, true);
  const [one, zero] = [block.address + ONE_AT, block.address + ZERO_AT];
  try {
    check("cublasLtCreate", light.cublasLtCreate(block.address + OUT_AT));
  } catch (error) {
    block.free();
    throw error;
  }
  const handle = block.u64(OUT_AT);
  const { describe, planFor } = planner(light, check, handle, block, workspace.byteLength);
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
  return {
    multiply(product, bias) {
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
      const operands = [one, a.address, A, b.address, B, accumulate ? one : zero, c.address, C, c.address, C] as const;
      const run = [algorithm.address, workspace.address, workspace.byteLength, stream] as const;
      timed("cublasLtMatmul", () => {
        check("cublasLtMatmul", light.cublasLtMatmul(handle, description, ...operands, ...run));
      });
      return true;
    },
    close() {
      dropPlans();
      light.cublasLtDestroy(handle);
      block.free();
    },
  };
}
