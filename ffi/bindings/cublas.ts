/**
 * The C interface of cuBLAS and cuBLASLt (libcublas.so, libcublasLt.so): each symbol with its arguments' C names and
 * types. Everything in them is column-major. The few that take host pointers to numbers get native memory.
 *
 * Source: cuBLAS documentation, https://docs.nvidia.com/cuda/cublas/
 */
import { dirname, join } from "node:path";
import { bindLibrary, type Calls } from "./bind.ts";
import type { Trace } from "./calls.ts";
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
  cublasGetProperty: "type:i32 value:ptr",
  cublasGetStatusName: "status:i32",
  cublasGetStatusString: "status:i32",
  cublasCreate_v2: "handle:ptr",
  cublasDestroy_v2: "handle:ptr",
  cublasSetStream_v2: "handle:ptr streamId:ptr",
  cublasSetWorkspace_v2: "handle:ptr workspace:ptr workspaceSizeInBytes:u64",
  cublasSetMathMode: "handle:ptr mode:i32",
  cublasGemmEx:
    "handle:ptr transa:i32 transb:i32 m:i32 n:i32 k:i32 alpha:ptr A:ptr Atype:i32 lda:i32 B:ptr Btype:i32 ldb:i32 beta:ptr C:ptr Ctype:i32 ldc:i32 computeType:i32 algo:i32",
} as const;

const lightSignatures = {
  cublasLtCreate: "lightHandle:ptr",
  cublasLtDestroy: "lightHandle:ptr",
  cublasLtMatmulDescCreate: "matmulDesc:ptr computeType:i32 scaleType:i32",
  cublasLtMatmulDescDestroy: "matmulDesc:ptr",
  cublasLtMatmulDescSetAttribute: "matmulDesc:ptr attr:i32 buf:ptr sizeInBytes:u64",
  cublasLtMatrixLayoutCreate: "matLayout:ptr type:i32 rows:u64 cols:u64 ld:i64",
  cublasLtMatrixLayoutDestroy: "matLayout:ptr",
  cublasLtMatmulPreferenceCreate: "pref:ptr",
  cublasLtMatmulPreferenceDestroy: "pref:ptr",
  cublasLtMatmulPreferenceSetAttribute: "pref:ptr attr:i32 buf:ptr sizeInBytes:u64",
  cublasLtMatmulAlgoGetHeuristic:
    "lightHandle:ptr operationDesc:ptr Adesc:ptr Bdesc:ptr Cdesc:ptr Ddesc:ptr preference:ptr requestedAlgoCount:i32 heuristicResultsArray:ptr returnAlgoCount:ptr",
  cublasLtMatmul:
    "lightHandle:ptr computeDesc:ptr alpha:ptr A:ptr Adesc:ptr B:ptr Bdesc:ptr beta:ptr C:ptr Cdesc:ptr D:ptr Ddesc:ptr algo:ptr workspace:ptr workspaceSizeInBytes:u64 stream:ptr",
} as const;

export type CublasSymbol = keyof typeof signatures;
export type CublasLtSymbol = keyof typeof lightSignatures;
export const cublasSignatures: Readonly<Record<CublasSymbol, string>> = signatures;
export const cublasLtSignatures: Readonly<Record<CublasLtSymbol, string>> = lightSignatures;

/** cudaDataType_t */
export const CUDA_R_32F = 0;
export const CUDA_R_16BF = 14;
/** cublasComputeType_t: float32 sums of float32 or bfloat16 products; TF32 has a separate value. */
export const CUBLAS_COMPUTE_32F = 68;
export const CUBLAS_OP_N = 0;
export const CUBLAS_OP_T = 1;
export const CUBLAS_GEMM_DEFAULT = -1;
/** Partial sums of bfloat16 products are not rounded to bfloat16 either. */
export const CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16;

/** cublasLtMatmulDescAttributes_t */
export const matmulAttribute = { TRANSA: 3, TRANSB: 4, EPILOGUE: 7, BIAS_POINTER: 8 } as const;
export const CUBLASLT_EPILOGUE_BIAS = 4;
/** cublasLtMatmulPreferenceAttributes_t */
export const preferenceAttribute = {
  MAX_WORKSPACE_BYTES: 1,
  REDUCTION_SCHEME_MASK: 3,
  MIN_ALIGNMENT_A_BYTES: 5,
  MIN_ALIGNMENT_B_BYTES: 6,
  MIN_ALIGNMENT_C_BYTES: 7,
  MIN_ALIGNMENT_D_BYTES: 8,
} as const;
/** Partial sums are added in the compute type (cublasLtReductionScheme_t). */
export const CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2;
/** Bytes of cublasLtMatmulHeuristicResult_t, which starts with the algorithm; the status follows the size. */
export const heuristicResult = { bytes: 96, workspaceAt: 64, statusAt: 72 } as const;

const CUBLAS_STATUS_SUCCESS = 0;
const cures: Readonly<Record<number, string>> = {
  1: "cuBLAS could not start on this GPU: see that its version fits the driver (grpo doctor)",
  3: "the GPU has no memory left for cuBLAS: lower micro_batch_tokens or max_concurrent_sequences",
  8: "this GPU is too old for the library: compute capability 8.0 is needed",
  13: "a kernel failed on the GPU: start again from the last checkpoint",
  15: "this version of cuBLAS does not offer the product: install a newer one",
};

export interface Cublas {
  readonly path: string;
  /** "13.1.0" */
  readonly version: string;
  readonly calls: Calls<typeof signatures>;
  readonly light: Calls<typeof lightSignatures>;
  /** @throws NvidiaCallError with the library's own text */
  check(call: CublasSymbol | CublasLtSymbol, status: number): void;
}

const cure = "install it: pip install nvidia-cublas, conda install libcublas, or NVIDIA's CUDA toolkit";

/**
 * Finds and loads cuBLAS, cuBLASLt first and from the same folder, since the loader would search for it by its bare name.
 *
 * @throws MissingLibraryError if there is none
 */
export function openCublas(
  options: SearchOptions,
  versions: readonly number[] = majorVersions,
  trace: Trace | null = null,
): Cublas {
  const lightName = (major: number) => `libcublasLt.so.${major}`;
  const beside = (major: number) => [lightName(major)];
  const found = findLibrary("libcublas", versions, libraryFolders(options), options, beside, cure);
  const byName = !found.path.includes("/");
  const lightPath = byName ? lightName(found.major) : join(dirname(found.path), lightName(found.major));
  preload(lightPath);
  const calls = bindLibrary(found.path, signatures, ["cublasGetStatusName", "cublasGetStatusString"], trace);
  const light = bindLibrary(lightPath, lightSignatures, [], trace);
  const check = (call: CublasSymbol | CublasLtSymbol, status: number) => {
    if (status === CUBLAS_STATUS_SUCCESS) return;
    const name = textAt(Number(calls.cublasGetStatusName(status)));
    const text = textAt(Number(calls.cublasGetStatusString(status)));
    throw new NvidiaCallError(call, status, name, text === name ? "" : text, cures[status] ?? "see grpo doctor");
  };
  const out = nativeBlock(64);
  try {
    // libraryPropertyType_t: major, minor, patch
    for (const property of [0, 1, 2])
      check("cublasGetProperty", calls.cublasGetProperty(property, out.address + 4 * property));
    const version = [0, 4, 8].map((offset) => out.i32(offset)).join(".");
    return { path: loadedFile(found.path), version, calls, light, check };
  } finally {
    out.free();
  }
}
