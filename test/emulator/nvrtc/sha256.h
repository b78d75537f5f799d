// SHA-256 (FIPS 180-4), for the names of recordings.
#pragma once
#include <array>
#include <cstdint>
#include <string>

namespace emulator::nvrtc {

class Sha256 {
 public:
  void update(const void* data, size_t size);
  std::string hex();  // ends the computation

 private:
  void block(const unsigned char* bytes);
  std::array<uint32_t, 8> state{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  unsigned char pending[64];
  size_t used = 0;
  uint64_t total = 0;
};

}  // namespace emulator::nvrtc
