/** Calls of ffi/cpu/matmul.cpp: products with a weight. */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import { columns } from "../../../tensor/tensor.ts";
import type { Device, Ops } from "../../device.ts";
import { backwardInputSizes, backwardWeightSizes, dim, expectShape, forwardSizes } from "../../operands.ts";
import { addressOf, typeCode, weightCode } from "../operands.ts";
import { openTermTables } from "../terms.ts";

type MatmulOp = "matmulForward" | "adaptedForward" | "matmulBackwardInput" | "matmulBackwardWeight" | "biasBackward";

export function matmulOps(kernels: Kernels, { rowBlock }: Pick<Device, "rowBlock">): Pick<Ops, MatmulOp> {
  const tables = openTermTables();
  return {
    matmulForward(y, x, w, bias, accumulate = false, factor = 1) {
      const sizes = forwardSizes(y, x, w);
      const buffers = [y.address, x.address, w.address, addressOf(bias)];
      const types = [typeCode(y), typeCode(x), weightCode(w)];
      const strides = [y.rowStride, x.rowStride];
      kernels.matmul_forward(...buffers, ...sizes, ...strides, ...types, accumulate ? 1 : 0, factor);
    },
    adaptedForward(y, x, w, bias, terms, accumulate = false) {
      const sizes = forwardSizes(y, x, w);
      for (const { down, b, from } of terms) {
        expectShape(from % rowBlock === 0, `${b.name}: begins at column ${from}, not at a multiple of ${rowBlock}`);
        forwardSizes(columns(y, from, dim(b, 0)), down, b);
      }
      const buffers = [y.address, x.address, w.address, addressOf(bias), tables.of(terms)];
      const types = [typeCode(y), typeCode(x), weightCode(w)];
      const strides = [y.rowStride, x.rowStride];
      kernels.adapted_forward(...buffers, terms.length, ...sizes, ...strides, ...types, accumulate ? 1 : 0);
    },
    matmulBackwardInput(dx, dy, w, accumulate = false, factor = 1) {
      const sizes = backwardInputSizes(dx, dy, w);
      const buffers = [dx.address, dy.address, w.address];
      const types = [typeCode(dx), typeCode(dy), weightCode(w)];
      const strides = [dx.rowStride, dy.rowStride];
      kernels.matmul_backward_input(...buffers, ...sizes, ...strides, ...types, accumulate ? 1 : 0, factor);
    },
    matmulBackwardWeight(dw, dy, x, w) {
      const sizes = backwardWeightSizes(dy, x, w);
      const buffers = [dw.address, dy.address, x.address];
      kernels.matmul_backward_weight(...buffers, ...sizes, dy.rowStride, x.rowStride, typeCode(dy), typeCode(x));
    },
    biasBackward(dbias, dy) {
      kernels.bias_backward(dbias.address, dy.address, dim(dy, 0), dim(dy, 1), dy.rowStride, typeCode(dy));
    },
  };
}
