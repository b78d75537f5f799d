/**
 * The compiler's information about a kernel: parameters and block size from its PTX, registers and memory from its assembler's
 * log.
 */
import type { KernelDefinition } from "../../../src/device/cuda/runtime.ts";

export interface Resources {
  readonly registers: number;
  /** Bytes of shared memory that the source declares. */
  readonly shared: number;
  /** Bytes of a thread's own stack: arrays indexed at run time, and spills. */
  readonly stack: number;
  readonly spillStores: number;
  readonly spillLoads: number;
}

/** The log of `--ptxas-options=-v`, by kernel. */
export function readResources(log: string): Map<string, Resources> {
  const found = new Map<string, Resources>();
  let kernel: string | undefined;
  let frame = { stack: 0, spillStores: 0, spillLoads: 0 };
  for (const line of log.split("\n")) {
    kernel = line.match(/Compiling entry function '(\w+)'/)?.[1] ?? kernel;
    const memory = line.match(/(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/);
    if (memory) frame = { stack: Number(memory[1]), spillStores: Number(memory[2]), spillLoads: Number(memory[3]) };
    const used = line.match(/Used (\d+) registers/);
    if (!used || kernel === undefined) continue;
    found.set(kernel, {
      registers: Number(used[1]),
      shared: Number(line.match(/(\d+) bytes smem/)?.[1] ?? 0),
      ...frame,
    });
    kernel = undefined;
  }
  return found;
}

/** The assembler's complaints about speed, such as products of a warpgroup that do not run on their own. */
export function readLosses(log: string): string[] {
  return log.split("\n").filter((line) => line.includes("Potential Performance Loss"));
}

export interface Signature {
  readonly parameters: readonly { readonly offset: number; readonly size: number; readonly float: boolean }[];
  /** Maximum threads per block, 0 if the source does not say. */
  readonly threads: number;
}

const parameterPattern = /\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)(?:\s+\.ptr[^,)\n]*?)?\s+\w+(?:\[(\d+)\])?/g;

/** Kernels of PTX text with their parameters at natural alignment. */
export function readSignatures(ptx: string): Map<string, Signature> {
  const found = new Map<string, Signature>();
  for (const [, name, list, after] of ptx.matchAll(/\.entry\s+(\w+)\s*\(([^)]*)\)([^{]*)\{/g)) {
    let offset = 0;
    const parameters = [...list!.matchAll(parameterPattern)].map(([, align, type, length]) => {
      const element = Number(type!.slice(1)) / 8;
      const alignment = Number(align ?? element);
      offset = Math.ceil(offset / alignment) * alignment;
      const parameter = { offset, size: element * Number(length ?? 1), float: type![0] === "f" };
      offset += parameter.size;
      return parameter;
    });
    const extent = after!.match(/\.maxntid\s+([\d,\s]+)/)?.[1];
    const threads = extent === undefined ? 0 : extent.split(",").reduce((product, n) => product * Number(n), 1);
    found.set(name!, { parameters, threads });
  }
  return found;
}

const sizes: Readonly<Record<string, number>> = { ptr: 8, i64: 8, i32: 4, u32: 4, f32: 4, map: 128 };

/** Why the launch signature in TypeScript differs from the compiled kernel's; undefined if it does not. */
export function signatureFault(definition: KernelDefinition, signature: Signature | undefined): string | undefined {
  if (signature === undefined) return "the source has no kernel of this name";
  const declared = definition.parameters.split(" ").filter(Boolean);
  const compiled = signature.parameters;
  if (declared.length !== compiled.length)
    return `${declared.length} parameters in TypeScript, ${compiled.length} in CUDA`;
  let offset = 0;
  for (const [i, parameter] of declared.entries()) {
    const [name, type] = parameter.split(":");
    const size = sizes[type ?? ""];
    if (size === undefined) return `${name}: unknown type ${type}`;
    offset = Math.ceil(offset / size) * size;
    const { offset: at, size: bytes, float } = compiled[i]!;
    if (at !== offset || bytes !== size || float !== (type === "f32"))
      return `${name}:${type} is ${size} bytes at ${offset}; CUDA has ${bytes} bytes${float ? " of float" : ""} at ${at}`;
    offset += size;
  }
  if (signature.threads !== definition.threads)
    return `launched with up to ${definition.threads} threads; the source's bound is ${signature.threads || "missing"}`;
  return undefined;
}
