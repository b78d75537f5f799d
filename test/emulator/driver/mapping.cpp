// Memory behind emulated allocations: between inaccessible pages, filled with 0xff (NaN in every float type) at no cost until
// it is touched, since fresh pages are copies of one page-cached pattern.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "driver.h"

namespace emulator::driver {

namespace {

constexpr size_t pattern_bytes = 16u << 20;
constexpr size_t map_flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

size_t page_bytes() {
  static const size_t bytes = size_t(sysconf(_SC_PAGESIZE));
  return bytes;
}

int pattern_file() {
  static const int file = [] {
    const int fd = memfd_create("emulator-fill", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, pattern_bytes)) return -1;
    void* pages = mmap(nullptr, pattern_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (pages == MAP_FAILED) return -1;
    memset(pages, 0xff, pattern_bytes);
    munmap(pages, pattern_bytes);
    return fd;
  }();
  return file;
}

}  // namespace

bool map_filled(uint64_t size, bool flush_right, Mapping* mapping) {
  const size_t page = page_bytes();
  const size_t body = (size + page - 1) / page * page;
  char* base = static_cast<char*>(mmap(nullptr, body + 2 * page, PROT_NONE, map_flags, -1, 0));
  if (base == MAP_FAILED) return false;
  for (size_t at = 0; at < body; at += pattern_bytes) {
    const size_t piece = std::min(pattern_bytes, body - at);
    if (mmap(base + page + at, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, pattern_file(), 0) !=
        MAP_FAILED)
      continue;
    munmap(base, body + 2 * page);
    return false;
  }
  mapping->base = base;
  mapping->length = body + 2 * page;
  const uint64_t aligned = (size + 255) / 256 * 256;
  mapping->address = uint64_t(base) + page + (flush_right ? body - aligned : 0);
  mapping->size = size;
  return true;
}

bool Mapping::slack_intact() const {
  const char* low = base + page_bytes();
  const char* high = base + length - page_bytes();
  const auto filled = [](const char* from, const char* to) {
    return std::all_of(from, to, [](char byte) { return byte == char(0xff); });
  };
  return filled(low, reinterpret_cast<char*>(address)) && filled(reinterpret_cast<char*>(address + size), high);
}

void Mapping::discard() {
  mmap(base, length, PROT_NONE, map_flags | MAP_FIXED, -1, 0);
  // Address space is plentiful but mappings are limited: the oldest are unmapped for good.
  static std::deque<std::pair<char*, size_t>> kept;
  kept.emplace_back(base, length);
  if (kept.size() > 4096) {
    munmap(kept.front().first, kept.front().second);
    kept.pop_front();
  }
  base = nullptr;
}

}  // namespace emulator::driver
