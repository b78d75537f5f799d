/**
 * The LM head on a chunk of rows: a product into float32 logits, then ffi/cuda/log_softmax.cu. Backward multiplies the
 * logits' gradient in the weight's type.
 */
import { bytesPerElement } from "../../../tensor/dtype.ts";
import { tensor } from "../../../tensor/tensor.ts";
import type { Ops } from "../../device.ts";
import { dim } from "../../operands.ts";
import type { CudaRuntime, ScratchBound } from "../runtime.ts";
import { logSoftmaxBackward, logSoftmaxForward } from "./log-softmax.ts";

type Products = Pick<Ops, "matmulForward" | "matmulBackwardInput" | "matmulBackwardWeight">;

/** The slot for dlogits in bfloat16; the products with them convert their other operand in slot 1. */
const SLOT = 2;

/** Scratch (slot 2) for dlogits. */
export const lmHeadScratch: ScratchBound = ({ headRows, vocabSize }) =>
  bytesPerElement("bfloat16") * headRows * vocabSize;

export function lmHeadOps(runtime: CudaRuntime, products: Products): Pick<Ops, "lmHeadForward" | "lmHeadBackward"> {
  return {
    lmHeadForward(logprob, entropy, lse, logits, hidden, w, entryStart, targets, temperature) {
      products.matmulForward(logits, hidden, w, null);
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
    ) {
      if (again) products.matmulForward(logits, hidden, w, null);
      const [rows, vocabulary] = [dim(logits, 0), dim(logits, 1)];
      const bytes = bytesPerElement(w.dtype) * rows * vocabulary;
      const dlogits =
        w.dtype === "float32" ? logits : tensor("dlogits", runtime.scratch(SLOT, bytes), w.dtype, [rows, vocabulary]);
      const gradients = [dlogprob, dentropy] as const;
      logSoftmaxBackward(runtime, dlogits, logits, ...gradients, starts, targets, lse, entropy, temperature);
      products.matmulBackwardInput(dhidden, dlogits, w);
      if (dw) products.matmulBackwardWeight(dw, dlogits, hidden, w);
    },
  };
}
