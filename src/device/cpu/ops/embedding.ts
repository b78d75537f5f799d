/** Calls of ffi/cpu/embedding.cpp. */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import type { Ops } from "../../device.ts";
import { dim } from "../../operands.ts";
import { typeCode } from "../operands.ts";

export function embeddingOps(kernels: Kernels): Pick<Ops, "nextTokens" | "embeddingForward" | "embeddingBackward"> {
  return {
    nextTokens: (tokens, ids, from) => kernels.next_tokens(tokens.address, ids.address, from.address, dim(tokens, 0)),
    embeddingForward(x, ids, w) {
      kernels.embedding_forward(x.address, ids.address, w.address, dim(x, 0), dim(w, 1), typeCode(w));
    },
    embeddingBackward(dw, dx, ids, w) {
      kernels.embedding_backward(dw.address, dx.address, ids.address, dim(dx, 0), dim(w, 1), typeCode(w));
    },
  };
}
