// Initialisation, the primary context, the thread it is current for, the fault that ends it; the guard of every call.
#include <cstdio>
#include <cstdlib>

#include "driver.h"

namespace emulator::driver {

namespace {

std::recursive_mutex mutex;
bool initialized = false;
thread_local std::vector<Context*> current;  // a stack, its top is current

}  // namespace

Context& context() {
  static Context only;
  return only;
}

std::map<std::string, uint64_t>& calls_by_name() {
  static std::map<std::string, uint64_t> calls;
  return calls;
}

void set_sticky(Status status) {
  if (!context().sticky) context().sticky = status;
}

Call::Call(const char* name, Needs needs) : status(success), lock(mutex) {
  driver_settings();  // reads the environment at the first call
  if (name) calls_by_name()[name]++;
  if (needs == Needs::nothing) return;
  if (!initialized) {
    status = not_initialized;
  } else if (needs == Needs::context) {
    if (current.empty() || !current.back() || !context().retained)
      status = invalid_context;
    else
      status = context().sticky;
  }
}

LiveObjects live_objects() {
  LiveObjects live;
  count_streams(&live);
  count_memory(&live);
  count_modules(&live);
  count_graphs(&live);
  for (const auto& [library, count] : library_objects()) live.handles += size_t(count);
  return live;
}

void destroy_objects(std::string* leaks) {
  const bool healthy = !context().sticky;
  if (healthy) wait_all();
  const LiveObjects live = live_objects();
  if (leaks && healthy && live.total()) {
    char text[256];
    snprintf(text, sizeof text,
             "the context was released with %zu allocations, %zu pinned buffers, %zu streams, %zu events, %zu modules, "
             "%zu graphs, %zu executable graphs, %zu objects of cuBLAS live",
             live.allocations, live.pinned, live.streams, live.events, live.modules, live.graphs, live.executables,
             live.handles);
    *leaks = text;
  }
  clear_graphs();
  clear_streams();
  clear_modules();
  clear_memory();
  context().sticky = success;
}

}  // namespace emulator::driver

using namespace emulator::driver;

API int cuInit(unsigned flags) {
  BEGIN_CALL(Needs::nothing);
  if (flags) return invalid_value;
  initialized = true;
  return success;
}

API int cuDevicePrimaryCtxRetain(Handle* handle, int device) {
  BEGIN_CALL(Needs::initialized);
  if (!handle) return invalid_value;
  if (device != 0) return invalid_device;
  context().retained++;
  *handle = &context();
  return success;
}

API int cuDevicePrimaryCtxRelease_v2(int device) {
  BEGIN_CALL(Needs::initialized);
  if (device != 0) return invalid_device;
  if (!context().retained) return invalid_context;
  if (--context().retained) return success;
  std::string leaks;
  destroy_objects(&leaks);
  if (!leaks.empty()) emulator::report("leak", "", leaks);
  return success;
}

API int cuDevicePrimaryCtxReset_v2(int device) {
  BEGIN_CALL(Needs::initialized);
  if (device != 0) return invalid_device;
  destroy_objects(nullptr);
  return success;
}

API int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
  BEGIN_CALL(Needs::initialized);
  if (!flags || !active) return invalid_value;
  if (device != 0) return invalid_device;
  *flags = 0;
  *active = context().retained > 0;
  return success;
}

API int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) {
  BEGIN_CALL(Needs::initialized);
  if (device != 0) return invalid_device;
  return flags & ~0x7fu ? invalid_value : success;
}

API int cuCtxSetCurrent(Handle handle) {
  BEGIN_CALL(Needs::initialized);
  if (handle && handle != &context()) return invalid_context;
  if (!current.empty()) current.pop_back();
  if (handle) current.push_back(&context());
  return success;
}

API int cuCtxGetCurrent(Handle* handle) {
  BEGIN_CALL(Needs::initialized);
  if (!handle) return invalid_value;
  *handle = current.empty() ? nullptr : current.back();
  return success;
}

API int cuCtxPushCurrent_v2(Handle handle) {
  BEGIN_CALL(Needs::initialized);
  if (handle != &context()) return invalid_context;
  current.push_back(&context());
  return success;
}

API int cuCtxPopCurrent_v2(Handle* handle) {
  BEGIN_CALL(Needs::initialized);
  if (current.empty()) return invalid_context;
  if (handle) *handle = current.back();
  current.pop_back();
  return success;
}

API int cuCtxGetDevice(int* device) {
  BEGIN_CALL(Needs::context);
  if (!device) return invalid_value;
  *device = 0;
  return success;
}

API int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  BEGIN_CALL(Needs::context);
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return success;
}

API int cuCtxSynchronize() {
  BEGIN_CALL(Needs::context);
  if (const Status status = forbid_capture()) return status;
  wait_all();
  return context().sticky;
}

// The driver's private tables. NVRTC asks for them if it finds a driver, and works without them otherwise.
API int cuGetExportTable(const void** table, const void*) {
  BEGIN_CALL(Needs::nothing);
  if (!table) return invalid_value;
  *table = nullptr;
  return not_found;
}
