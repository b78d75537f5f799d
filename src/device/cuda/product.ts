/** A product as cuBLAS and cuBLASLt are told of it. */
import { CUBLAS_OP_N, CUBLAS_OP_T, CUDA_R_16BF, CUDA_R_32F } from "../../../ffi/bindings/cublas.ts";
import type { ComputeDType } from "../../tensor/dtype.ts";

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

export function dataType(dtype: ComputeDType): number {
  return dtype === "float32" ? CUDA_R_32F : CUDA_R_16BF;
}

export const operation = ({ transposed }: ColumnMajor) => (transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
