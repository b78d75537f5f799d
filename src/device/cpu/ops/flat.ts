/**
 * Calls of ffi/cpu/adamw.cpp, the optimizer's step, and ffi/cpu/elementwise.cpp: flat float32 ops, type conversions, row gathers and scatters.
 */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import { elementCount, type Tensor } from "../../../tensor/tensor.ts";
import type { Ops, Weight } from "../../device.ts";
import { adamwScalars, dim, roundingScalars } from "../../operands.ts";
import { addressOf, typeCode } from "../operands.ts";

type FlatOp =
  | "adamw"
  | "adamw8bit"
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

/** What a parameter is, by the codes of ffi/cpu/adamw.cpp, and where the lower halves of its masters are. */
function mastersOf(w: Weight, master: Tensor | null): { readonly lower: number; readonly form: number } {
  if (w.dtype === "float32") return { lower: 0, form: 0 };
  return master === null ? { lower: 0, form: 2 } : { lower: master.address, form: 1 };
}

export function flatOps(kernels: Kernels): Pick<Ops, FlatOp> {
  return {
    adamw(w, master, m, v, g, settings) {
      const { lower, form } = mastersOf(w, master);
      const buffers = [w.address, lower, m.address, v.address, g.address];
      kernels.adamw(...buffers, w.elements, ...adamwScalars(settings), form, ...roundingScalars(settings));
    },
    adamw8bit(w, master, m, v, maps, g, settings) {
      const { lower, form } = mastersOf(w, master);
      const moments = [m.codes, m.absmax, v.codes, v.absmax].map(({ address }) => address);
      const buffers = [w.address, lower, ...moments, g.address, maps.numbers.address, maps.nearest.address];
      kernels.adamw_8bit(...buffers, w.elements, ...adamwScalars(settings), form, ...roundingScalars(settings));
    },
    addMasters: (y, w, master) => kernels.masters(y.address, w.address, addressOf(master), w.elements, 1),
    sumSquares: (sum, x) => kernels.sum_squares(sum.address, x.address, elementCount(x.shape)),
    scale: (x, factor) => kernels.scale(x.address, elementCount(x.shape), factor),
    softcapForward: (x, cap) => kernels.softcap_forward(x.address, elementCount(x.shape), cap),
    softcapBackward: (dx, y, cap) =>
      kernels.softcap_backward(dx.address, y.address, elementCount(dx.shape), cap, typeCode(dx)),
    add: (y, x) => kernels.add(y.address, x.address, elementCount(x.shape)),
    fill: (x, value) => kernels.fill(x.address, elementCount(x.shape), value),
    cast: (y, x) => kernels.cast(y.address, x.address, elementCount(x.shape), typeCode(y), typeCode(x)),
    gatherRows: (y, x, index) => kernels.gather_rows(y.address, x.address, index.address, dim(y, 0), dim(y, 1)),
    scatterRows: (dx, dy, index) =>
      kernels.scatter_rows(dx.address, dy.address, index.address, dim(dy, 0), dim(dx, 0), dim(dx, 1), typeCode(dy)),
  };
}
