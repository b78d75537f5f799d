/**
 * Describes products, and plans those with a bias for cuBLASLt: a description and an algorithm, chosen once per shape.
 * products.ts runs them.
 */
import {
  CUBLAS_COMPUTE_32F,
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

/** A column-major operand; `transposed`: the product uses its transpose. */
export interface ColumnMajor {
  readonly address: number;
  readonly dtype: ComputeDType;
  /** Elements between the starts of two columns. */
  readonly stride: number;
  readonly transposed: boolean;
}

/** c (m, n) = a (m, k) · b (k, n), column-major. a and b have the same type; c has that type or is float32. */
export interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: ColumnMajor;
  readonly b: ColumnMajor;
  readonly c: Omit<ColumnMajor, "transposed">;
  /** c += … */
  readonly accumulate: boolean;
  /** Of the product; 1 by default, and with a bias. */
  readonly factor?: number;
}

/** Maximum number of cached plans; each takes a few hundred bytes on the host. */
const PLANS = 512;
const WIDEST_ALIGNMENT = 16;

/** cuBLASLt's description of a product with a bias, and the algorithm it chose. */
interface Plan {
  readonly description: number;
  readonly layouts: readonly number[];
  readonly algorithm: NativeBlock;
}

export function dataType(dtype: ComputeDType): number {
  return dtype === "float32" ? CUDA_R_32F : CUDA_R_16BF;
}

export const operation = ({ transposed }: ColumnMajor) => (transposed ? CUBLAS_OP_T : CUBLAS_OP_N);

interface PlanOptions {
  readonly light: Cublas["light"];
  /** cuBLASLt's. */
  readonly handle: number;
  readonly check: Cublas["check"];
  readonly workspaceBytes: number;
}

export interface ProductPlans {
  /** The plan for a product of this shape, with this bias (m); null if cuBLASLt offers no algorithm. */
  of(product: Product, bias: number): Plan | null;
  close(): void;
}

export function openPlans({ light, handle, check, workspaceBytes }: PlanOptions): ProductPlans {
  /** Holds the result of a call, and a value to set. */
  const block = nativeBlock(16);
  const out = block.address;
  const made = () => block.u64(0);
  const plans = new Map<string, Plan | null>();

  const set = (symbol: "cublasLtMatmulDescSetAttribute" | "cublasLtMatmulPreferenceSetAttribute") => {
    return (of: number, attribute: number, value: number, size: 4 | 8) => {
      block.setU64(8, value);
      check(symbol, light[symbol](of, attribute, block.address + 8, size));
    };
  };
  const describe = set("cublasLtMatmulDescSetAttribute");
  const prefer = set("cublasLtMatmulPreferenceSetAttribute");

  const layoutOf = (dtype: ComputeDType, rows: number, columns: number, stride: number): number => {
    const status = light.cublasLtMatrixLayoutCreate(out, dataType(dtype), rows, columns, stride);
    check("cublasLtMatrixLayoutCreate", status);
    return made();
  };

  /** Has cuBLASLt choose an algorithm for the product; null if it offers none. */
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
      const status = light.cublasLtMatmulAlgoGetHeuristic(
        handle,
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
      kept = status === 0 && block.i32(0) > 0 && algorithm.i32(heuristicResult.statusAt) === 0;
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

  const drop = () => {
    for (const plan of plans.values()) {
      if (!plan) continue;
      light.cublasLtMatmulDescDestroy(plan.description);
      for (const layout of plan.layouts) light.cublasLtMatrixLayoutDestroy(layout);
      plan.algorithm.free();
    }
    plans.clear();
  };

  return {
    of(product, bias) {
      const { m, n, k, a, b, c } = product;
      const sizes = [m, n, k, a.stride, b.stride, c.stride];
      const key = `${a.dtype} ${c.dtype} ${a.transposed} ${b.transposed} ${sizes.join(" ")}`;
      let plan = plans.get(key);
      if (plan === undefined) {
        if (plans.size >= PLANS) drop();
        plan = planFor(product, bias);
        plans.set(key, plan);
      }
      if (plan) describe(plan.description, matmulAttribute.BIAS_POINTER, bias, 8);
      return plan;
    },
    close() {
      drop();
      block.free();
    },
  };
}

/** Whether an operand's address and rows are aligned as products with a bias require. */
export function widelyAligned(address: number, strideBytes: number): boolean {
  return address % WIDEST_ALIGNMENT === 0 && strideBytes % WIDEST_ALIGNMENT === 0;
}
