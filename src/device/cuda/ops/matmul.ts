/**
 * Products with a weight, by cuBLAS. It is column-major, so a row-major matrix is read as its transpose: y = x · wᵀ
 * becomes yᵀ = w · xᵀ, with row strides as leading dimensions.
 *
 * cuBLAS multiplies operands of the same type, so an operand whose type differs from the weight's is first converted
 * into scratch. The result has the operands' type or is float32; other results are computed in float32 scratch and
 * converted.
 */
import { bytesPerElement, type ComputeDType } from "../../../tensor/dtype.ts";
import { columns, type Tensor, tensor } from "../../../tensor/tensor.ts";
import type { Ops, Weight } from "../../device.ts";
import { backwardInputSizes, backwardWeightSizes, dim, expectShape, forwardSizes } from "../../operands.ts";
import { type ColumnMajor, widelyAligned } from "../product-plans.ts";
import type { Products } from "../products.ts";
import type { CudaRuntime, ScratchBound } from "../runtime.ts";
import { addBias } from "./bias.ts";
import { castRows } from "./flat.ts";
import { decoded } from "./nf4.ts";

type MatmulOp = "matmulForward" | "adaptedForward" | "matmulBackwardInput" | "matmulBackwardWeight";

/** Scratch (slots 1 and 2) for a converted operand: the gradient of the residual stream, or the head's rows. */
export const matmulScratch: ScratchBound = ({ tokens, headRows, hiddenSize }) =>
  4 * Math.max(tokens, headRows) * hiddenSize;

function computeType({ name, dtype }: Tensor): ComputeDType {
  expectShape(dtype === "float32" || dtype === "bfloat16", `${name}: products do not take ${dtype}`);
  return dtype as ComputeDType;
}

/** A row-major matrix as cuBLAS reads it. */
function columnMajor(t: Tensor, transposed = false): ColumnMajor {
  return { address: t.address, dtype: computeType(t), stride: Math.max(1, t.rowStride), transposed };
}

function matrixOf(runtime: CudaRuntime, w: Weight): Tensor {
  return w.quantized ? decoded(runtime, w) : tensor(w.name, w.address, w.dtype, w.shape);
}

function widely({ address, rowStride, dtype }: Tensor): boolean {
  return widelyAligned(address, rowStride * bytesPerElement(dtype));
}

export function matmulOps(runtime: CudaRuntime, products: Products): Pick<Ops, MatmulOp> {
  /** `t` in `dtype`: itself, or a copy in a slot of scratch. */
  const as = (dtype: ComputeDType, t: Tensor, slot: 0 | 1 | 2): Tensor => {
    if (t.dtype === dtype) return t;
    const shape = [dim(t, 0), dim(t, 1)];
    const copy = tensor(t.name, runtime.scratch(slot, dim(t, 0) * dim(t, 1) * bytesPerElement(dtype)), dtype, shape);
    castRows(runtime, copy, t);
    return copy;
  };

  /** Runs `work` on y, or on float32 scratch if cuBLAS cannot write y's type or would round twice. */
  const into = (y: Tensor, direct: boolean, accumulate: boolean, work: (y: Tensor) => void): void => {
    if (direct) {
      work(y);
      return;
    }
    const shape = [dim(y, 0), dim(y, 1)];
    const wide = tensor(y.name, runtime.scratch(0, 4 * dim(y, 0) * dim(y, 1)), "float32", shape);
    if (accumulate) castRows(runtime, wide, y);
    work(wide);
    castRows(runtime, y, wide);
  };

  const ops: Pick<Ops, MatmulOp> = {
    matmulForward(y, x, w, bias, accumulate = false, factor = 1) {
      const [m, n, k] = forwardSizes(y, x, w);
      if (m === 0 || n === 0) return;
      const left = as(w.dtype, x, 1);
      const matrix = matrixOf(runtime, w);
      const product = (to: Tensor, add: boolean) => {
        const [a, b] = [columnMajor(matrix, true), columnMajor(left)];
        return { m: n, n: m, k, a, b, c: columnMajor(to), accumulate: add, factor };
      };
      const writes = y.dtype === "float32" || w.dtype === "bfloat16";
      if (bias === null) {
        into(y, writes, accumulate, (to) => products.multiply(product(to, accumulate)));
        return;
      }
      // The epilogue needs a bias of the result's type, and operands with aligned rows.
      const epilogue = bias.dtype === y.dtype && bias.address % 16 === 0 && k > 0 && factor === 1;
      const aligned = [y, left, matrix].every(widely);
      if (writes && epilogue && aligned && products.multiplyWithBias(product(y, accumulate), bias.address)) return;
      // A bfloat16 result that can represent its bias is rounded only once, at the end of the product.
      const exact = y.dtype === "float32" || (bias.dtype === "bfloat16" && !accumulate);
      into(y, writes && exact, accumulate, (to) => {
        addBias(runtime, to, bias, accumulate);
        products.multiply(product(to, true));
      });
    },
    adaptedForward(y, x, w, bias, terms, accumulate = false) {
      ops.matmulForward(y, x, w, bias, accumulate);
      for (const { down, b, from } of terms) ops.matmulForward(columns(y, from, dim(b, 0)), down, b, null, true);
    },
    matmulBackwardInput(dx, dy, w, accumulate = false, factor = 1) {
      const [m, n, k] = backwardInputSizes(dx, dy, w);
      if (m === 0 || k === 0) return;
      const [a, b] = [columnMajor(matrixOf(runtime, w)), columnMajor(as(w.dtype, dy, 1))];
      const writes = dx.dtype === "float32" || w.dtype === "bfloat16";
      into(dx, writes, accumulate, (to) =>
        products.multiply({ m: k, n: m, k: n, a, b, c: columnMajor(to), accumulate, factor }),
      );
    },
    matmulBackwardWeight(dw, dy, x, w) {
      const [m, n, k] = backwardWeightSizes(dy, x, w);
      expectShape(dw.dtype === "float32", `${w.name}: ${dw.name} is not float32`);
      if (m === 0 || n === 0 || k === 0) return;
      // Two bfloat16 operands need no conversion, whatever the weight's type.
      const type = x.dtype === "bfloat16" && dy.dtype === "bfloat16" ? "bfloat16" : w.dtype;
      const [a, b] = [columnMajor(as(type, x, 1)), columnMajor(as(type, dy, 2), true)];
      const c = { address: dw.address, dtype: "float32", stride: k } as const;
      products.multiply({ m: k, n, k: m, a, b, c, accumulate: true });
    },
  };
  return ops;
}
