// Modules: the engine receives PTX where the real driver takes a cubin, so a module for another architecture is rejected as a
// cubin would be. Functions and their attributes, globals.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

#include "driver.h"

namespace emulator::driver {

struct LoadedModule {
  Module* engine = nullptr;
  std::map<std::string, std::shared_ptr<Function>> functions;
  std::vector<Range> globals;  // those requested
};

namespace {

std::unordered_map<Handle, std::shared_ptr<LoadedModule>> modules;

// The number of ".target sm_80" or ".target sm_90a"; 0 if absent.
int target_of(const char* ptx) {
  const char* at = strstr(ptx, "\n.target sm_");
  return at ? atoi(at + strlen("\n.target sm_")) : 0;
}

enum JitOption { error_log = 5, error_log_bytes = 6 };

void write_log(const std::string& reason, unsigned count, const int* options, void** values) {
  char* buffer = nullptr;
  size_t size = 0, size_at = count;
  for (unsigned i = 0; i < count; i++) {
    if (options[i] == error_log) buffer = static_cast<char*>(values[i]);
    if (options[i] == error_log_bytes) size = size_t(values[i]), size_at = i;
  }
  if (!buffer || !size) return;
  snprintf(buffer, size, "%s", reason.c_str());
  values[size_at] = reinterpret_cast<void*>(strlen(buffer));
}

Status load(Handle* handle, const void* image, unsigned count, const int* options, void** values) {
  if (!handle || !image || (count && (!options || !values))) return invalid_value;
  if (const Status status = forbid_capture()) return status;
  const char* text = static_cast<const char*>(image);
  if (!memcmp(text, "\177ELF", 4)) return invalid_image;
  const int target = target_of(text), device = driver_settings().compute_capability;
  if (!target) return invalid_image;
  if (target / 10 != device / 10 || target > device) return no_binary_for_gpu;
  std::string reason;
  Module* engine = load_module(text, strlen(text), &reason);
  if (!engine) {
    write_log(reason, count, options, values);
    report("ptx", "", reason);
    return invalid_ptx;
  }
  auto module = std::make_shared<LoadedModule>();
  module->engine = engine;
  *handle = module.get();
  modules[module.get()] = std::move(module);
  return success;
}

int default_dynamic_limit(const Kernel& kernel) {
  return std::max(0, device_attribute(shared_per_block) - int(kernel.static_shared));
}

}  // namespace

std::shared_ptr<Function> find_function(Handle handle) {
  for (const auto& [_, module] : modules)
    for (const auto& [name, function] : module->functions)
      if (function.get() == handle) return function;
  return nullptr;
}

bool inside_module_global(uint64_t address, uint64_t size) {
  for (const auto& [_, module] : modules)
    for (const Range& range : module->globals)
      if (address >= range.address && address + size <= range.address + range.size) return true;
  return false;
}

void count_modules(LiveObjects* live) { live->modules = modules.size(); }

void clear_modules() {
  for (auto& [_, module] : modules) unload_module(module->engine);
  modules.clear();
}

}  // namespace emulator::driver

using namespace emulator::driver;

API int cuModuleLoadDataEx(Handle* handle, const void* image, unsigned count, int* options, void** values) {
  BEGIN_CALL(Needs::context);
  return load(handle, image, count, options, values);
}

API int cuModuleLoadData(Handle* handle, const void* image) {
  BEGIN_CALL(Needs::context);
  return load(handle, image, 0, nullptr, nullptr);
}

API int cuModuleUnload(Handle handle) {
  BEGIN_CALL(Needs::context);
  const auto found = modules.find(handle);
  if (found == modules.end()) return invalid_handle;
  if (const Status status = forbid_capture()) return status;
  wait_all();
  emulator::unload_module(found->second->engine);
  modules.erase(found);
  return context().sticky;
}

API int cuModuleGetFunction(Handle* handle, Handle module_handle, const char* name) {
  BEGIN_CALL(Needs::context);
  const auto found = modules.find(module_handle);
  if (found == modules.end()) return invalid_handle;
  if (!handle || !name) return invalid_value;
  LoadedModule& module = *found->second;
  auto& function = module.functions[name];
  if (!function) {
    const emulator::Kernel* kernel = emulator::find_kernel(module.engine, name);
    if (!kernel) {
      module.functions.erase(name);
      return not_found;
    }
    function = std::make_shared<Function>();
    function->kernel = kernel;
    function->dynamic_shared_limit = default_dynamic_limit(*kernel);
  }
  *handle = function.get();
  return success;
}

API int cuModuleGetGlobal_v2(uint64_t* address, size_t* size, Handle module_handle, const char* name) {
  BEGIN_CALL(Needs::context);
  const auto found = modules.find(module_handle);
  if (found == modules.end()) return invalid_handle;
  if (!name) return invalid_value;
  const emulator::Global* global = emulator::find_global(found->second->engine, name);
  if (!global) return not_found;
  found->second->globals.push_back({uint64_t(global->address), global->size});
  if (address) *address = uint64_t(global->address);
  if (size) *size = global->size;
  return success;
}

// CUfunction_attribute
enum FunctionAttribute { max_threads = 0, static_shared = 1, constant_bytes = 2, local_bytes = 3, registers = 4,
                         ptx_version = 5, binary_version = 6, cache_ca = 7, max_dynamic_shared = 8, carveout = 9 };

API int cuFuncGetAttribute(int* value, int attribute, Handle handle) {
  BEGIN_CALL(Needs::context);
  const auto function = find_function(handle);
  if (!function) return invalid_handle;
  if (!value) return invalid_value;
  const emulator::Kernel& kernel = *function->kernel;
  switch (attribute) {
    case max_threads: *value = kernel.max_threads ? int(std::min(kernel.max_threads, 1024u)) : 1024; break;
    case static_shared: *value = int(kernel.static_shared); break;
    case constant_bytes: case local_bytes: case cache_ca: *value = 0; break;
    case registers: *value = 32; break;  // PTX has only virtual registers; the static gates know the real count
    case ptx_version: case binary_version: *value = driver_settings().compute_capability; break;
    case max_dynamic_shared: *value = function->dynamic_shared_limit; break;
    case carveout: *value = function->carveout; break;
    default: return invalid_value;
  }
  return success;
}

API int cuFuncSetAttribute(Handle handle, int attribute, int value) {
  BEGIN_CALL(Needs::context);
  const auto function = find_function(handle);
  if (!function) return invalid_handle;
  if (attribute == max_dynamic_shared) {
    const int limit = device_attribute(shared_per_block_optin) - int(function->kernel->static_shared);
    if (value < 0 || value > limit) return invalid_value;
    function->dynamic_shared_limit = value;
  } else if (attribute == carveout) {
    if (value < -1 || value > 100) return invalid_value;
    function->carveout = value;
  } else {
    return invalid_value;
  }
  return success;
}

API int cuFuncGetName(const char** name, Handle handle) {
  BEGIN_CALL(Needs::context);
  const auto function = find_function(handle);
  if (!function) return invalid_handle;
  if (!name) return invalid_value;
  *name = function->kernel->name;
  return success;
}

API int cuFuncGetParamInfo(Handle handle, size_t index, size_t* offset, size_t* size) {
  BEGIN_CALL(Needs::context);
  const auto function = find_function(handle);
  if (!function) return invalid_handle;
  if (!offset || index >= function->kernel->parameter_count) return invalid_value;
  *offset = function->kernel->parameters[index].offset;
  if (size) *size = function->kernel->parameters[index].size;
  return success;
}
