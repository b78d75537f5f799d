// PTX stored by the hash of its inputs: see recordings.h.
#include "recordings.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "sha256.h"

namespace emulator::nvrtc {

namespace {

void write_file(const std::string& path, const std::string& text) {
  const std::string beside = path + "." + std::to_string(getpid());
  std::ofstream(beside, std::ios::binary) << text;
  std::error_code ignored;
  std::filesystem::rename(beside, path, ignored);
}

}  // namespace

std::string recording_hash(const Program& program, std::vector<std::string> options) {
  std::sort(options.begin(), options.end());
  Sha256 hash;
  const auto add = [&](const std::string& text) {
    const std::string length = std::to_string(text.size()) + ":";
    hash.update(length.data(), length.size());
    hash.update(text.data(), text.size());
  };
  add(program.source);
  for (const auto& [name, text] : program.headers) add(name), add(text);
  add("options");
  for (const std::string& option : options) add(option);
  return hash.hex().substr(0, 32);
}

std::string library_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&recording_hash), &info) || !info.dli_fname) return ".";
  return std::filesystem::path(info.dli_fname).parent_path().string();
}

std::string recordings_folder() {
  const char* folder = getenv("EMULATOR_RECORDINGS");
  return folder && *folder ? folder : library_folder() + "/recordings";
}

bool read_recording(const std::string& hash, std::string* ptx) {
  std::ifstream file(recordings_folder() + "/" + hash + ".ptx", std::ios::binary);
  if (!file) return false;
  ptx->assign(std::istreambuf_iterator<char>(file), {});
  return true;
}

void write_recording(const std::string& hash, const Program& program, const std::vector<std::string>& options,
                     const std::string& ptx) {
  const char* folder = getenv("EMULATOR_RECORD");
  if (!folder || !*folder) return;
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  write_file(std::string(folder) + "/" + hash + ".ptx", ptx);
  std::string about = program.name + "\n";
  for (const std::string& option : options) about += option + "\n";
  write_file(std::string(folder) + "/" + hash + ".txt", about);
}

}  // namespace emulator::nvrtc
