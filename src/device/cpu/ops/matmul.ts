/** Calls of ffi/cpu/matmul.cpp: products with a weight. */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import type { Ops } from "../../device.ts";
import { backwardInputSizes, backwardWeightSizes, dim, forwardSizes } from "../../operands.ts";
import { addressOf, typeCode } from "../operands.ts";

type MatmulOp = "matmulForward" | "matmulBackwardInput" | "matmulBackwardWeight" | "biasBackward";

export function matmulOps(kernels: Kernels): Pick<Ops, MatmulOp> {
  return {
    matmulForward(y, x, w, bias, accumulate = false) {
      const sizes = forwardSizes(y, x, w);
      const buffers = [y.address, x.address, w.address, addressOf(bias)];
      const types = [typeCode(y), typeCode(x), typeCode(w)];
      kernels.matmul_forward(...buffers, ...sizes, y.rowStride, x.rowStride, ...types, accumulate ? 1 : 0);
    },
    matmulBackwardInput(dx, dy, w, accumulate = false) {
      const sizes = backwardInputSizes(dx, dy, w);
      const buffers = [dx.address, dy.address, w.address];
      const types = [typeCode(dx), typeCode(dy), typeCode(w)];
      kernels.matmul_backward_input(...buffers, ...sizes, dx.rowStride, dy.rowStride, ...types, accumulate ? 1 : 0);
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
