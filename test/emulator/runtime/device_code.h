// C text that translated modules are compiled behind, kept in this library so that it needs no file at run time.
#pragma once
#include <string>

namespace emulator {

// The parts that `translated`, the module's own text, uses, and then the text.
std::string with_device_code(const std::string& translated);

}  // namespace emulator
