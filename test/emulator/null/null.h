// For libraries that do nothing and succeed: calls with ignored arguments, and handles that only have to differ.
#pragma once
#include <cstddef>
#include <cstdint>

#define API extern "C" __attribute__((visibility("default")))

// Can be called with any arguments; the C calling conventions used here allow ignoring them.
#define DOES_NOTHING(name) \
  API int name() { return 0; }

namespace emulator::null {

inline void* next_handle() {
  static uint64_t last = 4096;
  return reinterpret_cast<void*>(last += 64);
}

template <class T>
int give(T* target, T value) {
  if (target) *target = value;
  return 0;
}

}  // namespace emulator::null
