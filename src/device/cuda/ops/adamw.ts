/** Launches of ffi/cuda/adamw.cu. */
import type { Ops } from "../../device.ts";
import { adamwScalars } from "../../operands.ts";
import { type CudaRuntime, type KernelDefinition, macroType } from "../runtime.ts";
import { ceilDiv } from "../threads.ts";

const THREADS = 256;
/** Elements per thread and iteration, and resident blocks per multiprocessor. */
const [UNIT, RESIDENT] = [4, 4];

export const adamwKernels = {
  adamw: {
    file: "adamw.cu",
    name: "adamw",
    parameters:
      "p:ptr master:ptr m:ptr v:ptr g:ptr n:i64 lr:f32 beta1:f32 beta2:f32 eps:f32 weight_decay:f32 correction1:f32 correction2:f32 grad_scale:f32",
    threads: THREADS,
    sizes: () => ({ THREADS, UNIT }),
    variants: [{ W_TYPE: "float" }, { W_TYPE: "bf16" }],
  },
} as const satisfies Record<string, KernelDefinition>;

export function adamwOps(runtime: CudaRuntime): Pick<Ops, "adamw"> {
  return {
    adamw(w, master, m, v, g, settings) {
      const kernel = runtime.kernel(adamwKernels.adamw, { W_TYPE: macroType(w.dtype) });
      const blocks = Math.min(ceilDiv(w.elements, THREADS * UNIT), runtime.limits.multiprocessors * RESIDENT);
      const buffers = [w, master, m, v, g].map((t) => t.address);
      runtime.launch(kernel, [blocks, 1, 1], THREADS, 0, ...buffers, w.elements, ...adamwScalars(settings));
    },
  };
}
