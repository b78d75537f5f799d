// Modules: compiled and loaded PTX, with its kernels and globals.
#include <dlfcn.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <map>
#include <mutex>

#include "allocation.h"
#include "compile.h"
#include "state.h"

namespace emulator {
namespace {

std::mutex lock;
std::map<std::string, int> loaded;  // libraries by path, and how often they are open

// A library opened twice is the same memory, but two modules have separate variables.
void* open_apart(const std::string& path) {
  static int copies = 0;
  std::string copy = path + "." + std::to_string(getpid()) + "-" + std::to_string(copies++);
  std::ofstream(copy, std::ios::binary) << std::ifstream(path, std::ios::binary).rdbuf();
  void* library = dlopen(copy.c_str(), RTLD_NOW | RTLD_LOCAL);
  unlink(copy.c_str());
  return library;
}

}  // namespace

Module* load_module(const char* ptx, size_t length, std::string* reason) {
  std::string path = compile_ptx(std::string(ptx, strnlen(ptx, length)), reason);
  if (path.empty()) return nullptr;
  std::lock_guard guard(lock);
  void* library = loaded[path]++ ? open_apart(path) : dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  const auto* table = library ? (const ModuleTable*)dlsym(library, "emulator_module") : nullptr;
  if (!table) {
    const char* error = dlerror();
    *reason = error ? error : path + " cannot be loaded";
    return nullptr;
  }
  auto* module = new Module();
  module->library = library;
  module->path = path;
  module->table = table;
  for (u32 k = 0; k < table->kernel_count; k++) {
    const KernelEntry& entry = table->kernels[k];
    auto record = std::make_unique<KernelRecord>();
    for (u32 p = 0; p < entry.parameter_count; p++)
      record->parameters.push_back({entry.parameters[p].offset, entry.parameters[p].size});
    record->entry = &entry;
    record->module = module;
    record->kernel = {entry.name,          record->parameters.data(), entry.parameter_count, entry.parameter_bytes,
                      entry.static_shared, entry.max_threads,         record.get()};
    module->kernels.push_back(std::move(record));
  }
  for (u32 g = 0; g < table->global_count; g++) {
    const GlobalEntry& entry = table->globals[g];
    module->globals.push_back({entry.name, entry.address, entry.size});
    add_allocation((uint64_t)entry.address, entry.size);
    remember_written((uint64_t)entry.address, entry.size);  // its initial value
  }
  return module;
}

void unload_module(Module* module) {
  for (const Global& global : module->globals) remove_allocation((uint64_t)global.address);
  dlclose(module->library);
  std::lock_guard guard(lock);
  loaded[module->path]--;
  delete module;
}

const Kernel* find_kernel(const Module* module, const char* name) {
  for (const auto& record : module->kernels)
    if (!strcmp(record->kernel.name, name)) return &record->kernel;
  return nullptr;
}

const Global* find_global(const Module* module, const char* name) {
  for (const Global& global : module->globals)
    if (!strcmp(global.name, name)) return &global;
  return nullptr;
}

}  // namespace emulator
