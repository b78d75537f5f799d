/** Launches of ffi/cuda/adamw.cu: the optimizer's step in each form, and parameters as their own masters. */
import type { Tensor } from "../../../tensor/tensor.ts";
import type { Ops, Weight } from "../../device.ts";
import { adamwScalars, roundingScalars } from "../../operands.ts";
import { type CudaRuntime, type Defines, type KernelDefinition, macroType } from "../runtime.ts";
import { ceilDiv } from "../threads.ts";

const THREADS = 256;
/** Elements per thread and iteration, and resident blocks per multiprocessor. */
const [UNIT, RESIDENT] = [4, 4];
/** The same with moments in 8 bits. */
const UNIT_8BIT = 8;

const scalars =
  "n:i64 lr:f32 beta1:f32 beta2:f32 eps:f32 weight_decay:f32 correction1:f32 correction2:f32 grad_scale:f32 seed:u32 stream:u32 step:u32 parameter:u32 first_element:i64";
/** A float32 parameter, one with float32 masters, and one that is rounded at random. */
const variants: readonly Defines[] = [
  { W_TYPE: "float", ROUNDED: 0 },
  { W_TYPE: "bf16", ROUNDED: 0 },
  { W_TYPE: "bf16", ROUNDED: 1 },
];

export const adamwKernels = {
  adamw: {
    file: "adamw.cu",
    name: "adamw",
    parameters: `p:ptr master:ptr m:ptr v:ptr g:ptr ${scalars}`,
    threads: THREADS,
    sizes: () => ({ THREADS, UNIT }),
    variants,
  },
  addParameter: {
    file: "adamw.cu",
    name: "add_parameter",
    parameters: "y:ptr p:ptr n:i64",
    threads: THREADS,
    sizes: () => ({ THREADS, UNIT }),
    variants,
  },
  adamw8bit: {
    file: "adamw.cu",
    name: "adamw_8bit",
    parameters: `p:ptr master:ptr m:ptr m_absmax:ptr v:ptr v_absmax:ptr g:ptr maps:ptr nearest:ptr ${scalars}`,
    threads: THREADS,
    sizes: () => ({ THREADS, UNIT }),
    variants,
  },
} as const satisfies Record<string, KernelDefinition>;

export function adamwOps(runtime: CudaRuntime, addTo: Ops["add"]): Pick<Ops, "adamw" | "adamw8bit" | "addMasters"> {
  const launch = (
    definition: KernelDefinition,
    unit: number,
    w: Weight,
    master: Tensor | null,
    buffers: readonly Tensor[],
    rest: readonly number[],
  ) => {
    const variant = { W_TYPE: macroType(w.dtype), ROUNDED: master === null ? 1 : 0 };
    const blocks = Math.min(ceilDiv(w.elements, THREADS * unit), runtime.limits.multiprocessors * RESIDENT);
    const addresses = buffers.map(({ address }) => address);
    const args = [w.address, master?.address ?? 0, ...addresses, w.elements, ...rest];
    runtime.launch(runtime.kernel(definition, variant), [blocks, 1, 1], THREADS, 0, ...args);
  };
  return {
    addMasters(y, w, master) {
      if (master) return addTo(y, master);
      const kernel = runtime.kernel(adamwKernels.addParameter, { W_TYPE: macroType(w.dtype), ROUNDED: 1 });
      const blocks = Math.min(ceilDiv(w.elements, THREADS * UNIT), runtime.limits.multiprocessors * RESIDENT);
      runtime.launch(kernel, [blocks, 1, 1], THREADS, 0, y.address, w.address, w.elements);
    },
    adamw(w, master, m, v, g, settings) {
      const rest = [...adamwScalars(settings), ...roundingScalars(settings)];
      launch(adamwKernels.adamw, UNIT, w, master, [m, v, g], rest);
    },
    adamw8bit(w, master, m, v, maps, g, settings) {
      const buffers = [m.codes, m.absmax, v.codes, v.absmax, g, maps.numbers, maps.nearest];
      const rest = [...adamwScalars(settings), ...roundingScalars(settings)];
      launch(adamwKernels.adamw8bit, UNIT_8BIT, w, master, buffers, rest);
    },
  };
}
