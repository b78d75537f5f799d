/** Launches of ffi/cuda/glu.cu. */
import type { Ops } from "../../device.ts";
import { dim, expectShape } from "../../operands.ts";
import { type CudaRuntime, type KernelDefinition, macroType } from "../runtime.ts";
import { ceilDiv, unitElements } from "../threads.ts";

const THREADS = 256;
/** Maximum rows of a grid; a block strides over more rows. */
const GRID_ROWS = 65535;

export const gluKernels = {
  forward: {
    file: "glu.cu",
    name: "glu_forward",
    parameters: "y:ptr x:ptr T:i32 F:i32 ldy:i32 ldx:i32 gelu:i32",
    threads: THREADS,
    sizes: () => ({ THREADS }),
    variants: ["float", "bf16"].map((type) => ({ Y_TYPE: type, X_TYPE: type })),
  },
  backward: {
    file: "glu.cu",
    name: "glu_backward",
    parameters: "dx:ptr y:ptr dy:ptr x:ptr T:i32 F:i32 lddx:i32 ldy:i32 lddy:i32 ldx:i32 gelu:i32",
    threads: THREADS,
    sizes: () => ({ THREADS }),
    variants: ["float", "bf16"].map((type) => ({ DX_TYPE: type, DY_TYPE: type, X_TYPE: type })),
  },
} as const satisfies Record<string, KernelDefinition>;

export function gluOps(runtime: CudaRuntime): Pick<Ops, "gluForward" | "gluBackward"> {
  return {
    gluForward(y, x, gelu) {
      const [T, F] = [dim(y, 0), dim(y, 1)];
      expectShape(dim(x, 0) === T && dim(x, 1) === 2 * F, `gluForward: ${y.shape} from ${x.shape}`);
      const kernel = runtime.kernel(gluKernels.forward, { Y_TYPE: macroType(y.dtype), X_TYPE: macroType(x.dtype) });
      const args = [y.address, x.address, T, F, y.rowStride, x.rowStride, gelu ? 1 : 0];
      const columns = ceilDiv(F, THREADS * unitElements(y, x));
      runtime.launch(kernel, [columns, Math.min(T, GRID_ROWS), 1], THREADS, 0, ...args);
    },
    gluBackward(dx, dy, x, gelu, y) {
      const [T, F] = [dim(dy, 0), dim(dy, 1)];
      expectShape(
        dim(x, 0) === T && dim(x, 1) === 2 * F && dim(dx, 1) === 2 * F,
        `gluBackward: ${dy.shape}, ${x.shape}`,
      );
      const kernel = runtime.kernel(gluKernels.backward, {
        DX_TYPE: macroType(dx.dtype),
        DY_TYPE: macroType(dy.dtype),
        X_TYPE: macroType(x.dtype),
      });
      const strides = [dx.rowStride, y?.rowStride ?? 0, dy.rowStride, x.rowStride];
      const args = [dx.address, y?.address ?? 0, dy.address, x.address, T, F, ...strides, gelu ? 1 : 0];
      const columns = ceilDiv(F, THREADS * unitElements(dx, dy, x));
      runtime.launch(kernel, [columns, Math.min(T, GRID_ROWS), 1], THREADS, 0, ...args);
    },
  };
}
