/**
 * Bindings of the emulated driver and cuBLAS for tests of the emulator itself: every call's bare status, with shorthands to
 * create objects. Kernels are given as PTX, so no compiler is needed.
 */
import { join } from "node:path";
import { bindLibrary } from "../../ffi/bindings/bind.ts";
import type { Call } from "../../ffi/bindings/calls.ts";
import { cublasLtSignatures, cublasSignatures } from "../../ffi/bindings/cublas.ts";
import { driverSignatures } from "../../ffi/bindings/cuda.ts";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { type NativeBlock, nativeBlock, textAt } from "../../ffi/bindings/native.ts";
import { type EmulatorControl, openControl } from "./control.ts";

/** Calls that the product does not use. */
const more = {
  cuCtxGetCurrent: "pctx:ptr",
  cuCtxSynchronize: "",
  cuDevicePrimaryCtxReset_v2: "dev:i32",
  cuMemHostRegister_v2: "p:ptr bytesize:u64 Flags:u32",
  cuMemHostUnregister: "p:ptr",
  cuMemcpyHtoD_v2: "dstDevice:u64 srcHost:ptr ByteCount:u64",
  cuMemcpyDtoH_v2: "dstHost:ptr srcDevice:u64 ByteCount:u64",
  cuMemsetD8_v2: "dstDevice:u64 uc:u32 N:u64",
  cuMemsetD32Async: "dstDevice:u64 ui:u32 N:u64 hStream:ptr",
  cuStreamQuery: "hStream:ptr",
  cuStreamIsCapturing: "hStream:ptr captureStatus:ptr",
  cuFuncGetAttribute: "pi:ptr attrib:i32 hfunc:ptr",
  cuFuncGetParamInfo: "func:ptr paramIndex:u64 paramOffset:ptr paramSize:ptr",
  cuGraphGetNodes: "hGraph:ptr nodes:ptr numNodes:ptr",
  cuGraphNodeGetType: "hNode:ptr type:ptr",
} as const;

/** Kernels for a single thread; `limited` has 64 static bytes of shared memory and at most 64 threads. */
export const testPtx = `.version 8.0
.target sm_80
.address_size 64
.visible .entry add(.param .u64 add_p, .param .u32 add_v)
{
  .reg .b64 %a, %g;
  .reg .b32 %v, %x;
  ld.param.u64 %a, [add_p];
  ld.param.u32 %v, [add_v];
  cvta.to.global.u64 %g, %a;
  ld.global.u32 %x, [%g];
  add.s32 %x, %x, %v;
  st.global.u32 [%g], %x;
  ret;
}
.visible .entry put(.param .u64 put_p, .param .u32 put_v)
{
  .reg .b64 %a, %g;
  .reg .b32 %v;
  ld.param.u64 %a, [put_p];
  ld.param.u32 %v, [put_v];
  cvta.to.global.u64 %g, %a;
  st.global.u32 [%g], %v;
  ret;
}
.visible .entry limited(.param .u64 limited_p, .param .u32 limited_v)
.maxntid 64, 1, 1
{
  .shared .align 4 .b8 buffer[64];
  ret;
}
`;

export type Status = number;
/** Driver statuses that the tests expect. */
export const CUDA = {
  INVALID_VALUE: 1,
  OUT_OF_MEMORY: 2,
  NOT_INITIALIZED: 3,
  NO_BINARY_FOR_GPU: 209,
  INVALID_IMAGE: 200,
  INVALID_CONTEXT: 201,
  INVALID_HANDLE: 400,
  ILLEGAL_STATE: 401,
  NOT_FOUND: 500,
  NOT_READY: 600,
  ILLEGAL_ADDRESS: 700,
  LAUNCH_OUT_OF_RESOURCES: 701,
  MISALIGNED_ADDRESS: 716,
  STREAM_CAPTURE_UNSUPPORTED: 900,
  STREAM_CAPTURE_INVALIDATED: 901,
  STREAM_CAPTURE_UNJOINED: 904,
  STREAM_CAPTURE_ISOLATION: 905,
  STREAM_CAPTURE_IMPLICIT: 906,
  CAPTURED_EVENT: 907,
} as const;

export interface Calls {
  readonly control: EmulatorControl;
  readonly cu: Readonly<Record<keyof typeof driverSignatures | keyof typeof more, Call>>;
  readonly blas: Readonly<Record<keyof typeof cublasSignatures, Call>>;
  readonly lt: Readonly<Record<keyof typeof cublasLtSignatures, Call>>;
  /** Memory for the results of calls. */
  readonly out: NativeBlock;
  /** The value that a call wrote to `out`. @throws Error if its status is not success */
  made(status: Status): number;
  text(status: Status): string;
  /** Initialised, with a current context and nothing else. */
  restart(): void;
  alloc(bytes: number): number;
  pinned(bytes: number): { readonly address: number; readonly words: Uint32Array };
  stream(flags?: number): number;
  event(): number;
  module(ptx?: string): number;
  kernel(name: string): number;
  /** A launch of one thread with (address, value). */
  launch(kernel: number, address: number, value: number, stream?: number): Status;
  launchShape(kernel: number, grid: readonly number[], block: readonly number[], shared: number): Status;
  /** The 32-bit value at a device address, bypassing the driver: shows what has run so far. */
  peek(address: number): number;
}

export const NON_BLOCKING = 1;

/** @param folder the result of buildEmulator */
export function openCalls(folder: string): Calls {
  const control = openControl(folder);
  const cu = bindLibrary(join(folder, "libcuda.so.1"), { ...driverSignatures, ...more }, [], null);
  const blas = bindLibrary(join(folder, "libcublas.so.13"), cublasSignatures, [], null);
  const lt = bindLibrary(join(folder, "libcublasLt.so.13"), cublasLtSignatures, [], null);
  const out = nativeBlock(4096);
  const parameters = nativeBlock(64);
  const made = (status: Status) => {
    if (status !== 0) throw new Error(`status ${status}`);
    return out.u64();
  };
  let loaded = 0;
  const module = (ptx = testPtx) => {
    const image = nativeBlock(ptx.length + 1);
    image.setText(0, ptx);
    try {
      return made(cu.cuModuleLoadData(out.address, image.address));
    } finally {
      image.free();
    }
  };
  const setParameters = (address: number, value: number) => {
    parameters.setU64(0, address);
    parameters.view.setUint32(8, value, true);
    parameters.setU64(16, parameters.address);
    parameters.setU64(24, parameters.address + 8);
    return parameters.address + 16;
  };
  return {
    control,
    cu,
    blas,
    lt,
    out,
    made,
    text(status) {
      cu.cuGetErrorString(status, out.address);
      return textAt(out.u64());
    },
    restart() {
      control.reset();
      control.setStreams("eager");
      control.setCheck(true);
      control.setMemory(2 ** 33);
      loaded = 0;
      cu.cuInit(0);
      cu.cuCtxSetCurrent(made(cu.cuDevicePrimaryCtxRetain(out.address, 0)));
    },
    alloc: (bytes) => made(cu.cuMemAlloc_v2(out.address, bytes)),
    pinned(bytes) {
      const address = made(cu.cuMemHostAlloc(out.address, bytes, 0));
      return { address, words: new Uint32Array(bytesAt(address, bytes)) };
    },
    stream: (flags = NON_BLOCKING) => made(cu.cuStreamCreate(out.address, flags)),
    event: () => made(cu.cuEventCreate(out.address, 0)),
    module,
    kernel(name) {
      loaded ||= module();
      return made(cu.cuModuleGetFunction(out.address, loaded, out.setText(64, name)));
    },
    launch: (kernel, address, value, stream = 0) =>
      cu.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, setParameters(address, value), 0),
    launchShape: (kernel, [gx = 1, gy = 1, gz = 1], [bx = 1, by = 1, bz = 1], shared) =>
      cu.cuLaunchKernel(kernel, gx, gy, gz, bx, by, bz, shared, 0, setParameters(0, 0), 0),
    peek: (address) => new DataView(bytesAt(address, 4)).getUint32(0, true),
  };
}
