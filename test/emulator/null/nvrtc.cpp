// An NVRTC that does nothing: its machine code is a few bytes of text that say so.
#include <cstring>

#include "null.h"

using emulator::null::give;
using emulator::null::next_handle;

namespace {
const char blob[] = "\177ELF null";
}

API const char* nvrtcGetErrorString(int) { return "NVRTC_SUCCESS"; }
API int nvrtcVersion(int* major, int* minor) { return give(major, 13), give(minor, 0); }
API int nvrtcGetNumSupportedArchs(int* count) { return give(count, 1); }
API int nvrtcGetSupportedArchs(int* architectures) { return give(architectures, 80); }
API int nvrtcCreateProgram(void** program, const char*, const char*, int, const char* const*, const char* const*) {
  return give(program, next_handle());
}
DOES_NOTHING(nvrtcDestroyProgram)
DOES_NOTHING(nvrtcCompileProgram)
API int nvrtcGetPTXSize(void*, size_t* size) { return give(size, size_t(1)); }
API int nvrtcGetPTX(void*, char* ptx) { return give(ptx, '\0'); }
API int nvrtcGetCUBINSize(void*, size_t* size) { return give(size, sizeof blob); }
API int nvrtcGetCUBIN(void*, char* cubin) { return memcpy(cubin, blob, sizeof blob), 0; }
API int nvrtcGetProgramLogSize(void*, size_t* size) { return give(size, size_t(1)); }
API int nvrtcGetProgramLog(void*, char* log) { return give(log, '\0'); }
