// Global memory that kernels may access, and what is known about each piece of it.
#pragma once
#include <string>

#include "abi.h"

namespace emulator {

// The record of two bytes of global memory: the smallest unit that trainers share between threads.
struct GlobalCell {
  u32 clock;   // of the last write by a kernel, see race.h; 0: never written; 1: by the host or long ago
  u16 writer;  // thread of its block; bit 15: by an atomic
  u16 site;
};
constexpr u32 GLOBAL_GRAIN = 2;
constexpr u32 WRITTEN_BEFORE = 1;

struct AllocationRecord {
  u64 low, high;
  GlobalCell* cells;  // one per grain, allocated on demand

  // The cell of an address; if there are none yet, null unless `make` is true.
  GlobalCell* cell(u64 address, bool make) {
    if (!cells && (!make || !make_cells())) return nullptr;
    return cells + (address - low) / GLOBAL_GRAIN;
  }

  bool make_cells();
};

// The piece that contains the address, or null. It is not moved until it is freed.
AllocationRecord* allocation_at(u64 address);
// Describes a bad address: "4 bytes past the end of a 1024-byte allocation".
std::string describe_address(u64 address);
// Like mark_written, but does not enable the reports of unwritten memory.
void remember_written(u64 address, u64 size);
// The driver has reported writes by the host, so unwritten memory can be recognised.
extern bool host_writes_known;
// Treats all writes as earlier ones; called when clocks restart.
void age_global_cells();

}  // namespace emulator
