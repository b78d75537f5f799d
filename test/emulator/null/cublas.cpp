// A libcublas that does nothing.
#include "null.h"

using emulator::null::give;
using emulator::null::next_handle;

API int cublasCreate_v2(void** handle) { return give(handle, next_handle()); }
API int cublasGetStream_v2(void*, void** stream) { return give(stream, static_cast<void*>(nullptr)); }
API int cublasGetMathMode(void*, int* mode) { return give(mode, 0); }
API int cublasGetVersion_v2(void*, int* version) { return give(version, 130000); }
API int cublasGetProperty(int type, int* value) { return give(value, type == 0 ? 13 : 0); }
API const char* cublasGetStatusName(int) { return "CUBLAS_STATUS_SUCCESS"; }
API const char* cublasGetStatusString(int) { return "success"; }
DOES_NOTHING(cublasDestroy_v2)
DOES_NOTHING(cublasSetStream_v2)
DOES_NOTHING(cublasSetWorkspace_v2)
DOES_NOTHING(cublasSetMathMode)
DOES_NOTHING(cublasSetPointerMode_v2)
DOES_NOTHING(cublasSetAtomicsMode)
DOES_NOTHING(cublasGemmEx)
DOES_NOTHING(cublasGemmStridedBatchedEx)
DOES_NOTHING(cublasSgemm_v2)
