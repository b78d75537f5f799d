/**
 * The LM head on a chunk of rows: a product into logits, then ffi/cpu/log_softmax.cpp.
 */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import { bytesPerElement } from "../../../tensor/dtype.ts";
import type { Tensor } from "../../../tensor/tensor.ts";
import type { Device, Ops } from "../../device.ts";
import { cappedGradient, dim, inverseTemperature } from "../../operands.ts";
import { typeCode } from "../operands.ts";

type Products = Pick<
  Ops,
  "matmulForward" | "matmulBackwardInput" | "matmulBackwardWeight" | "softcapForward" | "softcapBackward"
>;

/** The gradient of logits in their own place: each row begins where that of the logits does. */
function inPlace(logits: Tensor, dtype: Tensor["dtype"]): Tensor {
  const rowStride = (logits.rowStride * bytesPerElement(logits.dtype)) / bytesPerElement(dtype);
  return { ...logits, dtype, rowStride };
}

export function lmHeadOps(
  kernels: Kernels,
  products: Products,
  { gradientDType }: Pick<Device, "gradientDType">,
): Pick<Ops, "lmHeadForward" | "lmHeadBackward"> {
  return {
    lmHeadForward(logprob, entropy, lse, logits, hidden, w, entryStart, targets, temperature, cap = null) {
      products.matmulForward(logits, hidden, w, null);
      if (cap) products.softcapForward(logits, cap.cap);
      const buffers = [logprob, entropy, lse, logits, entryStart, targets].map((t) => t.address);
      kernels.log_softmax_forward(...buffers, dim(hidden, 0), dim(w, 0), inverseTemperature(temperature));
    },
    lmHeadBackward(
      dhidden,
      dw,
      logits,
      dlogprob,
      dentropy,
      hidden,
      w,
      starts,
      targets,
      lse,
      entropy,
      temperature,
      again,
      cap = null,
    ) {
      if (again) products.matmulForward(logits, hidden, w, null);
      if (again && cap) products.softcapForward(logits, cap.cap);
      const dlogits = cap ? cappedGradient(cap, logits) : inPlace(logits, gradientDType(w.dtype));
      const gradients = [dlogits, logits, dlogprob, dentropy];
      const buffers = [...gradients, starts, targets, lse, entropy].map((t) => t.address);
      const sizes = [dim(hidden, 0), dim(w, 0)];
      kernels.log_softmax_backward(...buffers, ...sizes, inverseTemperature(temperature), typeCode(dlogits));
      if (cap) products.softcapBackward(dlogits, logits, cap.cap);
      products.matmulBackwardInput(dhidden, dlogits, w);
      if (dw) products.matmulBackwardWeight(dw, dlogits, hidden, w);
    },
  };
}
