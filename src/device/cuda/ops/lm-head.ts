/**
 * The LM head on a chunk of rows: a product into float32 logits, then ffi/cuda/log_softmax.cu. Backward multiplies the
 * logits' gradient in the weight's type.
 */
import { bytesPerElement } from "../../../tensor/dtype.ts";
import { tensor } from "../../../tensor/tensor.ts";
import type { Ops } from "../../device.ts";
import { cappedGradient, dim } from "../../operands.ts";
import type { CudaRuntime, ScratchBound } from "../runtime.ts";
import { logSoftmaxBackward, logSoftmaxForward } from "./log-softmax.ts";

type Products = Pick<
  Ops,
  "matmulForward" | "matmulBackwardInput" | "matmulBackwardWeight" | "softcapForward" | "softcapBackward"
>;

/** The slot for dlogits in bfloat16; the products with them convert their other operand in slot 1. */
const SLOT = 2;

/** Scratch (slot 2) for dlogits. */
export const lmHeadScratch: ScratchBound = ({ headRows, vocabSize }) =>
  bytesPerElement("bfloat16") * headRows * vocabSize;

export function lmHeadOps(runtime: CudaRuntime, products: Products): Pick<Ops, "lmHeadForward" | "lmHeadBackward"> {
  return {
    lmHeadForward(logprob, entropy, lse, logits, hidden, w, entryStart, targets, temperature, cap = null) {
      products.matmulForward(logits, hidden, w, null);
      if (cap) products.softcapForward(logits, cap.cap);
      logSoftmaxForward(runtime, logprob, entropy, lse, logits, entryStart, targets, temperature);
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
      const [rows, vocabulary] = [dim(logits, 0), dim(logits, 1)];
      const bytes = bytesPerElement(w.dtype) * rows * vocabulary;
      const own = cap ? cappedGradient(cap, logits) : logits;
      const dlogits =
        w.dtype === "float32" ? own : tensor("dlogits", runtime.scratch(SLOT, bytes), w.dtype, [rows, vocabulary]);
      const gradients = [dlogprob, dentropy] as const;
      logSoftmaxBackward(runtime, dlogits, logits, ...gradients, starts, targets, lse, entropy, temperature);
      if (cap) products.softcapBackward(dlogits, logits, cap.cap);
      products.matmulBackwardInput(dhidden, dlogits, w);
      if (dw) products.matmulBackwardWeight(dw, dlogits, hidden, w);
    },
  };
}
