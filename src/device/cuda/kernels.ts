/**
 * Kernels of one GPU, compiled and loaded on first use. Launch parameters are in one block of native memory that lives
 * as long as the device; the driver copies them during the call, so the block can be reused afterwards.
 */
import {
  type ArgumentType,
  argumentTypes,
  argumentWords,
  countedUnder,
  type Trace,
  writeArguments,
} from "../../../ffi/bindings/calls.ts";
import { CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES } from "../../../ffi/bindings/cuda.ts";
import { nativeBlock } from "../../../ffi/bindings/native.ts";
import type { KernelCompiler } from "./compile.ts";
import type { Gpu } from "./gpu.ts";
import type { CudaRuntime, Defines, Kernel, KernelDefinition } from "./runtime.ts";

/** Maximum number of launch parameters. */
const PARAMETERS = 40;
/** Bytes of dynamic shared memory that kernels may use without opting in. */
const DEFAULT_SHARED = 48 * 1024;

interface LoadedKernel extends Kernel {
  readonly types: readonly ArgumentType[];
  /** Places of tensor maps ("map"): 128 bytes passed by value, and the argument is their address on the host. */
  readonly maps: readonly number[];
  /** Bytes of dynamic shared memory opted in to so far. */
  shared: number;
}

/** A test compares the text with the compiled code. */
function parameterTypes({ name, parameters }: KernelDefinition): ArgumentType[] {
  const types = argumentTypes(parameters);
  if (types.length > PARAMETERS) throw new Error(`${name}: more than ${PARAMETERS} parameters`);
  return types;
}

function mapPlaces({ parameters }: KernelDefinition): number[] {
  return parameters.split(" ").flatMap((parameter, i) => (parameter.endsWith(":map") ? [i] : []));
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
  const values = PARAMETERS; // words after the pointers to them
  const words = argumentWords(block.view.buffer);
  for (let i = 0; i < PARAMETERS; i++) block.setU64(8 * i, block.address + 8 * (values + i));

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
    return {
      definition,
      function: out.u64(),
      types: parameterTypes(definition),
      maps: mapPlaces(definition),
      shared: DEFAULT_SHARED,
    };
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
    countedUnder(trace, name, () => {
      work();
      gpu.synchronize();
    });
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
      const { definition, types, maps, shared } = kernel as LoadedKernel;
      if (args.length !== types.length)
        throw new Error(`${definition.name}: ${args.length} arguments for ${types.length} parameters`);
      if (sharedBytes > shared) optIn(kernel as LoadedKernel, sharedBytes);
      writeArguments(words, values, types, args);
      for (const i of maps) block.setU64(8 * i, args[i]!);
      const [x, y, z] = typeof threads === "number" ? [threads, 1, 1] : threads;
      timed(definition.name, () => {
        const handles = [gpu.stream, block.address, 0] as const;
        const status = calls.cuLaunchKernel(kernel.function, gridX, gridY, gridZ, x, y, z, sharedBytes, ...handles);
        for (const i of maps) block.setU64(8 * i, block.address + 8 * (values + i));
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
