/** Calls of ffi/cpu/rmsnorm.cpp. */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import type { Ops } from "../../device.ts";
import { expectShape, normSizes } from "../../operands.ts";
import { addressOf, typeCode } from "../operands.ts";

export function rmsnormOps(kernels: Kernels): Pick<Ops, "rmsnormForward" | "rmsnormBackward"> {
  return {
    rmsnormForward(y, rstd, x, weight, epsilon, heads = 1) {
      const [T, D] = normSizes(y, x, weight, heads);
      const buffers = [y.address, addressOf(rstd), x.address, weight.address];
      const types = [typeCode(y), typeCode(x), typeCode(weight)];
      kernels.rmsnorm_forward(...buffers, T, heads, D, y.rowStride, x.rowStride, epsilon, weight.offset ?? 0, ...types);
    },
    rmsnormBackward(dx, dweight, dy, x, weight, rstd, dresidual, heads = 1) {
      const [T, D] = normSizes(dy, x, weight, heads);
      const strided = dresidual === null || dresidual.rowStride === dx.rowStride;
      expectShape(strided, `${weight.name}: dresidual and dx differ`);
      const operands = [dx, dweight, dy, x, weight, rstd].map(addressOf);
      const strides = [dx.rowStride, dy.rowStride, x.rowStride];
      const types = [typeCode(dx), typeCode(dy), typeCode(x), typeCode(weight)];
      kernels.rmsnorm_backward(
        ...operands,
        addressOf(dresidual),
        T,
        heads,
        D,
        ...strides,
        weight.offset ?? 0,
        ...types,
      );
    },
  };
}
