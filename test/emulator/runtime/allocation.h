// Global memory that kernels may touch, and what is known of each piece of it.
#pragma once
#include <string>

#include "abi.h"

namespace emulator {

// What is remembered of two bytes of global memory: the least that trainers share between threads.
struct GlobalCell {
  u32 clock;   // of the last write by a kernel, see race.h; 0: never written, 1: by the host or long ago
  u16 writer;  // thread of its block; bit 15: by an atomic
  u16 site;
};
constexpr u32 GLOBAL_GRAIN = 2;
constexpr u32 WRITTEN_BEFORE = 1;

struct AllocationRecord {
  u64 low, high;
  GlobalCell* cells;  // one a grain, made when first needed

  // The cell of an address; with none yet, null where `make` is false.
  GlobalCell* cell(u64 address, bool make) {
    if (!cells && (!make || !make_cells())) return nullptr;
    return cells + (address - low) / GLOBAL_GRAIN;
  }

  bool make_cells();
};

// The piece that holds the address, or null. It stays where it is until it is freed.
AllocationRecord* allocation_at(u64 address);
// Where a wrong address lies: "4 bytes past the end of a 1024-byte allocation".
std::string describe_address(u64 address);
// As mark_written, without starting the reports of unwritten memory.
void remember_written(u64 address, u64 size);
// The driver has told of writes by the host, so that unwritten memory can be known.
extern bool host_writes_known;
// All that was written counts as written before; for when clocks start anew.
void age_global_cells();

}  // namespace emulator
