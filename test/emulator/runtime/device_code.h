// C source that precedes translated modules, stored in this library so that no file is needed at run time.
#pragma once
#include <string>

namespace emulator {

// The parts that `translated`, the module's own source, uses, followed by that source.
std::string with_device_code(const std::string& translated);

}  // namespace emulator
