/** Calls of ffi/cpu/rope.cpp. */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import type { Tensor } from "../../../tensor/tensor.ts";
import type { Ops } from "../../device.ts";
import { dim } from "../../operands.ts";
import { typeCode } from "../operands.ts";

export function ropeOps(kernels: Kernels): Pick<Ops, "ropeForward" | "ropeBackward"> {
  const args = (x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, headDim: number) => {
    const buffers = [x.address, positions.address, cos.address, sin.address];
    return [...buffers, dim(x, 0), dim(x, 1) / headDim, headDim, x.rowStride];
  };
  return {
    ropeForward(x, positions, cos, sin, headDim) {
      kernels.rope_forward(...args(x, positions, cos, sin, headDim), typeCode(x));
    },
    ropeBackward(dx, positions, cos, sin, headDim) {
      kernels.rope_backward(...args(dx, positions, cos, sin, headDim), typeCode(dx));
    },
  };
}
