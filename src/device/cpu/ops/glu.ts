/** Calls of ffi/cpu/glu.cpp. */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import type { Ops } from "../../device.ts";
import { dim } from "../../operands.ts";
import { addressOf, typeCode } from "../operands.ts";

export function gluOps(kernels: Kernels): Pick<Ops, "gluForward" | "gluBackward"> {
  return {
    gluForward(y, x, gelu) {
      kernels.glu_forward(y.address, x.address, dim(y, 0), dim(y, 1), gelu ? 1 : 0, typeCode(x));
    },
    gluBackward(dx, dy, x, gelu, y) {
      kernels.glu_backward(
        dx.address,
        addressOf(y),
        dy.address,
        x.address,
        dim(dy, 0),
        dim(dy, 1),
        gelu ? 1 : 0,
        typeCode(x),
        typeCode(dx),
      );
    },
  };
}
