/**
 * A library's symbols as functions on plain numbers, from their signatures as text; arguments written to memory; counts
 * of calls and seconds.
 */
import { type FFIFunction, FFIType } from "bun:ffi";

export type Call = (...args: number[]) => number;
export type ArgumentType = "ptr" | "i32" | "u32" | "i64" | "u64" | "f32";
/** Calls and seconds by symbol. */
export type Trace = Map<string, { calls: number; seconds: number }>;

const types: Readonly<Record<ArgumentType, FFIType>> = {
  ptr: FFIType.ptr,
  i32: FFIType.i32,
  u32: FFIType.u32,
  i64: FFIType.i64,
  u64: FFIType.u64,
  f32: FFIType.f32,
};

/** "y:ptr T:i32" → ["ptr", "i32"] */
export function argumentTypes(signature: string): ArgumentType[] {
  const args = signature.split(" ").filter(Boolean);
  return args.map((argument) => argument.split(":")[1] as ArgumentType);
}

/** "name:type name:type" → the form that Bun's dlopen takes. */
export function functionType(signature: string, returns: FFIType): FFIFunction {
  return { args: argumentTypes(signature).map((type) => types[type]), returns };
}

/** Memory for arguments as 64-bit words, each value in the low bytes of its own. */
export interface ArgumentWords {
  readonly ints: Int32Array;
  readonly floats: Float32Array;
}

export function argumentWords(buffer: ArrayBufferLike): ArgumentWords {
  return { ints: new Int32Array(buffer), floats: new Float32Array(buffer) };
}

/** Writes one argument per word, the first at word `at`. */
export function writeArguments(
  { ints, floats }: ArgumentWords,
  at: number,
  types: readonly ArgumentType[],
  args: readonly number[],
): void {
  for (let i = 0; i < types.length; i++) {
    const value = args[i]!;
    const low = 2 * (at + i);
    if (types[i] === "f32") floats[low] = value;
    else {
      ints[low] = value; // modulo 2³²
      ints[low + 1] = Math.floor(value / 2 ** 32);
    }
  }
}

/** Runs `work` and counts it under `name`. */
export function countedUnder<T>(trace: Trace, name: string, work: () => T): T {
  const entry = trace.get(name) ?? { calls: 0, seconds: 0 };
  trace.set(name, entry);
  const start = performance.now();
  const result = work();
  entry.calls++;
  entry.seconds += (performance.now() - start) / 1000;
  return result;
}

/** The call itself; with a trace, one that is counted there under `name`. */
export function traced(trace: Trace | null, name: string, call: Call): Call {
  if (!trace) return call;
  trace.set(name, { calls: 0, seconds: 0 });
  return (...args) => countedUnder(trace, name, () => call(...args));
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
