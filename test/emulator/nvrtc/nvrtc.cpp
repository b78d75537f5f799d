// libnvrtc: compiles with a real NVRTC if there is one, else answers from recordings. In both cases the "cubin" it returns is
// PTX, which the emulated driver accepts in place of a cubin. Leaves out name expressions (the kernels are extern "C"), LTO and
// precompiled headers.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "recordings.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

using namespace emulator::nvrtc;

// nvrtcResult
enum Result : int { success = 0, invalid_input = 3, invalid_program = 4, compilation_failed = 6, internal_error = 11 };

struct Compiled : Program {
  std::string log, ptx;
  bool for_device = false;  // -arch=sm_XX rather than compute_XX: a cubin exists
};

std::recursive_mutex mutex;
std::set<Compiled*> programs;

Compiled* find(void* handle) {
  const auto found = programs.find(static_cast<Compiled*>(handle));
  return found == programs.end() ? nullptr : *found;
}

// The real library's calls needed for a compilation.
struct Real {
  void* library = nullptr;
  int (*version)(int*, int*);
  int (*create)(void**, const char*, const char*, int, const char* const*, const char* const*);
  int (*destroy)(void**);
  int (*compile)(void*, int, const char* const*);
  int (*ptx_size)(void*, size_t*);
  int (*ptx)(void*, char*);
  int (*log_size)(void*, size_t*);
  int (*log)(void*, char*);
};

// EMULATOR_NVRTC (empty: none), else the one that the gates' script has fetched, beside the folder of this library.
std::string real_path() {
  if (const char* path = getenv("EMULATOR_NVRTC")) return path;
  namespace fs = std::filesystem;
  std::error_code error;
  std::string found;  // version 12, unless there is a 13
  for (fs::recursive_directory_iterator at(library_folder() + "/../nvidia", error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename();
    if (name.starts_with("fetch-")) at.disable_recursion_pending();  // a fetch in progress
    if (name == "libnvrtc.so.13") return at->path();
    if (name == "libnvrtc.so.12") found = at->path();
  }
  return found;
}

Real load(const std::string& path) {
  Real calls;
  if (path.empty()) return calls;
  // NVRTC loads its builtins by their bare name, which the loader finds once they are loaded.
  std::error_code ignored;
  for (const auto& file : std::filesystem::directory_iterator(std::filesystem::path(path).parent_path(), ignored))
    if (file.path().filename().string().starts_with("libnvrtc-builtins.so."))
      dlopen(file.path().c_str(), RTLD_NOW | RTLD_GLOBAL);
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fprintf(stderr, "emulator: %s\n", dlerror());
    return calls;
  }
  bool complete = true;
  const auto bind = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    complete &= function != nullptr;
  };
  bind(calls.version, "nvrtcVersion");
  bind(calls.create, "nvrtcCreateProgram");
  bind(calls.destroy, "nvrtcDestroyProgram");
  bind(calls.compile, "nvrtcCompileProgram");
  bind(calls.ptx_size, "nvrtcGetPTXSize");
  bind(calls.ptx, "nvrtcGetPTX");
  bind(calls.log_size, "nvrtcGetProgramLogSize");
  bind(calls.log, "nvrtcGetProgramLog");
  if (complete) calls.library = library;
  return calls;
}

Real& real() {
  static Real loaded = load(real_path());
  return loaded;
}

// EMULATOR_FETCH: a command that fetches NVRTC and prints its folder last. Run once per process, as the last resort.
void fetch() {
  static bool tried = false;
  const char* command = getenv("EMULATOR_FETCH");
  if (tried || !command || !*command || getenv("EMULATOR_NVRTC")) return;
  tried = true;
  fprintf(stderr, "emulator: a kernel that was never recorded: fetching NVIDIA's compiler\n");
  FILE* output = popen(command, "r");
  if (!output) return;
  std::string folder;
  char line[4096];
  while (fgets(line, sizeof line, output)) folder = line;
  const int status = pclose(output);
  while (!folder.empty() && folder.back() == '\n') folder.pop_back();
  if (status == 0 && !folder.empty()) real() = load(folder + "/libnvrtc.so.13");
}

std::string text_of(int (*size_of)(void*, size_t*), int (*read)(void*, char*), void* program) {
  size_t size = 0;
  if (size_of(program, &size) || !size) return "";
  std::string text(size, '\0');
  if (read(program, text.data())) return "";
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

int compile_really(Compiled& program, int count, const char* const* options) {
  std::vector<const char*> texts, names;
  for (const auto& [name, text] : program.headers) {
    names.push_back(name.c_str());
    texts.push_back(text.c_str());
  }
  void* handle = nullptr;
  int result = real().create(&handle, program.source.c_str(), program.name.c_str(), int(texts.size()), texts.data(), names.data());
  if (result) return result;
  result = real().compile(handle, count, options);
  program.log = text_of(real().log_size, real().log, handle);
  if (!result) program.ptx = text_of(real().ptx_size, real().ptx, handle);
  real().destroy(&handle);
  return result;
}

// Reports in the log, and in the file EMULATOR_MISSING, what could not be compiled.
int refuse(Compiled& program, const std::string& hash, const std::vector<std::string>& options) {
  program.log = program.name + " with";
  for (const std::string& option : options) program.log += " " + option;
  program.log += ": no recording of it (" + hash + " in " + recordings_folder() +
                 "), so NVIDIA's compiler (NVRTC) is needed: fetch it with `bun test/cuda/gates/fetch-nvrtc.ts`, or name "
                 "its file in EMULATOR_NVRTC\n";
  if (const char* path = getenv("EMULATOR_MISSING")) {
    if (FILE* file = fopen(path, "w")) {
      fputs(program.log.c_str(), file);
      fclose(file);
    }
  }
  return compilation_failed;
}

// The answers of nvrtcGet…Size and nvrtcGet…: the text and its terminating zero.
int size_of_text(void* handle, size_t* size, std::string Compiled::* text) {
  const std::lock_guard lock(mutex);
  Compiled* program = find(handle);
  if (!program) return invalid_program;
  if (!size) return invalid_input;
  *size = (program->*text).size() + 1;
  return success;
}

int copy_text(void* handle, char* target, std::string Compiled::* text) {
  const std::lock_guard lock(mutex);
  Compiled* program = find(handle);
  if (!program) return invalid_program;
  if (!target) return invalid_input;
  memcpy(target, (program->*text).c_str(), (program->*text).size() + 1);
  return success;
}

const int architectures[] = {80, 86, 89, 90, 100, 120};

}  // namespace

API const char* nvrtcGetErrorString(int result) {
  static const char* const names[] = {"NVRTC_SUCCESS", "NVRTC_ERROR_OUT_OF_MEMORY", "NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
                                      "NVRTC_ERROR_INVALID_INPUT", "NVRTC_ERROR_INVALID_PROGRAM", "NVRTC_ERROR_INVALID_OPTION",
                                      "NVRTC_ERROR_COMPILATION", "NVRTC_ERROR_BUILTIN_OPERATION_FAILURE"};
  if (result >= 0 && result < 8) return names[result];
  return result == internal_error ? "NVRTC_ERROR_INTERNAL_ERROR" : "NVRTC_ERROR unknown";
}

API int nvrtcVersion(int* major, int* minor) {
  if (!major || !minor) return invalid_input;
  if (real().library) return real().version(major, minor);
  *major = 13;
  *minor = 0;
  return success;
}

API int nvrtcGetNumSupportedArchs(int* count) {
  if (!count) return invalid_input;
  *count = int(std::size(architectures));
  return success;
}

API int nvrtcGetSupportedArchs(int* supported) {
  if (!supported) return invalid_input;
  memcpy(supported, architectures, sizeof architectures);
  return success;
}

API int nvrtcCreateProgram(void** handle, const char* source, const char* name, int count, const char* const* headers,
                           const char* const* names) {
  if (!handle || !source || count < 0 || (count && (!headers || !names))) return invalid_input;
  const std::lock_guard lock(mutex);
  auto* program = new Compiled;
  program->source = source;
  program->name = name && *name ? name : "default_program";
  for (int i = 0; i < count; i++) program->headers.emplace_back(names[i], headers[i]);
  programs.insert(program);
  *handle = program;
  return success;
}

API int nvrtcDestroyProgram(void** handle) {
  if (!handle) return invalid_input;
  const std::lock_guard lock(mutex);
  Compiled* program = find(*handle);
  if (!program) return invalid_program;
  programs.erase(program);
  delete program;
  *handle = nullptr;
  return success;
}

API int nvrtcCompileProgram(void* handle, int count, const char* const* options) {
  const std::lock_guard lock(mutex);
  Compiled* program = find(handle);
  if (!program) return invalid_program;
  if (count < 0 || (count && !options)) return invalid_input;
  const std::vector<std::string> given(options, options + count);
  program->log.clear();
  program->ptx.clear();
  program->for_device = false;
  for (const std::string& option : given) program->for_device |= option.find("sm_") != std::string::npos;
  const std::string hash = recording_hash(*program, given);
  if (!real().library) {
    if (read_recording(hash, &program->ptx)) return success;
    fetch();
    if (!real().library) return refuse(*program, hash, given);
  }
  const int result = compile_really(*program, count, options);
  if (!result) write_recording(hash, *program, given, program->ptx);
  return result;
}

API int nvrtcGetPTXSize(void* program, size_t* size) { return size_of_text(program, size, &Compiled::ptx); }
API int nvrtcGetPTX(void* program, char* ptx) { return copy_text(program, ptx, &Compiled::ptx); }

// 0 for a virtual architecture, as from the real call.
API int nvrtcGetCUBINSize(void* handle, size_t* size) {
  const int result = size_of_text(handle, size, &Compiled::ptx);
  if (!result && !static_cast<Compiled*>(handle)->for_device) *size = 0;
  return result;
}

API int nvrtcGetCUBIN(void* handle, char* cubin) {
  const std::lock_guard lock(mutex);
  Compiled* program = find(handle);
  if (program && !program->for_device) return invalid_program;
  return copy_text(handle, cubin, &Compiled::ptx);
}

API int nvrtcGetProgramLogSize(void* program, size_t* size) { return size_of_text(program, size, &Compiled::log); }
API int nvrtcGetProgramLog(void* program, char* log) { return copy_text(program, log, &Compiled::log); }

// Whether programs are compiled, or answered from recordings.
API int emulator_nvrtc_is_real() { return real().library != nullptr; }
