/** A library's symbols as functions on plain numbers, from their signatures as text, and counts of calls and seconds. */
import { type FFIFunction, FFIType } from "bun:ffi";

export type Call = (...args: number[]) => number;
/** Calls and seconds by symbol. */
export type Trace = Map<string, { calls: number; seconds: number }>;

const types: Readonly<Record<string, FFIType>> = {
  ptr: FFIType.ptr,
  i32: FFIType.i32,
  u32: FFIType.u32,
  i64: FFIType.i64,
  u64: FFIType.u64,
  f32: FFIType.f32,
};

/** "name:type name:type" → the form that Bun's dlopen takes. */
export function functionType(signature: string, returns: FFIType): FFIFunction {
  const args = signature.split(" ").filter(Boolean);
  return { args: args.map((argument) => types[argument.split(":")[1] ?? ""] as FFIType), returns };
}

/** The call itself; with a trace, one that is counted there under `name`. */
export function traced(trace: Trace | null, name: string, call: Call): Call {
  if (!trace) return call;
  const entry = { calls: 0, seconds: 0 };
  trace.set(name, entry);
  return (...args) => {
    const start = performance.now();
    const result = call(...args);
    entry.calls++;
    entry.seconds += (performance.now() - start) / 1000;
    return result;
  };
}

/** A line per called symbol, the one with the most seconds first. */
export function traceLines(trace: Trace | null): string[] {
  return [...(trace ?? [])]
    .filter(([, { calls }]) => calls > 0)
    .sort((a, b) => b[1].seconds - a[1].seconds)
    .map(
      ([name, { calls, seconds }]) =>
        `${name.padEnd(30)} ${String(calls).padStart(10)} calls ${seconds.toFixed(3).padStart(10)} s`,
    );
}
