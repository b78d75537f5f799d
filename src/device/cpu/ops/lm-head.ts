/**
 * The LM head on a chunk of rows: a product into logits, then ffi/cpu/log_softmax.cpp.
 */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import type { Ops } from "../../device.ts";
import { cappedGradient, dim, inverseTemperature } from "../../operands.ts";

type Products = Pick<
  Ops,
  "matmulForward" | "matmulBackwardInput" | "matmulBackwardWeight" | "softcapForward" | "softcapBackward"
>;

export function lmHeadOps(kernels: Kernels, products: Products): Pick<Ops, "lmHeadForward" | "lmHeadBackward"> {
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
      const dlogits = cap ? cappedGradient(cap, logits) : logits;
      const gradients = [dlogits, logits, dlogprob, dentropy];
      const buffers = [...gradients, starts, targets, lse, entropy].map((t) => t.address);
      kernels.log_softmax_backward(...buffers, dim(hidden, 0), dim(w, 0), inverseTemperature(temperature));
      if (cap) products.softcapBackward(dlogits, logits, cap.cap);
      products.matmulBackwardInput(dhidden, dlogits, w);
      if (dw) products.matmulBackwardWeight(dw, dlogits, hidden, w);
    },
  };
}
