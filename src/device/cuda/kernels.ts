/**
 * Kernels of one GPU, compiled and loaded on first use. Launch parameters are in one block of native memory that lives
 * as long as the device; the driver copies them during the call, so the block can be reused afterwards.
 */
import type { Trace } from "../../../ffi/bindings/calls.ts";
import { CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES } from "../../../ffi/bindings/cuda.ts";
import { nativeBlock } from "../../../ffi/bindings/native.ts";
import type { KernelCompiler } from "./compile.ts";
import type { Gpu } from "./gpu.ts";
import type { CudaRuntime, Defines, Kernel, KernelDefinition } from "./runtime.ts";

/** Maximum number of launch parameters. */
const PARAMETERS = 40;
/** Bytes of dynamic shared memory that kernels may use without opting in. */
const DEFAULT_SHARED = 48 * 1024;

/** "map": a tensor map, 128 bytes passed by value; the argument is its address on the host. */
type ParameterType = "ptr" | "i32" | "u32" | "i64" | "f32" | "map";

interface LoadedKernel extends Kernel {
  readonly types: readonly ParameterType[];
  /** Bytes of dynamic shared memory opted in to so far. */
  shared: number;
}

/** "y:ptr T:i32" → ["ptr", "i32"]; a test compares the text with the compiled code. */
function parameterTypes({ name, parameters }: KernelDefinition): ParameterType[] {
  const types = parameters.split(" ").map((parameter) => parameter.split(":")[1] as ParameterType);
  if (types.length > PARAMETERS) throw new Error(`${name}: more than ${PARAMETERS} parameters`);
  return types;
}

export type KernelLauncher = Pick<CudaRuntime, "kernel" | "launch"> & {
  /** Runs `work`, which queues something; with tracing, waits for it and counts it under `name`. */
  timed(name: string, work: () => void): void;
  close(): void;
};

/** @param trace counts launches by kernel, waiting for each to measure its own seconds */
export function openKernels(gpu: Gpu, compiler: KernelCompiler, trace: Trace | null): KernelLauncher {
  const { calls, out } = gpu.driver;
  const { sharedMemory } = gpu.limits;
  const modules = new Map<string, number>();
  const loaded = new Map<KernelDefinition, Map<string, LoadedKernel>>();

  const block = nativeBlock(16 * PARAMETERS);
  const values = 8 * PARAMETERS; // after the pointers to them
  const [ints, floats] = [new Int32Array(block.view.buffer), new Float32Array(block.view.buffer)];

  const module = ({ file, sizes, only }: KernelDefinition, variant: Defines, key: string): number => {
    const known = modules.get(`${file} ${key}`);
    if (known !== undefined) return known;
    gpu.outsideCapture(`${file}: loading`);
    const code = compiler.module(file, { ...variant, ...sizes(variant) }, only !== undefined);
    const image = nativeBlock(code.length + 1); // an image that is text ends with a NUL
    try {
      new Uint8Array(image.view.buffer).set(code);
      gpu.check("cuModuleLoadData", calls.cuModuleLoadData(out.address, image.address), `${file} ${key}`);
      const handle = out.u64();
      modules.set(`${file} ${key}`, handle);
      return handle;
    } finally {
      image.free();
    }
  };

  const load = (definition: KernelDefinition, variant: Defines, key: string): LoadedKernel => {
    const handle = module(definition, variant, key);
    const name = out.setText(8, definition.name);
    gpu.check("cuModuleGetFunction", calls.cuModuleGetFunction(out.address, handle, name), definition.name);
    return { definition, function: out.u64(), types: parameterTypes(definition), shared: DEFAULT_SHARED };
  };

  const write = (types: readonly ParameterType[], args: readonly number[]): void => {
    for (let i = 0; i < types.length; i++) {
      const value = args[i]!;
      block.setU64(8 * i, types[i] === "map" ? value : block.address + values + 8 * i);
      const at = (values >> 2) + 2 * i;
      if (types[i] === "f32") floats[at] = value;
      else {
        ints[at] = value; // modulo 2³²
        ints[at + 1] = Math.floor(value / 2 ** 32);
      }
    }
  };

  const optIn = (kernel: LoadedKernel, bytes: number): void => {
    if (bytes > sharedMemory)
      throw new RangeError(`${kernel.definition.name}: ${bytes} bytes of shared memory, the GPU has ${sharedMemory}`);
    const attribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    gpu.check(
      "cuFuncSetAttribute",
      calls.cuFuncSetAttribute(kernel.function, attribute, bytes),
      kernel.definition.name,
    );
    kernel.shared = bytes;
  };

  const timed = (name: string, work: () => void): void => {
    if (!trace || gpu.capturing) {
      work();
      return;
    }
    const entry = trace.get(name) ?? { calls: 0, seconds: 0 };
    trace.set(name, entry);
    const start = performance.now();
    work();
    gpu.synchronize();
    entry.calls++;
    entry.seconds += (performance.now() - start) / 1000;
  };

  return {
    timed,
    kernel(definition, variant) {
      let key = "";
      for (const name in variant) key += `${name}=${variant[name]} `;
      const variants = loaded.get(definition) ?? new Map<string, LoadedKernel>();
      const known = variants.get(key);
      if (known) return known;
      const kernel = load(definition, variant, key);
      loaded.set(definition, variants.set(key, kernel));
      return kernel;
    },
    launch(kernel, grid, threads, sharedBytes, ...args) {
      const [gridX, gridY, gridZ] = grid;
      if (gridX === 0 || gridY === 0 || gridZ === 0) return;
      const { definition, types, shared } = kernel as LoadedKernel;
      if (args.length !== types.length)
        throw new Error(`${definition.name}: ${args.length} arguments for ${types.length} parameters`);
      if (sharedBytes > shared) optIn(kernel as LoadedKernel, sharedBytes);
      write(types, args);
      const [x, y, z] = typeof threads === "number" ? [threads, 1, 1] : threads;
      timed(definition.name, () => {
        const handles = [gpu.stream, block.address, 0] as const;
        const status = calls.cuLaunchKernel(kernel.function, gridX, gridY, gridZ, x, y, z, sharedBytes, ...handles);
        if (status !== 0) gpu.check("cuLaunchKernel", status, definition.name);
      });
    },
    close() {
      for (const handle of modules.values()) gpu.release("cuModuleUnload", handle);
      modules.clear();
      loaded.clear();
      block.free();
    },
  };
}
