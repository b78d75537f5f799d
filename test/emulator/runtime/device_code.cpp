#include "device_code.h"

#include "abi.h"

namespace emulator {
namespace {

constexpr const char* core =
#include "device_core.inc"
    ;
constexpr const char* rounding =
#include "device_rounding.inc"
    ;
constexpr const char* short_float =
#include "device_short_float.inc"
    ;

}  // namespace

std::string with_device_code(const std::string& translated) {
  auto uses = [&](const char* name) { return translated.find(name) != std::string::npos; };
  std::string text = std::string(abi_text) + "\n" + core;
  if (uses("_rounded(")) text += rounding;
  if (uses("f16") || uses("tf32")) text += short_float;
  return text + translated;
}

}  // namespace emulator
