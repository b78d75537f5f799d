// From PTX to a shared library in the cache.
#pragma once
#include <string>

namespace emulator {

// Path of the library; or "" and a reason if the PTX has something unknown or no compiler runs.
std::string compile_ptx(const std::string& ptx, std::string* reason);

}  // namespace emulator
