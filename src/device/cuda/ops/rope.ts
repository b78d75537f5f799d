/** Launches of ffi/cuda/rope.cu. */
import type { Tensor } from "../../../tensor/tensor.ts";
import type { Ops } from "../../device.ts";
import { dim, expectShape } from "../../operands.ts";
import { type CudaRuntime, type KernelDefinition, macroType } from "../runtime.ts";
import { ceilDiv, powerOfTwo, unitElements } from "../threads.ts";

const THREADS = 256;
const variants = [{ X_TYPE: "float" }, { X_TYPE: "bf16" }] as const;

export const ropeKernels = {
  forward: {
    file: "rope.cu",
    name: "rope_forward",
    parameters: "x:ptr positions:ptr cos:ptr sin:ptr T:i32 H:i32 Dh:i32 ldx:i32",
    threads: THREADS,
    sizes: () => ({ THREADS }),
    variants,
  },
  backward: {
    file: "rope.cu",
    name: "rope_backward",
    parameters: "dx:ptr positions:ptr cos:ptr sin:ptr T:i32 H:i32 Dh:i32 lddx:i32",
    threads: THREADS,
    sizes: () => ({ THREADS }),
    variants,
  },
} as const satisfies Record<string, KernelDefinition>;

export function ropeOps(runtime: CudaRuntime): Pick<Ops, "ropeForward" | "ropeBackward"> {
  const launch = (definition: KernelDefinition) => {
    return (x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, headDim: number) => {
      const [T, H] = [dim(x, 0), dim(x, 1) / headDim];
      expectShape(Number.isInteger(H) && headDim % 2 === 0, `${definition.name}: ${x.shape} in heads of ${headDim}`);
      const across = powerOfTwo(H * ceilDiv(headDim / 2, unitElements(x)), 1, THREADS);
      const down = THREADS / across;
      const kernel = runtime.kernel(definition, { X_TYPE: macroType(x.dtype) });
      const args = [x.address, positions.address, cos.address, sin.address, T, H, headDim, x.rowStride];
      runtime.launch(kernel, [ceilDiv(T, down), 1, 1], [across, down, 1], 0, ...args);
    };
  };
  return { ropeForward: launch(ropeKernels.forward), ropeBackward: launch(ropeKernels.backward) };
}
