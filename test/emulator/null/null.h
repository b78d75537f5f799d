// For libraries that do nothing and succeed: calls whose arguments don't matter, handles that are only different.
#pragma once
#include <cstddef>
#include <cstdint>

#define API extern "C" __attribute__((visibility("default")))

// Called with any arguments; those of the C conventions here may be ignored.
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
