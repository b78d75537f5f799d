#include "allocation.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <new>

#include "../engine.h"

namespace emulator {
namespace {

constexpr size_t FREED_REMEMBERED = 256;

std::mutex lock;
std::map<u64, AllocationRecord> pieces;  // by address
std::deque<Allocation> freed;            // newest first

size_t cell_bytes(const AllocationRecord& piece) {
  return ((piece.high - piece.low) / GLOBAL_GRAIN + 1) * sizeof(GlobalCell);
}

AllocationRecord* find(u64 address) {
  auto after = pieces.upper_bound(address);
  if (after == pieces.begin()) return nullptr;
  AllocationRecord& piece = std::prev(after)->second;
  return address < piece.high ? &piece : nullptr;
}

}  // namespace

bool host_writes_known = false;

bool AllocationRecord::make_cells() {
  // Pages that are never touched cost nothing.
  void* memory =
      mmap(nullptr, cell_bytes(*this), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  cells = (GlobalCell*)memory;
  return true;
}

AllocationRecord* allocation_at(u64 address) {
  std::lock_guard guard(lock);
  return find(address);
}

std::string describe_address(u64 address) {
  std::lock_guard guard(lock);
  char text[160];
  u64 nearest = ~0ull;
  std::string found = "far from every allocation";
  auto consider = [&](u64 low, u64 high, const char* what) {
    u64 distance = address < low ? low - address : address >= high ? address - high : 0;
    if (distance >= nearest || distance > 1 << 20) return;
    nearest = distance;
    unsigned long long size = high - low;
    if (address >= high)
      snprintf(text, sizeof text, "%llu bytes past the end of a %s%llu-byte allocation", address - high, what, size);
    else if (address < low)
      snprintf(text, sizeof text, "%llu bytes before the start of a %s%llu-byte allocation", low - address, what, size);
    else snprintf(text, sizeof text, "%llu bytes into a %s%llu-byte allocation", address - low, what, size);
    found = text;
  };
  auto after = pieces.upper_bound(address);
  if (after != pieces.end()) consider(after->second.low, after->second.high, "");
  if (after != pieces.begin()) consider(std::prev(after)->second.low, std::prev(after)->second.high, "");
  for (const Allocation& piece : freed)
    if (address >= piece.address && address < piece.address + piece.size)
      consider(piece.address, piece.address + piece.size, "freed ");
  return found;
}

void age_global_cells() {
  std::lock_guard guard(lock);
  for (auto& [address, piece] : pieces) {
    if (!piece.cells) continue;
    for (size_t i = 0; i < cell_bytes(piece) / sizeof(GlobalCell); i++)
      if (piece.cells[i].clock) piece.cells[i].clock = WRITTEN_BEFORE;
  }
}

void add_allocation(uint64_t address, uint64_t size) {
  std::lock_guard guard(lock);
  pieces[address] = {address, address + size, nullptr};
}

void remove_allocation(uint64_t address) {
  std::lock_guard guard(lock);
  auto piece = pieces.find(address);
  if (piece == pieces.end()) return;
  if (piece->second.cells) munmap(piece->second.cells, cell_bytes(piece->second));
  freed.push_front({piece->second.low, piece->second.high - piece->second.low});
  if (freed.size() > FREED_REMEMBERED) freed.pop_back();
  pieces.erase(piece);
}

bool find_allocation(uint64_t address, Allocation* found) {
  std::lock_guard guard(lock);
  AllocationRecord* piece = find(address);
  if (!piece) return false;
  if (found) *found = {piece->low, piece->high - piece->low};
  return true;
}

void mark_written(uint64_t address, uint64_t size) {
  host_writes_known = true;
  remember_written(address, size);
}

// Only memory that still looks unwritten is ever queried, so only that is marked.
void remember_written(u64 address, u64 size) {
  std::lock_guard guard(lock);
  AllocationRecord* piece = find(address);
  if (!piece) return;
  uint64_t end = std::min(address + size, piece->high);
  for (uint64_t at = address & ~1ull; at < end; at += GLOBAL_GRAIN) {
    // Eight bytes at once if none of their pairs is all ones.
    if (at % 8 == 0 && at + 8 <= end) {
      uint64_t word, inverted;
      memcpy(&word, (const void*)at, 8);
      inverted = ~word;
      if (!((inverted - 0x0001000100010001ull) & word & 0x8000800080008000ull)) {
        at += 8 - GLOBAL_GRAIN;
        continue;
      }
    }
    uint16_t pair;
    memcpy(&pair, (const void*)at, 2);
    if (pair == 0xffff) piece->cell(at, true)->clock = WRITTEN_BEFORE;
  }
}

}  // namespace emulator
