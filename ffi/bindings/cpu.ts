/**
 * The CPU kernels' C interface: each symbol with its arguments' C names and types, as ffi/cpu/ops.h declares them (a
 * test compares the two). Pointers are addresses as plain numbers, 0 for none.
 */
import { dlopen, type FFIFunction, FFIType } from "bun:ffi";
import { RunError } from "../../src/errors.ts";
import { findCompiler } from "../compiler.ts";
import { type BuildResult, compileKernels, prebuiltKernels } from "../cpu/build.ts";
import { type Call, functionType, type Trace, traced } from "./calls.ts";
import { loadFailure } from "./load-failure.ts";
import { openRecorder, type RecordedCalls } from "./recorded-calls.ts";

export type { BuildResult };

const signatures = {
  matmul_forward:
    "y:ptr x:ptr w:ptr bias:ptr M:i32 N:i32 K:i32 ldy:i32 ldx:i32 ydtype:i32 xdtype:i32 wdtype:i32 accumulate:i32 factor:f32",
  adapted_forward:
    "y:ptr x:ptr w:ptr bias:ptr terms:ptr count:i32 M:i32 N:i32 K:i32 ldy:i32 ldx:i32 ydtype:i32 xdtype:i32 wdtype:i32 accumulate:i32",
  matmul_backward_input:
    "dx:ptr dy:ptr w:ptr M:i32 N:i32 K:i32 lddx:i32 lddy:i32 dxdtype:i32 dydtype:i32 wdtype:i32 accumulate:i32 factor:f32",
  matmul_backward_weight: "dw:ptr dy:ptr x:ptr M:i32 N:i32 K:i32 lddy:i32 ldx:i32 dydtype:i32 xdtype:i32",
  bias_backward: "dbias:ptr dy:ptr M:i32 N:i32 lddy:i32 dydtype:i32",
  weight_pack: "w:ptr source:ptr n0:i32 rows:i32 N:i32 K:i32 wdtype:i32 source_dtype:i32 layout_dtype:i32",
  weight_unpack: "target:ptr w:ptr n0:i32 rows:i32 K:i32 target_dtype:i32 wdtype:i32 layout_dtype:i32",
  next_tokens: "tokens:ptr ids:ptr from:ptr B:i32",
  embedding_forward: "x:ptr ids:ptr w:ptr T:i32 D:i32 wdtype:i32",
  embedding_backward: "dw:ptr dx:ptr ids:ptr T:i32 D:i32 wdtype:i32",
  rmsnorm_forward:
    "y:ptr rstd:ptr x:ptr weight:ptr T:i32 H:i32 D:i32 ldy:i32 ldx:i32 eps:f32 offset:f32 ydtype:i32 xdtype:i32 wdtype:i32",
  rmsnorm_backward:
    "dx:ptr dweight:ptr dy:ptr x:ptr weight:ptr rstd:ptr dresidual:ptr T:i32 H:i32 D:i32 lddx:i32 lddy:i32 ldx:i32 offset:f32 dxdtype:i32 dydtype:i32 xdtype:i32 wdtype:i32",
  rope_forward: "x:ptr positions:ptr cos:ptr sin:ptr T:i32 H:i32 Dh:i32 ldx:i32 dtype:i32",
  rope_backward: "dx:ptr positions:ptr cos:ptr sin:ptr T:i32 H:i32 Dh:i32 lddx:i32 dtype:i32",
  heads_forward:
    "qkv:ptr rstd_q:ptr rstd_k:ptr raw:ptr weight_q:ptr weight_k:ptr positions:ptr cos:ptr sin:ptr T:i32 H:i32 Hkv:i32 Dh:i32 ldqkv:i32 ldraw:i32 eps:f32 offset:f32 dtype:i32 wdtype:i32",
  attention_forward:
    "out:ptr lse:ptr q:ptr k:ptr v:ptr segments:ptr S:i32 T:i32 H:i32 Hkv:i32 Dh:i32 window:i32 ldo:i32 ldq:i32 scale:f32 dtype:i32",
  attention_backward:
    "dq:ptr dk:ptr dv:ptr dout:ptr q:ptr k:ptr v:ptr out:ptr lse:ptr segments:ptr scratch:ptr scratch_rows:i32 S:i32 T:i32 H:i32 Hkv:i32 Dh:i32 window:i32 ldq:i32 ldo:i32 scale:f32 dtype:i32 gdtype:i32",
  kv_store: "kpages:ptr vpages:ptr k:ptr v:ptr page:ptr offset:ptr T:i32 Hkv:i32 Dh:i32 ldkv:i32 dtype:i32",
  attention_decode:
    "out:ptr q:ptr kpages:ptr vpages:ptr page_table:ptr prompt_lengths:ptr completion_lengths:ptr B:i32 table_width:i32 H:i32 Hkv:i32 Dh:i32 window:i32 ldo:i32 ldq:i32 scale:f32 dtype:i32",
  glu_forward: "y:ptr x:ptr T:i32 F:i32 gelu:i32 dtype:i32",
  glu_backward: "dx:ptr y:ptr dy:ptr x:ptr T:i32 F:i32 gelu:i32 dtype:i32 gdtype:i32",
  route_forward: "weights:ptr experts:ptr probabilities:ptr logits:ptr T:i32 E:i32 K:i32 normalized:i32 given:i32",
  route_backward: "dlogits:ptr dweights:ptr weights:ptr experts:ptr probabilities:ptr T:i32 E:i32 K:i32 normalized:i32",
  balance_forward: "load:ptr probabilities:ptr row_weights:ptr T:i32 E:i32",
  balance_backward: "dlogits:ptr probabilities:ptr slopes:ptr row_weights:ptr T:i32 E:i32",
  dispatch: "offsets:ptr order:ptr places:ptr experts:ptr T:i32 E:i32 K:i32",
  gather_pairs: "y:ptr x:ptr order:ptr P:i32 K:i32 D:i32 dtype:i32",
  scatter_pairs: "dx:ptr dy:ptr places:ptr T:i32 K:i32 D:i32 gdtype:i32",
  combine_forward: "x:ptr y:ptr places:ptr weights:ptr T:i32 K:i32 D:i32 dtype:i32",
  combine_backward: "dy:ptr dweights:ptr dx:ptr y:ptr places:ptr weights:ptr T:i32 K:i32 D:i32 dtype:i32 gdtype:i32",
  experts_forward:
    "y:ptr x:ptr w:ptr offsets:ptr E:i32 next:i64 N:i32 K:i32 ldy:i32 ldx:i32 ydtype:i32 xdtype:i32 wdtype:i32",
  experts_backward_input:
    "dx:ptr dy:ptr w:ptr offsets:ptr E:i32 next:i64 N:i32 K:i32 lddx:i32 lddy:i32 dxdtype:i32 dydtype:i32 wdtype:i32 accumulate:i32",
  experts_backward_weight:
    "dw:ptr dy:ptr x:ptr offsets:ptr E:i32 next:i64 N:i32 K:i32 lddy:i32 ldx:i32 dydtype:i32 xdtype:i32",
  log_softmax_forward:
    "logprob:ptr entropy:ptr lse:ptr logits:ptr entry_start:ptr targets:ptr rows:i32 vocabulary:i32 inverse_temperature:f32",
  log_softmax_backward:
    "dlogits:ptr logits:ptr dlogprob:ptr dentropy:ptr entry_start:ptr targets:ptr lse:ptr entropy:ptr rows:i32 vocabulary:i32 inverse_temperature:f32 gdtype:i32",
  sample:
    "ids:ptr logprob:ptr sampling_logprob:ptr logits:ptr logit_row:ptr counters:ptr seen:ptr B:i32 vocabulary:i32 seed:u32 stream:u32 greedy:i32 inverse_temperature:f32 top_k:i32 top_p:f32 min_p:f32 repetition_penalty:f32",
  adamw:
    "p:ptr master:ptr m:ptr v:ptr g:ptr n:i64 lr:f32 beta1:f32 beta2:f32 eps:f32 weight_decay:f32 correction1:f32 correction2:f32 grad_scale:f32 form:i32 seed:u32 stream:u32 step:u32 parameter:u32 first_element:i64",
  adamw_8bit:
    "p:ptr master:ptr m:ptr m_absmax:ptr v:ptr v_absmax:ptr g:ptr maps:ptr nearest:ptr n:i64 lr:f32 beta1:f32 beta2:f32 eps:f32 weight_decay:f32 correction1:f32 correction2:f32 grad_scale:f32 form:i32 seed:u32 stream:u32 step:u32 parameter:u32 first_element:i64",
  masters: "y:ptr p:ptr lower:ptr n:i64 accumulate:i32",
  split_masters: "p:ptr lower:ptr x:ptr n:i64",
  sum_squares: "sum:ptr x:ptr n:i64",
  scale: "x:ptr n:i64 factor:f32",
  add: "y:ptr x:ptr n:i64",
  softcap_forward: "x:ptr n:i64 cap:f32",
  softcap_backward: "dx:ptr y:ptr n:i64 cap:f32 gdtype:i32",
  fill: "x:ptr n:i64 value:f32",
  cast: "y:ptr x:ptr n:i64 ydtype:i32 xdtype:i32",
  gather_rows: "y:ptr x:ptr rows:ptr N:i32 D:i32",
  scatter_rows: "dx:ptr dy:ptr rows:ptr N:i32 T:i32 D:i32 gdtype:i32",
} as const;

const scratchSizes = "V:i32 D:i32 F:i32 H:i32 Hkv:i32 Dh:i32 longest:i32 T:i32 wdtype:i32";
/** The kernels' own figures: layouts in elements, and scratch memory in bytes. */
const sizes = {
  weight_elements: "N:i32 K:i32 wdtype:i32",
  key_page_elements: "Hkv:i32 Dh:i32",
  value_page_elements: "Hkv:i32 Dh:i32",
  attention_scratch_elements: "Hkv:i32 Dh:i32",
  thread_scratch_bound: scratchSizes,
  common_scratch_bound: scratchSizes,
} as const;

export type KernelName = keyof typeof signatures;
export type SizeName = keyof typeof sizes;
export const kernelSignatures: Readonly<Record<KernelName, string>> = signatures;
export const sizeSignatures: Readonly<Record<SizeName, string>> = sizes;

export type Kernels = Readonly<Record<KernelName, (...args: number[]) => void>>;

export interface CpuLibrary {
  readonly kernels: Kernels;
  /** Records the kernels that `work` calls instead of running them. */
  record(work: () => void): RecordedCalls;
  /** Of the path in use. */
  readonly sizes: Readonly<Record<SizeName, Call>>;
  /** Compiled instruction paths, slowest first. */
  readonly paths: readonly { readonly name: string; readonly supported: boolean; readonly lanes: number }[];
  /** @throws RunError if this processor cannot run the path, or the system refuses it. */
  selectPath(name: string): void;
  /** Returns the number of threads in use. */
  setThreads(count: number): number;
  availableThreads(): number;
  /** Makes new anonymous memory resident, soon, on a thread of its own; `address` is that of a page. */
  populate(address: number, bytes: number): void;
  /** Ends that thread, before its memory is freed. */
  endPopulating(): void;
  /** Bytes of scratch memory that the threads currently hold. */
  scratchBytes(): number;
  /** GFLOP/s of an all-core loop on the path in use: multiply-adds in float32, or its products with bfloat16 weights. */
  peakGflops(milliseconds: number, of?: "float32" | "bfloat16"): number;
  /** GB/s of an all-core read of `bytes` at `address`. */
  readBandwidth(address: number, bytes: number): number;
  /** Calls and seconds per kernel since tracing was switched on (`trace: true`). */
  readonly trace: Trace;
}

const control = {
  path_count: { args: [], returns: FFIType.i32 },
  path_name: { args: [FFIType.i32], returns: FFIType.cstring },
  path_supported: { args: [FFIType.i32], returns: FFIType.i32 },
  path_lanes: { args: [FFIType.i32], returns: FFIType.i32 },
  path_select: { args: [FFIType.i32], returns: FFIType.i32 },
  threads_set: { args: [FFIType.i32], returns: FFIType.i32 },
  threads_available: { args: [], returns: FFIType.i32 },
  memory_populate: { args: [FFIType.ptr, FFIType.i64], returns: FFIType.void },
  memory_populated: { args: [], returns: FFIType.void },
  scratch_bytes: { args: [], returns: FFIType.i64 },
  peak_gflops: { args: [FFIType.i32, FFIType.i32], returns: FFIType.f64 },
  read_bandwidth: { args: [FFIType.ptr, FFIType.i64], returns: FFIType.f64 },
  calls_run: { args: [FFIType.ptr, FFIType.i32, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
} as const;

/**
 * The path of the kernel library: the one shipped with the program, else the one in the cache, else compiled now. If this
 * system cannot load the shipped one, it is also compiled, given a compiler.
 *
 * @throws RunError if there is none and none can be built
 */
export async function buildKernels(onBuild?: () => void): Promise<BuildResult> {
  const prebuilt = prebuiltKernels();
  if (prebuilt === null) return compileKernels({ onBuild });
  try {
    dlopen(prebuilt, control).close();
    return { library: prebuilt, compiler: null, seconds: 0 };
  } catch (error) {
    try {
      findCompiler("the CPU kernels");
    } catch {
      throw loadFailure(prebuilt, error);
    }
    return compileKernels({ onBuild });
  }
}

function functionTypes(table: Readonly<Record<string, string>>, returns: FFIType): Record<string, FFIFunction> {
  return Object.fromEntries(Object.entries(table).map(([name, text]) => [name, functionType(text, returns)]));
}

/** @throws RunError if the library cannot be loaded. */
export function openCpuLibrary(path: string, options: { trace?: boolean } = {}): CpuLibrary {
  const table = { ...functionTypes(signatures, FFIType.void), ...functionTypes(sizes, FFIType.i64) };
  let symbols: Record<string, unknown>;
  try {
    symbols = dlopen(path, { ...table, ...control }).symbols as Record<string, unknown>;
  } catch (error) {
    throw loadFailure(path, error);
  }
  const call = <T>(name: keyof typeof control, ...args: number[]): T =>
    (symbols[name] as (...args: number[]) => T)(...args);
  const trace: Trace = new Map();
  const counted = options.trace ? trace : null;
  const calls = Object.fromEntries(
    Object.keys(signatures).map((name) => [name, traced(counted, name, symbols[name] as Call)]),
  ) as Record<KernelName, Call>;
  const recorder = openRecorder(signatures, calls, symbols.calls_run as Call, counted);
  const sizeOf = (name: string): Call => {
    const size = symbols[name] as (...args: number[]) => bigint;
    return (...args) => Number(size(...args));
  };
  const paths = Array.from({ length: call<number>("path_count") }, (_, index) => ({
    name: String(call<unknown>("path_name", index)),
    supported: call<number>("path_supported", index) !== 0,
    lanes: call<number>("path_lanes", index),
  }));
  return {
    kernels: recorder.calls,
    record: recorder.record,
    sizes: Object.fromEntries(Object.keys(sizes).map((name) => [name, sizeOf(name)])) as Record<SizeName, Call>,
    paths,
    trace,
    selectPath(name) {
      const index = paths.findIndex((p) => p.name === name);
      if (index < 0)
        throw new RunError(`unknown instruction path ${name}; there are ${paths.map((p) => p.name).join(", ")}`);
      if (!call<number>("path_select", index)) throw new RunError(`this machine cannot run the ${name} path`);
    },
    setThreads: (count) => call("threads_set", count),
    availableThreads: () => call("threads_available"),
    populate: (address, bytes) => call("memory_populate", address, bytes),
    endPopulating: () => call("memory_populated"),
    scratchBytes: () => Number(call("scratch_bytes")),
    peakGflops: (milliseconds, of = "float32") => call("peak_gflops", milliseconds, of === "bfloat16" ? 1 : 0),
    readBandwidth: (address, bytes) => call("read_bandwidth", address, bytes),
  };
}
