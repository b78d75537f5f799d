/** Launches of ffi/cuda/embedding.cu. */
import type { Ops } from "../../device.ts";
import { dim, expectShape } from "../../operands.ts";
import { type CudaRuntime, type KernelDefinition, macroType } from "../runtime.ts";
import { ceilDiv, powerOfTwo, unitElements } from "../threads.ts";

const [NEXT_THREADS, FORWARD_THREADS, BACKWARD_THREADS] = [128, 256, 128];
const sizes = () => ({ NEXT_THREADS, FORWARD_THREADS, BACKWARD_THREADS });

export const embeddingKernels = {
  next: {
    file: "embedding.cu",
    name: "next_tokens",
    parameters: "tokens:ptr ids:ptr from:ptr B:i32",
    threads: NEXT_THREADS,
    sizes,
    variants: [{}],
  },
  forward: {
    file: "embedding.cu",
    name: "embedding_forward",
    parameters: "x:ptr ids:ptr w:ptr T:i32 D:i32 ldx:i32",
    threads: FORWARD_THREADS,
    sizes,
    variants: [{ W_TYPE: "float" }, { W_TYPE: "bf16" }],
  },
  backward: {
    file: "embedding.cu",
    name: "embedding_backward",
    parameters: "dw:ptr dx:ptr ids:ptr T:i32 D:i32 lddx:i32",
    threads: BACKWARD_THREADS,
    sizes,
    variants: [{ DX_TYPE: "float" }],
  },
} as const satisfies Record<string, KernelDefinition>;

type EmbeddingOp = "nextTokens" | "embeddingForward" | "embeddingBackward";

export function embeddingOps(runtime: CudaRuntime): Pick<Ops, EmbeddingOp> {
  return {
    nextTokens(tokens, ids, from) {
      const B = dim(tokens, 0);
      expectShape(dim(from, 0) === B, `${tokens.name}: ${tokens.shape} from ${from.shape}`);
      const kernel = runtime.kernel(embeddingKernels.next, {});
      const args = [tokens.address, ids.address, from.address, B];
      runtime.launch(kernel, [ceilDiv(B, NEXT_THREADS), 1, 1], NEXT_THREADS, 0, ...args);
    },
    embeddingForward(x, ids, w) {
      const [T, D] = [dim(x, 0), dim(w, 1)];
      expectShape(dim(x, 1) === D && dim(ids, 0) >= T, `${w.name}: ${x.shape} from ${w.shape}`);
      expectShape(x.dtype === "float32", `${w.name}: ${x.name} is not float32`);
      const across = powerOfTwo(ceilDiv(D, unitElements(x, w)), 1, FORWARD_THREADS);
      const down = FORWARD_THREADS / across;
      const kernel = runtime.kernel(embeddingKernels.forward, { W_TYPE: macroType(w.dtype) });
      const args = [x.address, ids.address, w.address, T, D, x.rowStride];
      runtime.launch(kernel, [ceilDiv(T, down), 1, 1], [across, down, 1], 0, ...args);
    },
    embeddingBackward(dw, dx, ids, w) {
      const [T, D] = [dim(dx, 0), dim(w, 1)];
      expectShape(dim(dx, 1) === D && dim(ids, 0) >= T, `${w.name}: ${w.shape} += ${dx.shape}`);
      expectShape(dw.dtype === "float32", `${w.name}: ${dw.name} is not float32`);
      const kernel = runtime.kernel(embeddingKernels.backward, { DX_TYPE: macroType(dx.dtype) });
      const args = [dw.address, dx.address, ids.address, T, D, dx.rowStride];
      runtime.launch(kernel, [T, ceilDiv(D, BACKWARD_THREADS * unitElements(dw, dx)), 1], BACKWARD_THREADS, 0, ...args);
    },
  };
}
