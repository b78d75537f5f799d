/**
 * An open GPU: its current primary context, the stream that ops are queued on, events, and checked calls of the driver.
 * Memory is in memory.ts, kernels in kernels.ts.
 *
 * One stream runs uploads, launches, products and reads in call order, so ops need no synchronization. Copies
 * still overlap with work on the host, which is where loading a model spends its time. Only optimizer states that are in
 * host memory have streams of their own (staging.ts).
 */
import {
  CU_EVENT_DEFAULT,
  CU_EVENT_DISABLE_TIMING,
  CU_STREAM_NON_BLOCKING,
  CUDA_ERROR_NOT_READY,
  CUDA_SUCCESS,
  type Driver,
  type DriverSymbol,
  deviceAttribute,
  isSticky,
} from "../../../ffi/bindings/cuda.ts";
import { textAt } from "../../../ffi/bindings/native.ts";
import { InputError } from "../../errors.ts";
import type { CudaLimits } from "./runtime.ts";

/** The first compute capability with bfloat16 tensor cores and asynchronous copies to shared memory. */
export const LEAST_CAPABILITY = 80;

/** The driver's information about a GPU, available without opening it. */
export interface GpuFacts {
  readonly ordinal: number;
  /** 32 hexadecimal digits that no other GPU has. */
  readonly uuid: string;
  readonly name: string;
  readonly limits: CudaLimits;
  readonly totalBytes: number;
  readonly clockKilohertz: number;
}

export interface Gpu extends GpuFacts {
  readonly driver: Driver;
  readonly stream: number;
  /** A kernel fault has destroyed the context: nothing can or need be released any more. */
  readonly lost: boolean;
  /** Calls the driver. @throws NvidiaCallError */
  call(symbol: DriverSymbol, ...args: number[]): void;
  /** Throws for a status other than success; `subject` is what the call was about. */
  check(symbol: DriverSymbol, status: number, subject?: string): void;
  /** Calls the driver to release something, ignoring failures if the context is lost. */
  release(symbol: DriverSymbol, ...args: number[]): void;
  createEvent(): number;
  /** One more stream, which others do not wait for. */
  createStream(): number;
  /** GPU time in milliseconds of what `queue` puts into the stream; waits for it. */
  elapsed(queue: () => void): number;
  /** The same from now to the call of the returned function. One at a time. */
  startTimer(): () => number;
  /** Marks the work queued so far. */
  mark(event: number): void;
  /** Whether the marked work is done. @throws NvidiaCallError if it failed */
  reached(event: number): boolean;
  waitFor(event: number): void;
  /** Waits for all queued work, of all streams. */
  synchronize(): void;
  /** Checks that no sequence of launches is being captured, during which `what` is not allowed. @throws Error */
  outsideCapture(what: string): void;
  capturing: boolean;
  freeBytes(): number;
  close(): void;
}

/** The GPUs that the driver shows. */
export function listGpus(driver: Driver): GpuFacts[] {
  const { calls, out, check } = driver;
  check("cuDeviceGetCount", calls.cuDeviceGetCount(out.address));
  return Array.from({ length: out.i32() }, (_, ordinal) => {
    check("cuDeviceGet", calls.cuDeviceGet(out.address, ordinal));
    const device = out.i32();
    const attribute = (which: keyof typeof deviceAttribute): number => {
      check("cuDeviceGetAttribute", calls.cuDeviceGetAttribute(out.address, deviceAttribute[which], device), which);
      return out.i32();
    };
    check("cuDeviceGetName", calls.cuDeviceGetName(out.address + 64, 256, device));
    const name = textAt(out.address + 64);
    check("cuDeviceTotalMem_v2", calls.cuDeviceTotalMem_v2(out.address, device));
    const totalBytes = out.u64();
    check("cuDeviceGetUuid_v2", calls.cuDeviceGetUuid_v2(out.address, device));
    const uuid = Buffer.from(out.view.buffer, out.view.byteOffset, 16).toString("hex");
    const [major, minor] = [attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")];
    const limits = {
      multiprocessors: attribute("MULTIPROCESSOR_COUNT"),
      computeCapability: 10 * major + minor,
      sharedMemory: attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
    };
    return { ordinal, uuid, name, limits, totalBytes, clockKilohertz: attribute("CLOCK_RATE") };
  });
}

/**
 * The GPU that a `--device` setting names: "cuda" is the first one or, for the ranks of a machine, one for each if there are
 * several.
 *
 * @param localRank the rank's place among those of this machine
 * @throws InputError for one that is missing or too old
 */
export function chooseGpu(gpus: readonly GpuFacts[], device: string, localRank = 0): GpuFacts {
  const named = device.split(":")[1];
  const ordinal = named === undefined ? (gpus.length > 1 ? localRank : 0) : Number(named);
  const chosen = gpus[ordinal];
  const list = gpus.map((gpu) => `cuda:${gpu.ordinal} ${gpu.name}`).join(", ");
  if (!chosen && named === undefined && gpus.length > 0)
    throw new InputError(
      `device ${device}: rank ${localRank} of this machine has no GPU: there are ${list}; start at most one rank for each`,
    );
  if (!chosen)
    throw new InputError(
      `device ${device}: ${gpus.length === 0 ? "the driver shows no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES" : `there are ${list}; name one of them`}`,
    );
  const { name, limits } = chosen;
  if (limits.computeCapability < LEAST_CAPABILITY)
    throw new InputError(
      `device ${device}: ${name} has compute capability ${capabilityText(limits.computeCapability)}, and 8.0 (Ampere) is needed; use --device cpu, or another GPU if there is one (${list})`,
    );
  return chosen;
}

/** "9.0" for 90. */
export function capabilityText(capability: number): string {
  return `${Math.floor(capability / 10)}.${capability % 10}`;
}

/** Contexts of the open devices in this process; the last one is current. */
const contexts: number[] = [];

/** Retains the GPU's primary context and makes it current on this thread. @throws NvidiaCallError */
export function openGpu(driver: Driver, facts: GpuFacts): Gpu {
  const { calls, out } = driver;
  let lost = false;
  const check = (symbol: DriverSymbol, status: number, subject?: string) => {
    if (status === CUDA_SUCCESS) return;
    try {
      driver.check(symbol, status, subject);
    } catch (error) {
      lost ||= isSticky(error);
      throw error;
    }
  };
  const call = (symbol: DriverSymbol, ...args: number[]) => check(symbol, calls[symbol](...args));
  const release = (symbol: DriverSymbol, ...args: number[]) => {
    const status = calls[symbol](...args);
    if (!lost) check(symbol, status);
  };

  call("cuDeviceGet", out.address, facts.ordinal);
  const device = out.i32();
  call("cuDevicePrimaryCtxRetain", out.address, device);
  const context = out.u64();
  contexts.push(context);
  const events: number[] = [];
  const newEvent = (flags: number): number => {
    call("cuEventCreate", out.address, flags);
    const event = out.u64();
    events.push(event);
    return event;
  };
  let timing: readonly [start: number, end: number] | null = null;
  const streams: number[] = [];
  const newStream = (): number => {
    call("cuStreamCreate", out.address, CU_STREAM_NON_BLOCKING);
    const stream = out.u64();
    streams.push(stream);
    return stream;
  };
  let stream = 0;
  const close = () => {
    for (const event of events) release("cuEventDestroy_v2", event);
    for (const each of streams) release("cuStreamDestroy_v2", each);
    events.length = 0;
    streams.length = 0;
    contexts.splice(contexts.lastIndexOf(context), 1);
    release("cuCtxSetCurrent", contexts.at(-1) ?? 0);
    release("cuDevicePrimaryCtxRelease_v2", device);
  };
  try {
    call("cuCtxSetCurrent", context);
    stream = newStream();
  } catch (error) {
    lost = true; // report this failure, not the cleanup's
    close();
    throw error;
  }

  const gpu: Gpu = {
    ...facts,
    driver,
    stream,
    get lost() {
      return lost;
    },
    capturing: false,
    call,
    check,
    release,
    createEvent: () => newEvent(CU_EVENT_DISABLE_TIMING),
    createStream: newStream,
    elapsed(queue) {
      const stop = gpu.startTimer();
      queue();
      return stop();
    },
    startTimer() {
      timing ??= [newEvent(CU_EVENT_DEFAULT), newEvent(CU_EVENT_DEFAULT)];
      const [start, end] = timing;
      gpu.mark(start);
      return () => {
        gpu.mark(end);
        gpu.waitFor(end);
        call("cuEventElapsedTime", out.address, start, end);
        return out.f32();
      };
    },
    mark: (event) => call("cuEventRecord", event, stream),
    reached(event) {
      const status = calls.cuEventQuery(event);
      if (status !== CUDA_ERROR_NOT_READY) check("cuEventQuery", status);
      return status === CUDA_SUCCESS;
    },
    waitFor: (event) => call("cuEventSynchronize", event),
    synchronize() {
      for (const each of streams) call("cuStreamSynchronize", each);
    },
    outsideCapture(what) {
      if (gpu.capturing)
        throw new Error(`${what} within a recorded sequence: only launches and products can be recorded`);
    },
    freeBytes() {
      call("cuMemGetInfo_v2", out.address, out.address + 8);
      return out.u64(0);
    },
    close,
  };
  return gpu;
}
