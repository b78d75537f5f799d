// PTX stored by the hash of its inputs, so that the emulated tests need no NVRTC.
//
// A recording's name is HASH.ptx. HASH: the first 32 hexadecimal digits of the SHA-256 of these strings, each preceded by
// its length in bytes as decimal digits and a colon ("3:abc"): the source; for each header in the order given, its name
// and its text; the word "options"; each option, sorted by bytes. recordings.ts computes the same.
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace emulator::nvrtc {

struct Program {
  std::string source, name;
  std::vector<std::pair<std::string, std::string>> headers;  // name, text
};

std::string recording_hash(const Program&, std::vector<std::string> options);
bool read_recording(const std::string& hash, std::string* ptx);
// If EMULATOR_RECORD names a folder: stores the PTX there, and next to it HASH.txt with the program's name and options.
void write_recording(const std::string& hash, const Program&, const std::vector<std::string>& options, const std::string& ptx);
std::string recordings_folder();
// The folder of this library.
std::string library_folder();

}  // namespace emulator::nvrtc
