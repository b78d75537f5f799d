/** The symbols of a library as functions, from a table of their signatures; counts calls and time per symbol if tracing is on. */
import { dlopen, FFIType } from "bun:ffi";
import { errorText, RunError } from "../../src/errors.ts";
import { type Call, functionType, type Trace, traced } from "./calls.ts";

export type Calls<T> = Readonly<Record<keyof T, Call>>;

/**
 * The symbols of a library as functions. Names in `textual` return the address of a text, all others a status.
 *
 * @param versions of the library that have all symbols, for the message
 * @throws RunError if the library cannot be loaded or lacks a symbol
 */
export function bindLibrary<T extends Readonly<Record<string, string>>>(
  path: string,
  signatures: T,
  textual: readonly (keyof T)[],
  trace: Trace | null,
  versions = "version 12 or 13",
): Calls<T> {
  const names = Object.keys(signatures);
  const table = Object.fromEntries(
    names.map((name) => [
      name,
      functionType(signatures[name] ?? "", textual.includes(name) ? FFIType.ptr : FFIType.i32),
    ]),
  );
  let symbols: Record<string, Call>;
  try {
    symbols = dlopen(path, table).symbols as unknown as Record<string, Call>;
  } catch (error) {
    throw new RunError(`${path}: cannot be used (${errorText(error)}); install ${versions} of it`);
  }
  return Object.fromEntries(names.map((name) => [name, traced(trace, name, symbols[name]!)])) as Calls<T>;
}
