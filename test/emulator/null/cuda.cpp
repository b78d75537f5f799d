// A libcuda that does nothing, so that only the host's time remains. Device memory is just address space; pinned memory is real
// and zero.
#include <sys/mman.h>

#include <cstring>
#include <map>
#include <mutex>

#include "null.h"

using emulator::null::give;
using emulator::null::next_handle;

namespace {

std::mutex mutex;
std::map<uint64_t, size_t> mappings;

uint64_t map(size_t size, int protection) {
  void* at = mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return 0;
  const std::lock_guard lock(mutex);
  mappings[uint64_t(at)] = size;
  return uint64_t(at);
}

int unmap(uint64_t address) {
  const std::lock_guard lock(mutex);
  const auto found = mappings.find(address);
  if (found == mappings.end()) return 0;
  munmap(reinterpret_cast<void*>(address), found->second);
  mappings.erase(found);
  return 0;
}

constexpr int out_of_memory = 2;
constexpr size_t total_memory = 80ull << 30;

// Values of an A100, as far as launches depend on them.
int attribute_value(int attribute) {
  switch (attribute) {
    case 1: case 2: case 3: return 1024;
    case 4: return 64;
    case 5: return 2147483647;
    case 6: case 7: return 65535;
    case 8: return 49152;
    case 10: return 32;
    case 12: return 65536;
    case 13: return 1410000;
    case 16: return 108;
    case 39: return 2048;
    case 75: return 8;
    case 81: return 167936;
    case 97: return 166912;
    default: return 0;
  }
}

int pinned(void** pointer, size_t size) {
  const uint64_t address = map(size, PROT_READ | PROT_WRITE);
  return address ? give(pointer, reinterpret_cast<void*>(address)) : out_of_memory;
}

}  // namespace

API int cuGetErrorName(int, const char** name) { return give(name, "CUDA_SUCCESS"); }
API int cuGetErrorString(int, const char** text) { return give(text, "no error"); }
DOES_NOTHING(cuTensorMapEncodeTiled)
DOES_NOTHING(cuInit)
API int cuGetExportTable(const void** table, const void*) { return give(table, static_cast<const void*>(nullptr)), 500; }
API int cuDriverGetVersion(int* version) { return give(version, 13000); }

API int cuDeviceGet(int* device, int) { return give(device, 0); }
API int cuDeviceGetCount(int* count) { return give(count, 1); }
API int cuDeviceGetName(char* name, int length, int) {
  if (name && length > 0) strncpy(name, "Null GPU", size_t(length));
  return 0;
}
API int cuDeviceGetUuid(unsigned char* uuid, int) { return memset(uuid, 0, 16), 0; }
API int cuDeviceGetUuid_v2(unsigned char* uuid, int) { return memset(uuid, 0, 16), 0; }
API int cuDeviceGetPCIBusId(char* id, int length, int) {
  if (id && length > 0) strncpy(id, "0000:00:00.0", size_t(length));
  return 0;
}
API int cuDeviceGetAttribute(int* value, int attribute, int) { return give(value, attribute_value(attribute)); }
API int cuDeviceTotalMem_v2(size_t* bytes, int) { return give(bytes, total_memory); }
API int cuDeviceComputeCapability(int* major, int* minor, int) { return give(major, 8), give(minor, 0); }

API int cuDevicePrimaryCtxRetain(void** context, int) { return give(context, next_handle()); }
API int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) { return give(flags, 0u), give(active, 1); }
DOES_NOTHING(cuDevicePrimaryCtxRelease_v2)
DOES_NOTHING(cuDevicePrimaryCtxReset_v2)
DOES_NOTHING(cuDevicePrimaryCtxSetFlags_v2)
DOES_NOTHING(cuCtxSetCurrent)
DOES_NOTHING(cuCtxPushCurrent_v2)
DOES_NOTHING(cuCtxSynchronize)
API int cuCtxGetCurrent(void** context) { return give(context, next_handle()); }
API int cuCtxPopCurrent_v2(void** context) { return give(context, next_handle()); }
API int cuCtxGetDevice(int* device) { return give(device, 0); }
API int cuCtxGetStreamPriorityRange(int* least, int* greatest) { return give(least, 0), give(greatest, 0); }

API int cuMemGetInfo_v2(size_t* free, size_t* total) { return give(free, total_memory), give(total, total_memory); }
API int cuMemAlloc_v2(uint64_t* address, size_t size) {
  const uint64_t mapped = map(size, PROT_NONE);
  return mapped ? give(address, mapped) : out_of_memory;
}
API int cuMemFree_v2(uint64_t address) { return unmap(address); }
API int cuMemGetAddressRange_v2(uint64_t* base, size_t* size, uint64_t address) {
  const std::lock_guard lock(mutex);
  const auto next = mappings.upper_bound(address);
  if (next == mappings.begin()) return 0;
  return give(base, std::prev(next)->first), give(size, std::prev(next)->second);
}
API int cuMemHostAlloc(void** pointer, size_t size, unsigned) { return pinned(pointer, size); }
API int cuMemAllocHost_v2(void** pointer, size_t size) { return pinned(pointer, size); }
API int cuMemFreeHost(void* pointer) { return unmap(uint64_t(pointer)); }
DOES_NOTHING(cuMemHostRegister_v2)
DOES_NOTHING(cuMemHostUnregister)
API int cuMemHostGetDevicePointer_v2(uint64_t* device, void* pointer, unsigned) { return give(device, uint64_t(pointer)); }
API int cuMemHostGetFlags(unsigned* flags, void*) { return give(flags, 0u); }

DOES_NOTHING(cuMemcpy)
DOES_NOTHING(cuMemcpyAsync)
DOES_NOTHING(cuMemcpyHtoD_v2)
DOES_NOTHING(cuMemcpyDtoH_v2)
DOES_NOTHING(cuMemcpyDtoD_v2)
DOES_NOTHING(cuMemcpyHtoDAsync_v2)
DOES_NOTHING(cuMemcpyDtoHAsync_v2)
DOES_NOTHING(cuMemcpyDtoDAsync_v2)
DOES_NOTHING(cuMemsetD8_v2)
DOES_NOTHING(cuMemsetD16_v2)
DOES_NOTHING(cuMemsetD32_v2)
DOES_NOTHING(cuMemsetD8Async)
DOES_NOTHING(cuMemsetD16Async)
DOES_NOTHING(cuMemsetD32Async)

API int cuStreamCreate(void** stream, unsigned) { return give(stream, next_handle()); }
API int cuStreamCreateWithPriority(void** stream, unsigned, int) { return give(stream, next_handle()); }
API int cuStreamGetFlags(void*, unsigned* flags) { return give(flags, 0u); }
API int cuStreamIsCapturing(void*, int* status) { return give(status, 0); }
API int cuStreamEndCapture(void*, void** graph) { return give(graph, next_handle()); }
DOES_NOTHING(cuStreamBeginCapture_v2)
DOES_NOTHING(cuThreadExchangeStreamCaptureMode)
DOES_NOTHING(cuStreamDestroy_v2)
DOES_NOTHING(cuStreamSynchronize)
DOES_NOTHING(cuStreamQuery)
DOES_NOTHING(cuStreamWaitEvent)

API int cuEventCreate(void** event, unsigned) { return give(event, next_handle()); }
API int cuEventElapsedTime(float* milliseconds, void*, void*) { return give(milliseconds, 0.0f); }
API int cuEventElapsedTime_v2(float* milliseconds, void*, void*) { return give(milliseconds, 0.0f); }
DOES_NOTHING(cuEventDestroy_v2)
DOES_NOTHING(cuEventRecord)
DOES_NOTHING(cuEventRecordWithFlags)
DOES_NOTHING(cuEventQuery)
DOES_NOTHING(cuEventSynchronize)

API int cuModuleLoadData(void** module, const void*) { return give(module, next_handle()); }
API int cuModuleLoadDataEx(void** module, const void*, unsigned, int*, void**) { return give(module, next_handle()); }
API int cuModuleGetFunction(void** function, void*, const char*) { return give(function, next_handle()); }
API int cuModuleGetGlobal_v2(uint64_t* address, size_t* size, void*, const char*) {
  return give(address, uint64_t(next_handle())), give(size, size_t(0));
}
DOES_NOTHING(cuModuleUnload)
API int cuFuncGetAttribute(int* value, int, void*) { return give(value, 1024); }
API int cuFuncGetName(const char** name, void*) { return give(name, ""); }
API int cuFuncGetParamInfo(void*, size_t, size_t* offset, size_t* size) { return give(offset, size_t(0)), give(size, size_t(0)); }
DOES_NOTHING(cuFuncSetAttribute)
DOES_NOTHING(cuLaunchKernel)

API int cuGraphInstantiateWithFlags(void** executable, void*, uint64_t) { return give(executable, next_handle()); }
API int cuGraphGetNodes(void*, void**, size_t* count) { return give(count, size_t(0)); }
API int cuGraphNodeGetType(void*, int* type) { return give(type, 0); }
DOES_NOTHING(cuGraphLaunch)
DOES_NOTHING(cuGraphUpload)
DOES_NOTHING(cuGraphExecDestroy)
DOES_NOTHING(cuGraphDestroy)
