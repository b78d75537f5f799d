/**
 * Calls of ffi/cpu/elementwise.cpp: the optimizer's step, flat float32 ops, type conversions, row gathers and scatters.
 */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import { elementCount } from "../../../tensor/tensor.ts";
import type { Ops } from "../../device.ts";
import { adamwScalars, dim } from "../../operands.ts";
import { typeCode } from "../operands.ts";

type FlatOp =
  | "adamw"
  | "addMasters"
  | "sumSquares"
  | "scale"
  | "softcapForward"
  | "softcapBackward"
  | "add"
  | "fill"
  | "cast"
  | "gatherRows"
  | "scatterRows";

export function flatOps(kernels: Kernels): Pick<Ops, FlatOp> {
  return {
    adamw(w, master, m, v, g, settings) {
      const buffers = [w.address, w.dtype === "float32" ? 0 : master.address, m.address, v.address, g.address];
      kernels.adamw(...buffers, w.elements, ...adamwScalars(settings), typeCode(w));
    },
    addMasters: (y, w, master) => kernels.masters(y.address, w.address, master.address, w.elements, 1),
    sumSquares: (sum, x) => kernels.sum_squares(sum.address, x.address, elementCount(x.shape)),
    scale: (x, factor) => kernels.scale(x.address, elementCount(x.shape), factor),
    softcapForward: (x, cap) => kernels.softcap_forward(x.address, elementCount(x.shape), cap),
    softcapBackward: (dx, y, cap) => kernels.softcap_backward(dx.address, y.address, elementCount(dx.shape), cap),
    add: (y, x) => kernels.add(y.address, x.address, elementCount(x.shape)),
    fill: (x, value) => kernels.fill(x.address, elementCount(x.shape), value),
    cast: (y, x) => kernels.cast(y.address, x.address, elementCount(x.shape), typeCode(y), typeCode(x)),
    gatherRows: (y, x, index) => kernels.gather_rows(y.address, x.address, index.address, dim(y, 0), dim(y, 1)),
    scatterRows: (dx, dy, index) =>
      kernels.scatter_rows(dx.address, dy.address, index.address, dim(dy, 0), dim(dx, 0), dim(dx, 1)),
  };
}
