/** Launches of ffi/cuda/adamw.cu. */
import type { Ops } from "../../device.ts";
import { ceilDiv } from "../operands.ts";
import { type CudaRuntime, type KernelDefinition, macroType } from "../runtime.ts";

const THREADS = 256;
/** Elements of a thread at a time, and blocks that a multiprocessor holds at once. */
const [UNIT, RESIDENT] = [4, 4];

export const adamwKernels = {
  adamw: {
    file: "adamw.cu",
    name: "adamw",
    parameters:
      "p:ptr master:ptr m:ptr v:ptr g:ptr n:i64 lr:f32 beta1:f32 beta2:f32 eps:f32 weight_decay:f32 correction1:f32 correction2:f32 grad_scale:f32",
    threads: THREADS,
    variants: [{ W_TYPE: "float" }, { W_TYPE: "bf16" }],
  },
} as const satisfies Record<string, KernelDefinition>;

export function adamwOps(runtime: CudaRuntime): Pick<Ops, "adamw"> {
  return {
    adamw(w, master, m, v, g, settings) {
      // The corrections are of the betas that the kernel works with: 1 − 0.999 differs by 1e-5 in float32.
      const [beta1, beta2, step] = [Math.fround(settings.beta1), Math.fround(settings.beta2), settings.step];
      const kernel = runtime.kernel(adamwKernels.adamw, { W_TYPE: macroType(w.dtype) });
      const blocks = Math.min(ceilDiv(w.elements, THREADS * UNIT), runtime.limits.multiprocessors * RESIDENT);
      runtime.launch(
        kernel,
        [blocks, 1, 1],
        THREADS,
        0,
        w.address,
        master.address,
        m.address,
        v.address,
        g.address,
        w.elements,
        settings.learningRate,
        beta1,
        beta2,
        settings.epsilon,
        settings.weightDecay,
        1 - beta1 ** step,
        1 - beta2 ** step,
        settings.gradientScale,
      );
    },
  };
}
