/**
 * The CUDA driver's C interface (libcuda.so.1): each symbol with its arguments' C names and types. Symbols are those that the
 * driver exports for programs of both versions 12 and 13: if the header maps a name to one with a suffix, that one. Pointers
 * and handles are plain numbers, 0 for none.
 *
 * Source: CUDA Driver API reference, https://docs.nvidia.com/cuda/cuda-driver-api/
 */

import { bindLibrary, type Calls } from "./bind.ts";
import type { Trace } from "./calls.ts";
import { type NativeBlock, nativeBlock, textAt } from "./native.ts";
import { driverFolders, findLibrary, loadedFile, NvidiaCallError, type SearchOptions } from "./nvidia-libraries.ts";

const signatures = {
  cuInit: "Flags:u32",
  cuDriverGetVersion: "driverVersion:ptr",
  cuGetErrorName: "error:i32 pStr:ptr",
  cuGetErrorString: "error:i32 pStr:ptr",

  cuDeviceGetCount: "count:ptr",
  cuDeviceGet: "device:ptr ordinal:i32",
  cuDeviceGetName: "name:ptr len:i32 dev:i32",
  cuDeviceGetAttribute: "pi:ptr attrib:i32 dev:i32",
  cuDeviceTotalMem_v2: "bytes:ptr dev:i32",
  cuDeviceGetUuid_v2: "uuid:ptr dev:i32",

  cuDevicePrimaryCtxRetain: "pctx:ptr dev:i32",
  cuDevicePrimaryCtxRelease_v2: "dev:i32",
  cuCtxSetCurrent: "ctx:ptr",

  cuMemGetInfo_v2: "free:ptr total:ptr",
  cuMemAlloc_v2: "dptr:ptr bytesize:u64",
  cuMemFree_v2: "dptr:u64",
  cuMemHostAlloc: "pp:ptr bytesize:u64 Flags:u32",
  cuMemFreeHost: "p:ptr",
  cuMemcpyHtoDAsync_v2: "dstDevice:u64 srcHost:ptr ByteCount:u64 hStream:ptr",
  cuMemcpyDtoHAsync_v2: "dstHost:ptr srcDevice:u64 ByteCount:u64 hStream:ptr",
  cuMemcpyDtoDAsync_v2: "dstDevice:u64 srcDevice:u64 ByteCount:u64 hStream:ptr",

  cuStreamCreate: "phStream:ptr Flags:u32",
  cuStreamDestroy_v2: "hStream:ptr",
  cuStreamSynchronize: "hStream:ptr",
  cuStreamWaitEvent: "hStream:ptr hEvent:ptr Flags:u32",
  cuStreamBeginCapture_v2: "hStream:ptr mode:i32",
  cuStreamEndCapture: "hStream:ptr phGraph:ptr",

  cuEventCreate: "phEvent:ptr Flags:u32",
  cuEventDestroy_v2: "hEvent:ptr",
  cuEventRecord: "hEvent:ptr hStream:ptr",
  cuEventQuery: "hEvent:ptr",
  cuEventSynchronize: "hEvent:ptr",
  cuEventElapsedTime: "pMilliseconds:ptr hStart:ptr hEnd:ptr",

  cuModuleLoadData: "module:ptr image:ptr",
  cuModuleUnload: "hmod:ptr",
  cuModuleGetFunction: "hfunc:ptr hmod:ptr name:ptr",
  cuFuncSetAttribute: "hfunc:ptr attrib:i32 value:i32",
  cuLaunchKernel:
    "f:ptr gridDimX:u32 gridDimY:u32 gridDimZ:u32 blockDimX:u32 blockDimY:u32 blockDimZ:u32 sharedMemBytes:u32 hStream:ptr kernelParams:ptr extra:ptr",

  cuTensorMapEncodeTiled:
    "tensorMap:ptr tensorDataType:i32 tensorRank:u32 globalAddress:u64 globalDim:ptr globalStrides:ptr boxDim:ptr elementStrides:ptr interleave:i32 swizzle:i32 l2Promotion:i32 oobFill:i32",

  cuGraphInstantiateWithFlags: "phGraphExec:ptr hGraph:ptr flags:u64",
  cuGraphLaunch: "hGraphExec:ptr hStream:ptr",
  cuGraphExecDestroy: "hGraphExec:ptr",
  cuGraphDestroy: "hGraph:ptr",
} as const;

export type DriverSymbol = keyof typeof signatures;
export const driverSignatures: Readonly<Record<DriverSymbol, string>> = signatures;

export const CUDA_SUCCESS = 0;
export const CUDA_ERROR_OUT_OF_MEMORY = 2;
export const CUDA_ERROR_NOT_READY = 600;

/** CUdevice_attribute */
export const deviceAttribute = {
  CLOCK_RATE: 13, // kHz
  MULTIPROCESSOR_COUNT: 16,
  COMPUTE_CAPABILITY_MAJOR: 75,
  COMPUTE_CAPABILITY_MINOR: 76,
  MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: 97,
} as const;

export const CU_STREAM_NON_BLOCKING = 1;
export const CU_EVENT_DEFAULT = 0;
export const CU_EVENT_DISABLE_TIMING = 2;
export const CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1;
export const CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9;
export const CU_TENSOR_MAP_INTERLEAVE_NONE = 0;
export const CU_TENSOR_MAP_SWIZZLE_128B = 3;
export const CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3;
export const CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0; // zeros
export const CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;

/** Cures for the statuses that a user can meet, by number. */
const cures: Readonly<Record<number, string>> = {
  2: "lower micro_batch_tokens, max_concurrent_sequences or max_completion_length, or end what else holds the GPU's memory (nvidia-smi)",
  3: "see whether nvidia-smi runs; load the driver or restart the machine",
  34: "libcuda.so.1 is the toolkit's stub and no driver: take the folder of stubs out of LD_LIBRARY_PATH, and install NVIDIA's driver",
  36: "the driver is older than the call: update it",
  46: "another process holds the GPU in exclusive mode: end it (nvidia-smi), or take another GPU",
  100: "no GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES",
  101: "there is no such GPU: see nvidia-smi -L and CUDA_VISIBLE_DEVICES",
  209: "the compiled kernel does not fit this GPU: delete the cache folder that grpo doctor names",
  222: "the driver is older than NVRTC: update the driver, or install NVRTC of its version",
  802: "the GPUs of this machine are not ready (fabric manager): see nvidia-smi",
  803: "driver and kernel module are of different versions: restart the machine",
  804: "this GPU's driver is too old for the libraries: update the driver",
};
const otherCure = "see nvidia-smi, and dmesg for lines with Xid";

const again = "start again from the last checkpoint";
const kernelCure = `a kernel failed and the GPU's memory is lost: ${again}, and report this line if it comes back`;
const hardwareCure = `the GPU itself failed and its memory is lost: see dmesg for lines with Xid and nvidia-smi -q -d ECC, then ${again}`;
/**
 * Statuses after which the context is lost, and every later call returns the same: those that according to cuda.h leave the
 * process in an inconsistent state or the context unusable (710), and the uncorrectable errors of the hardware.
 */
const stickyCures: Readonly<Record<number, string>> = {
  214: hardwareCure, // ECC_UNCORRECTABLE
  220: hardwareCure, // NVLINK_UNCORRECTABLE
  226: hardwareCure, // CONTAINED
  700: kernelCure, // ILLEGAL_ADDRESS
  702: `a display on this GPU limits how long a kernel may run, and its memory is lost: take another GPU for training, and ${again}`,
  710: kernelCure, // ASSERT
  714: kernelCure, // HARDWARE_STACK_ERROR
  715: kernelCure, // ILLEGAL_INSTRUCTION
  716: kernelCure, // MISALIGNED_ADDRESS
  717: kernelCure, // INVALID_ADDRESS_SPACE
  718: kernelCure, // INVALID_PC
  719: kernelCure, // LAUNCH_FAILED
  721: kernelCure, // TENSOR_MEMORY_LEAK
  911: hardwareCure, // EXTERNAL_DEVICE
};
/** Their numbers, for tests. */
export const stickyStatuses: readonly number[] = Object.keys(stickyCures).map(Number);

/** Memory for results of driver calls: one for the process, as they all come from its main thread. */
const out = nativeBlock(4096);

export interface Driver {
  readonly calls: Calls<typeof signatures>;
  readonly path: string;
  /** Such as 13000 for 13.0: the newest CUDA version that the driver supports. */
  readonly version: number;
  /** Memory for the calls' results; each result is read before the next call. */
  readonly out: NativeBlock;
  /** `subject`: what the call was about. @throws NvidiaCallError with the driver's own name and text for the status */
  check(call: DriverSymbol, status: number, subject?: string): void;
}

/** "13.0" for 13000. */
export function versionText(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}

/**
 * Loads the driver and initialises it.
 *
 * @throws MissingLibraryError if there is none, NvidiaCallError if it finds no GPU
 */
export function openDriver(options: SearchOptions, trace: Trace | null = null): Driver {
  const { path } = findLibrary(
    "libcuda",
    [1],
    driverFolders(options),
    options,
    () => [],
    "install NVIDIA's driver (nvidia-smi must run), or use --device cpu",
  );
  const calls = bindLibrary(path, signatures, [], trace);
  const textOf = (get: "cuGetErrorName" | "cuGetErrorString", status: number) => {
    const failed = calls[get](status, out.address);
    return failed === CUDA_SUCCESS ? textAt(out.u64()) : "";
  };
  const check = (call: DriverSymbol, status: number, subject?: string) => {
    if (status === CUDA_SUCCESS) return;
    const cure = stickyCures[status] ?? cures[status] ?? otherCure;
    const what = subject === undefined ? call : `${call} (${subject})`;
    throw new NvidiaCallError(what, status, textOf("cuGetErrorName", status), textOf("cuGetErrorString", status), cure);
  };
  check("cuInit", calls.cuInit(0));
  check("cuDriverGetVersion", calls.cuDriverGetVersion(out.address));
  return { calls, path: loadedFile(path), version: out.i32(), out, check };
}

/** Whether after this failure no call on the GPU can succeed any more. */
export function isSticky(error: unknown): boolean {
  return error instanceof NvidiaCallError && error.status in stickyCures;
}
