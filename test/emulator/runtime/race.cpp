#include "race.h"

#include <algorithm>

#include "allocation.h"
#include "check.h"

namespace emulator {
namespace {

// Cell::writer is a thread and these bits; Cell::reader is a thread, or many.
constexpr u16 THREAD = 0x3ff, PENDING = 0x4000, ATOMIC = 0x8000;
constexpr u16 MANY_OF_WARP = 0x8000, MANY = 0xffff;

}  // namespace

void Clocks::begin_launch() {
  if (tick_ > 1u << 31) {
    age_global_cells();
    tick_ = WARM_UP;
  }
  launch_start_ = ++tick_;
}

void Clocks::begin_block(u32 warps) {
  warps_ = warps;
  block_start_ = ++tick_;
  for (u32 w = 0; w < warps; w++) {
    for (u32 other = 0; other < warps; other++) known_[w][other] = block_start_ - 1;
    known_[w][w] = block_start_;
    last_barrier_[w] = block_start_;
  }
}

void Clocks::barrier_passed(u32 warps) {
  u32 joined[MOST_WARPS] = {};
  for (u32 w = 0; w < warps_; w++)
    if (warps >> w & 1)
      for (u32 other = 0; other < warps_; other++) joined[other] = std::max(joined[other], known_[w][other]);
  tick_++;
  for (u32 w = 0; w < warps_; w++) {
    if (!(warps >> w & 1)) continue;
    std::copy(joined, joined + warps_, known_[w]);
    known_[w][w] = tick_;
    last_barrier_[w] = tick_;
  }
}

void Clocks::warp_synchronized(u32 warp) { known_[warp][warp] = ++tick_; }

void SharedRaces::resize(size_t bytes) {
  bytes = (bytes + 3) / 4 * 4;
  if (cells_.size() >= bytes) return;
  cells_.assign(bytes, Cell{});
  split_.assign(bytes / 4, 0);
}

bool SharedRaces::reads_before(const Cell& cell, u32 me) const {
  if (cell.reader == MANY) return cell.read_clock < clocks_.last_barrier(me / LANES);
  u32 thread = cell.reader & MANY_OF_WARP ? (cell.reader & 31u) * LANES : cell.reader;
  if (cell.reader & MANY_OF_WARP && thread / LANES == me / LANES) return cell.read_clock < clocks_.now(me / LANES);
  return clocks_.before(thread, cell.read_clock, me);
}

bool SharedRaces::write_cell(Thread* me, Cell& cell, u32 address, int site, bool atomic) {
  u32 start = clocks_.block_start();
  auto at = [&](u16 other) { return source_line(me->block->worker->module->sites[other]); };
  bool fine = true;
  auto name = [&] { return me->block->worker->checker->shared_name(address); };
  if (cell.write_clock >= start) {
    if (cell.writer & PENDING) {
      report_fault(me, site, "async-copy", "write of %s while the cp.async of %s to it is under way", name().c_str(), at(cell.write_site).c_str());
      fine = false;
    } else if (!(atomic && cell.writer & ATOMIC) && !clocks_.before(cell.writer & THREAD, cell.write_clock, me->flat)) {
      report_fault(me, site, "race", "write of %s, which thread %u writes at %s with no barrier between", name().c_str(), cell.writer & THREAD, at(cell.write_site).c_str());
      fine = false;
    }
  }
  if (cell.read_clock >= start && !reads_before(cell, me->flat)) {
    std::string reader = cell.reader & MANY_OF_WARP ? "other threads read" : "thread " + std::to_string(cell.reader) + " reads";
    if (!(cell.reader == me->flat)) {
      report_fault(me, site, "race", "write of %s, which %s at %s with no barrier between", name().c_str(), reader.c_str(), at(cell.read_site).c_str());
      fine = false;
    }
  }
  cell.write_clock = clocks_.now(me->flat / LANES);
  cell.writer = (u16)(me->flat | (atomic ? ATOMIC : 0));
  cell.write_site = (u16)site;
  cell.read_clock = 0;
  return fine;
}

bool SharedRaces::read_cell(Thread* me, Cell& cell, u32 address, int site) {
  u32 start = clocks_.block_start(), warp = me->flat / LANES;
  auto at = [&](u16 other) { return source_line(me->block->worker->module->sites[other]); };
  auto name = [&] { return me->block->worker->checker->shared_name(address); };
  bool fine = false;
  if (cell.write_clock < start) {
    report_fault(me, site, "uninitialized", "read of %s, which nothing has written", name().c_str());
  } else if (cell.writer & PENDING) {
    report_fault(me, site, "async-copy", "read of %s before the cp.async of %s to it was waited for", name().c_str(), at(cell.write_site).c_str());
  } else if (!clocks_.before(cell.writer & THREAD, cell.write_clock, me->flat)) {
    report_fault(me, site, "race", "read of %s, which thread %u writes at %s with no barrier between", name().c_str(), cell.writer & THREAD, at(cell.write_site).c_str());
  } else {
    fine = true;
  }
  u32 now = clocks_.now(warp);
  if (cell.read_clock < start || reads_before(cell, me->flat)) {
    cell.reader = (u16)me->flat;  // older readers are ordered before it, and so before whoever comes after it
    cell.read_clock = now;
  } else if (cell.reader != me->flat) {
    u32 other = cell.reader == MANY ? MOST_WARPS : cell.reader & MANY_OF_WARP ? cell.reader & 31u : cell.reader / LANES;
    cell.reader = other == warp ? (u16)(MANY_OF_WARP | warp) : MANY;
    cell.read_clock = cell.reader == MANY ? clocks_.latest() : now;
  }
  cell.read_site = (u16)site;
  return fine;
}

// Cells of an access: one a word where it covers the word and the word's bytes are alike, else one a byte.
template <class F>
void SharedRaces::for_cells(u32 address, u32 bytes, F body) {
  u32 end = address + bytes;
  while (address < end) {
    u32 word = address / 4;
    bool whole = address % 4 == 0 && end - address >= 4;
    Cell* cells = &cells_[word * 4];
    if (whole && !split_[word]) {
      if (!body(cells[0], address)) return;
      address += 4;
      continue;
    }
    if (!split_[word]) {
      split_[word] = 1;
      cells[1] = cells[2] = cells[3] = cells[0];
    }
    u32 stop = std::min(end, word * 4 + 4);
    for (; address < stop; address++)
      if (!body(cells[address % 4], address)) return;
  }
}

void SharedRaces::read(Thread* me, u32 address, u32 bytes, int site) {
  for_cells(address, bytes, [&](Cell& cell, u32 at) { return read_cell(me, cell, at, site); });
}

void SharedRaces::write(Thread* me, u32 address, u32 bytes, int site, bool atomic) {
  for_cells(address, bytes, [&](Cell& cell, u32 at) { return write_cell(me, cell, at, site, atomic), true; });
  // A word written as a whole is alike again.
  for (u32 at = (address + 3) & ~3u; at + 4 <= address + bytes; at += 4) split_[at / 4] = 0;
}

void SharedRaces::set_pending(u32 address, u32 bytes, bool pending) {
  for_cells(address, bytes, [&](Cell& cell, u32) {
    cell.writer = (u16)(pending ? cell.writer | PENDING : cell.writer & ~PENDING);
    return true;
  });
}

}  // namespace emulator
