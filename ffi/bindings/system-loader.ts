/**
 * The C library's own dlopen: Bun's requires symbols, and cannot just load a library that the next one needs, nor say where data
 * of a library is.
 */
import { dlopen, FFIType, suffix } from "bun:ffi";
import { RunError } from "../../src/errors.ts";
import { nativeBlock, textAt } from "./native.ts";

export interface SystemLoader {
  /**
   * Loads a library permanently, by file or by name. Once loaded, it serves later loads by its bare name.
   *
   * @param isGlobal its symbols are for all libraries that are loaded later; else for those that ask for it by name
   * @returns its handle, or the loader's reason for failing
   */
  load(path: string, isGlobal?: boolean): number | string;
  /** The address of a symbol in a loaded library; 0: it has none of this name. */
  addressOf(handle: number, symbol: string): number;
}

const RTLD_NOW = 2;
const RTLD_GLOBAL = 0x100; // Linux's

let loader: SystemLoader | undefined;

/** @throws RunError without a C library that has it */
export function systemLoader(): SystemLoader {
  if (loader) return loader;
  const table = {
    // void *dlopen(const char *filename, int flags)
    dlopen: { args: [FFIType.ptr, FFIType.i32], returns: FFIType.ptr },
    // void *dlsym(void *handle, const char *symbol)
    dlsym: { args: [FFIType.ptr, FFIType.ptr], returns: FFIType.ptr },
    // char *dlerror(void)
    dlerror: { args: [], returns: FFIType.ptr },
  } as const;
  for (const name of ["libc.so.6", "libdl.so.2", `libc.${suffix}`, "libSystem.B.dylib"]) {
    try {
      const { symbols } = dlopen(name, table);
      const call = symbols as unknown as {
        dlopen(path: number, flags: number): number | null;
        dlsym(handle: number, symbol: number): number | null;
        dlerror(): number | null;
      };
      const text = nativeBlock(4096);
      loader = {
        load: (path, isGlobal = false) =>
          call.dlopen(text.setText(0, path), RTLD_NOW | (isGlobal ? RTLD_GLOBAL : 0)) ||
          textAt(Number(call.dlerror() ?? 0)),
        addressOf: (handle, symbol) => Number(call.dlsym(handle, text.setText(0, symbol)) ?? 0),
      };
      return loader;
    } catch {
      // try the next candidate: before 2.34, glibc has dlopen in a separate library
    }
  }
  throw new RunError("the C library has no dlopen: Linux with glibc is needed");
}
