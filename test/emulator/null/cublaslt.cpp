// A libcublasLt that does nothing.
#include <cstring>

#include "null.h"

using emulator::null::give;
using emulator::null::next_handle;

namespace {
constexpr size_t heuristic_result_bytes = 96;
}

API int cublasLtCreate(void** handle) { return give(handle, next_handle()); }
API size_t cublasLtGetVersion() { return 130000; }
API const char* cublasLtGetStatusName(int) { return "CUBLAS_STATUS_SUCCESS"; }
API const char* cublasLtGetStatusString(int) { return "success"; }
API int cublasLtMatmulDescCreate(void** descriptor, int, int) { return give(descriptor, next_handle()); }
API int cublasLtMatrixLayoutCreate(void** layout, int, uint64_t, uint64_t, int64_t) { return give(layout, next_handle()); }
API int cublasLtMatmulPreferenceCreate(void** preference) { return give(preference, next_handle()); }
API int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void* results, int* returned) {
  memset(results, 0, heuristic_result_bytes);
  return give(returned, 1);
}
DOES_NOTHING(cublasLtDestroy)
DOES_NOTHING(cublasLtMatmulDescDestroy)
DOES_NOTHING(cublasLtMatmulDescSetAttribute)
DOES_NOTHING(cublasLtMatrixLayoutDestroy)
DOES_NOTHING(cublasLtMatrixLayoutSetAttribute)
DOES_NOTHING(cublasLtMatmulPreferenceDestroy)
DOES_NOTHING(cublasLtMatmulPreferenceSetAttribute)
DOES_NOTHING(cublasLtMatmul)
