/**
 * NVRTC's C interface (libnvrtc.so): CUDA C++ → machine code, without a toolkit. Each symbol with its arguments' C names and
 * types; a function on top compiles a source together with its headers, so that nothing is read from disk.
 *
 * Source: NVRTC documentation, https://docs.nvidia.com/cuda/nvrtc/
 */

import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { bindLibrary, type Calls } from "./bind.ts";
import type { Trace } from "./calls.ts";
import { bytesAt } from "./libc.ts";
import { nativeBlock, textAt } from "./native.ts";
import {
  findLibrary,
  libraryFolders,
  loadedFile,
  majorVersions,
  NvidiaCallError,
  preload,
  type SearchOptions,
} from "./nvidia-libraries.ts";

const signatures = {
  nvrtcVersion: "major:ptr minor:ptr",
  nvrtcGetErrorString: "result:i32",
  nvrtcGetNumSupportedArchs: "numArchs:ptr",
  nvrtcGetSupportedArchs: "supportedArchs:ptr",
  nvrtcCreateProgram: "prog:ptr src:ptr name:ptr numHeaders:i32 headers:ptr includeNames:ptr",
  nvrtcCompileProgram: "prog:ptr numOptions:i32 options:ptr",
  nvrtcGetProgramLogSize: "prog:ptr logSizeRet:ptr",
  nvrtcGetProgramLog: "prog:ptr log:ptr",
  nvrtcGetCUBINSize: "prog:ptr cubinSizeRet:ptr",
  nvrtcGetCUBIN: "prog:ptr cubin:ptr",
  nvrtcGetPTXSize: "prog:ptr ptxSizeRet:ptr",
  nvrtcGetPTX: "prog:ptr ptx:ptr",
  nvrtcDestroyProgram: "prog:ptr",
} as const;

export type NvrtcSymbol = keyof typeof signatures;

const NVRTC_SUCCESS = 0;
const out = nativeBlock(1024);

export interface CompileRequest {
  /** Name of the source, as used in errors and line tables. */
  readonly name: string;
  readonly source: string;
  readonly headers: readonly { readonly name: string; readonly source: string }[];
  readonly options: readonly string[];
}

export interface Compiled {
  /** Machine code for the architecture in the options. */
  readonly cubin: Uint8Array<ArrayBuffer>;
  readonly ptx: string;
  /** Warnings, and the output of --ptxas-options=-v. */
  readonly log: string;
}

export interface Nvrtc {
  readonly path: string;
  /** "13.0" */
  readonly version: string;
  /** Compute capabilities that it compiles for, as major × 10 + minor. */
  readonly architectures: readonly number[];
  readonly calls: Calls<typeof signatures>;
  /** @throws NvidiaCallError with the compiler's log */
  compile(request: CompileRequest): Compiled;
}

const cure = "install it: pip install nvidia-cuda-nvrtc, conda install cuda-nvrtc, or NVIDIA's CUDA toolkit";

/**
 * Finds and loads NVRTC, and its builtins from the same folder.
 *
 * @throws MissingLibraryError if there is none
 */
export function openNvrtc(
  options: SearchOptions,
  versions: readonly number[] = majorVersions,
  trace: Trace | null = null,
): Nvrtc {
  const folders = libraryFolders(options);
  const found = findLibrary("libnvrtc", versions, folders, options, () => [], cure);
  const path = loadedFile(found.path);
  preloadBuiltins(path, found.major);
  const calls = bindLibrary(found.path, signatures, ["nvrtcGetErrorString"], trace);
  const check = (call: NvrtcSymbol, status: number, log = "") => {
    if (status === NVRTC_SUCCESS) return;
    const name = textAt(Number(calls.nvrtcGetErrorString(status)));
    const what =
      log === "" ? "see the log" : "the kernel's source and this version of NVRTC do not fit; its log follows";
    throw new NvidiaCallError(call, status, name, "", log === "" ? what : `${what}\n${log}`);
  };
  check("nvrtcVersion", calls.nvrtcVersion(out.address, out.address + 4));
  const version = `${out.i32(0)}.${out.i32(4)}`;
  check("nvrtcGetNumSupportedArchs", calls.nvrtcGetNumSupportedArchs(out.address));
  const count = Math.min(out.i32(0), out.byteLength / 4);
  check("nvrtcGetSupportedArchs", calls.nvrtcGetSupportedArchs(out.address));
  const architectures = Array.from({ length: count }, (_, i) => out.i32(4 * i));

  const read = (program: number, size: NvrtcSymbol, get: NvrtcSymbol): Uint8Array<ArrayBuffer> => {
    check(size, calls[size](program, out.address));
    const length = out.u64();
    if (length === 0) return new Uint8Array(0);
    const block = nativeBlock(length);
    try {
      check(get, calls[get](program, block.address));
      return new Uint8Array(bytesAt(block.address, length).slice(0));
    } finally {
      block.free();
    }
  };
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).replace(/\0+$/, "").trim();

  return {
    path,
    version,
    architectures,
    calls,
    compile({ name, source, headers, options: flags }) {
      const texts = texted([source, name, ...headers.flatMap((h) => [h.source, h.name]), ...flags]);
      try {
        const pointers = texts.table([
          ...headers.map((_, i) => 2 + 2 * i),
          ...headers.map((_, i) => 3 + 2 * i),
          ...flags.map((_, i) => 2 + 2 * headers.length + i),
        ]);
        const [sources, names] = [pointers, pointers + 8 * headers.length];
        const created = calls.nvrtcCreateProgram(
          out.address,
          texts.address(0),
          texts.address(1),
          headers.length,
          headers.length > 0 ? sources : 0,
          headers.length > 0 ? names : 0,
        );
        check("nvrtcCreateProgram", created);
        const program = out.u64();
        try {
          const status = calls.nvrtcCompileProgram(program, flags.length, names + 8 * headers.length);
          const log = text(read(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog"));
          check("nvrtcCompileProgram", status, `${name} ${flags.join(" ")}\n${log}`);
          const cubin = read(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN");
          return { cubin, ptx: text(read(program, "nvrtcGetPTXSize", "nvrtcGetPTX")), log };
        } finally {
          out.setU64(8, program);
          calls.nvrtcDestroyProgram(out.address + 8);
        }
      } finally {
        texts.free();
      }
    },
  };
}

/** NVRTC loads its builtins by their bare name, which the loader finds only once they are loaded. */
function preloadBuiltins(path: string, major: number): void {
  if (!path.includes("/")) return;
  const folder = dirname(path);
  const builtins = readdirSync(folder).find((name) => name.startsWith(`libnvrtc-builtins.so.${major}`));
  if (builtins) preload(join(folder, builtins));
}

/** Several texts in native memory, and room for a table of pointers to them. */
function texted(values: readonly string[]) {
  const encoded = values.map((value) => new TextEncoder().encode(`${value}\0`));
  const bytes = encoded.reduce((sum, value) => sum + value.length, 0);
  const tableAt = Math.ceil(bytes / 8) * 8;
  const block = nativeBlock(tableAt + 8 * values.length + 8);
  const offsets: number[] = [];
  let at = 0;
  for (const value of encoded) {
    new Uint8Array(block.view.buffer, at, value.length).set(value);
    offsets.push(at);
    at += value.length;
  }
  const address = (index: number) => block.address + (offsets[index] ?? 0);
  return {
    address,
    table(indices: readonly number[]): number {
      for (const [i, index] of indices.entries()) block.setU64(tableAt + 8 * i, address(index));
      return block.address + tableAt;
    },
    free: () => block.free(),
  };
}
