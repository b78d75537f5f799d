/**
 * Copies parameters to and from row-major memory. Matrices are packed into the kernels' layout, which depends
 * on the type of the parameter; the rest is converted.
 */
import type { Kernels } from "../../../ffi/bindings/cpu.ts";
import { bytesPerElement } from "../../tensor/dtype.ts";
import type { Device, Weight } from "../device.ts";
import { dim } from "../operands.ts";
import { typeCode } from "./operands.ts";

const layoutCode = (w: Weight) => typeCode({ dtype: w.layoutOf ?? w.dtype });

export function openParameters(kernels: Kernels): Pick<Device, "loadParameter" | "saveParameter"> {
  return {
    loadParameter(w, address, dtype, from, count) {
      const types = [typeCode(w), typeCode({ dtype })] as const;
      if (w.shape.length === 2) {
        kernels.weight_pack(w.address, address, from, count, dim(w, 0), dim(w, 1), ...types, layoutCode(w));
      } else {
        kernels.cast(w.address + from * bytesPerElement(w.dtype), address, count, ...types);
      }
    },
    saveParameter(address, dtype, w, from, count) {
      const types = [typeCode({ dtype }), typeCode(w)] as const;
      if (w.shape.length === 2) {
        kernels.weight_unpack(address, w.address, from, count, dim(w, 1), ...types, layoutCode(w));
      } else {
        kernels.cast(address, w.address + from * bytesPerElement(w.dtype), count, ...types);
      }
    },
  };
}
