#include "compile.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

#include "../engine.h"
#include "../ptx/emit.h"
#include "device_code.h"

extern char** environ;

namespace emulator {
namespace {

// C rather than C++: the compiler starts and parses faster. No standard library: the runtime is passed as a table.
std::vector<std::string> flags() {
  std::vector<std::string> list = {
      "-x",
      "c",
      "-std=gnu11",
      "-w",
      "-O1",
      "-fPIC",
      "-shared",
      "-nostdlib",
      "-fvisibility=hidden",
      "-ffp-contract=off",     // a fused multiply-add only where PTX has one
      "-fwrapv",               // integers wrap
      "-fno-strict-aliasing",  // memory is typed by the access
      "-fno-math-errno",
      "-fno-stack-protector",
      "-fno-asynchronous-unwind-tables",
  };
#if defined(__x86_64__)
  // Single-instruction fma; without it, libm's gives the same result slowly.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) list.insert(list.end(), {"-mavx2", "-mfma"});
  list.push_back("-fcf-protection=none");
#endif
  return list;
}

// GCC passes that take a third of its time on straight-line code without any gain here. Clang doesn't know them.
const std::vector<std::string> SPARED = {
    "-fno-tree-pta",          "-fira-region=one", "-fno-tree-loop-optimize", "-fno-tree-dominator-opts",
    "-fno-forward-propagate", "-fno-dse",         "-fno-tree-fre",
};

std::string cache_folder() {
  if (const char* folder = getenv("EMULATOR_CACHE"); folder && *folder) return folder;
  Dl_info here;
  if (!dladdr((void*)&cache_folder, &here) || !here.dli_fname) return ".";
  std::string path = here.dli_fname;
  size_t slash = path.find_last_of('/');
  // Next to this build's folder: the kernels of one build serve the next, since their names contain all they depend on.
  return (slash == std::string::npos ? "." : path.substr(0, slash)) + std::string("/../emulator-kernels");
}

void make_folder(const std::string& path) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    mkdir(path.substr(0, slash).c_str(), 0777);
    if (slash == std::string::npos) return;
  }
}

// Two 64-bit FNV-1a hashes with different starts, in hexadecimal.
std::string hash(const std::string& text) {
  uint64_t a = 0xcbf29ce484222325ull, b = 0x9ae16a3b2f90404full;
  for (unsigned char c : text) {
    a = (a ^ c) * 0x100000001b3ull;
    b = (b ^ c) * 0x100000001b3ull;
    b ^= b >> 29;
  }
  char digits[33];
  snprintf(digits, sizeof digits, "%016llx%016llx", (unsigned long long)a, (unsigned long long)b);
  return digits;
}

// Returns the exit status; the command's stderr goes to a file.
int run(const std::vector<std::string>& command, const std::string& errors) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back((char*)word.c_str());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 2, errors.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  pid_t child;
  int failed = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed) return 127;
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 126;
}

std::string first_error(const std::string& path) {
  std::ifstream file(path);
  std::string line, first;
  while (std::getline(file, line)) {
    if (first.empty()) first = line;
    if (line.find("error") != std::string::npos) return line;
  }
  return first;
}

}  // namespace

std::string compile_ptx(const std::string& ptx, std::string* reason) {
  std::string code;
  try {
    code = with_device_code(emit_module(parse_module(ptx)));
  } catch (const std::exception& error) {
    *reason = error.what();
    return "";
  }
  const std::vector<std::string> options = flags();
  std::string key = code;  // includes the records and primitives: any change changes the name
  for (const auto* list : {&options, &SPARED})
    for (const std::string& option : *list) key += option;
  std::string folder = cache_folder(), library = folder + "/ptx-" + hash(key) + ".so";
  if (access(library.c_str(), R_OK) == 0) return library;
  make_folder(folder);
  static std::atomic<int> number{0};
  std::string stem = cat(folder, "/ptx-", getpid(), "-", number++), source = stem + ".c", built = stem + ".so",
              errors = stem + ".txt";
  std::ofstream(source) << code;
  if (access(source.c_str(), R_OK) != 0) {
    *reason = folder + " cannot be written";
    return "";
  }
  *reason = "no C compiler runs (tried $CXX, c++, g++, clang++)";
  const char* chosen = getenv("CXX");
  for (std::string compiler :
       {std::string(chosen ? chosen : ""), std::string("c++"), std::string("g++"), std::string("clang++")}) {
    if (compiler.empty()) continue;
    std::vector<std::string> command = {compiler};
    command.insert(command.end(), options.begin(), options.end());
    for (const std::string& word : {std::string("-o"), built, source, std::string("-lm"), std::string("-lgcc")})
      command.push_back(word);
    std::vector<std::string> sparing = command;
    sparing.insert(sparing.end(), SPARED.begin(), SPARED.end());
    int status = run(sparing, errors);
    if (status == 127) continue;
    if (status != 0) status = run(command, errors);
    // Two processes may build the same file; the second to finish replaces an identical one.
    if (status == 0 && rename(built.c_str(), library.c_str()) == 0) reason->clear();
    else *reason = "translated PTX did not compile: " + first_error(errors);
    break;
  }
  for (const std::string& path : {source, errors, built}) {
    if (!reason->empty() && path == source && getenv("EMULATOR_KEEP")) continue;
    unlink(path.c_str());
  }
  return reason->empty() ? library : "";
}

extern "C" __attribute__((visibility("default"))) int emulator_precompile(const char* const* paths, int count,
                                                                          int jobs) {
  std::atomic<int> next{0}, failures{0};
  auto work = [&] {
    for (int i; (i = next.fetch_add(1)) < count;) {
      std::ifstream file(paths[i]);
      std::stringstream text;
      text << file.rdbuf();
      std::string reason = "cannot be read";
      if (file && !compile_ptx(text.str(), &reason).empty()) continue;
      fprintf(stderr, "%s: %s\n", paths[i], reason.c_str());
      failures++;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 1; i < jobs && i < count; i++) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  return failures;
}

}  // namespace emulator
