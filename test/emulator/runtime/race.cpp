#include "race.h"

#include <algorithm>

#include "allocation.h"
#include "check.h"

namespace emulator {
namespace {

// Cell::writer is a thread plus these bits; Cell::reader is a thread, or many.
constexpr u16 THREAD = 0x7ff, PENDING = 0x4000, ATOMIC = 0x8000;
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
  settled_ = block_start_ = ++tick_;
  for (auto& told : told_) std::fill(told, told + MOST_WARPS + 1, 0);
  for (u32 w = 0; w < warps; w++) {
    for (u32 other = 0; other <= warps; other++) known_[w][other] = block_start_ - 1;
    known_[w][w] = block_start_;
    last_barrier_[w] = block_start_;
  }
}

void Clocks::barrier_told(u32 id, u32 warp) {
  release(warp, told_[id]);
}

void Clocks::release(u32 warp, u32* known) {
  for (u32 other = 0; other <= warps_; other++) known[other] = std::max(known[other], known_[warp][other]);
  known_[warp][warp] = ++tick_;
}

void Clocks::acquire(u32 warp, const u32* known) {
  for (u32 other = 0; other <= warps_; other++)
    if (other != warp) known_[warp][other] = std::max(known_[warp][other], known[other]);
}

void Clocks::barrier_passed(u32 id, u32 warps, bool everyone) {
  u32* joined = told_[id];
  for (u32 w = 0; w < warps_; w++)
    if (warps >> w & 1)
      for (u32 other = 0; other <= warps_; other++) joined[other] = std::max(joined[other], known_[w][other]);
  tick_++;
  if (everyone) settled_ = tick_;
  for (u32 w = 0; w < warps_; w++) {
    if (!(warps >> w & 1)) continue;
    std::copy(joined, joined + warps_ + 1, known_[w]);
    known_[w][w] = tick_;
    last_barrier_[w] = tick_;
  }
  std::fill(joined, joined + MOST_WARPS + 1, 0);
}

void Clocks::warp_synchronized(u32 warp) {
  known_[warp][warp] = ++tick_;
}

void SharedRaces::resize(size_t bytes) {
  size_t words = (bytes + 3) / 4;
  if (words_.size() >= words) return;
  words_.assign(words, Cell{});
  bytes_.assign(words * 4, Cell{});
  split_.assign(words, 0);
  line_reads_.assign((words * 4 / LINE + 1) * MOST_WARPS, 0);
}

bool SharedRaces::reads_before(const Cell& cell, u32 address, u32 me) const {
  if (cell.reader == MANY) {
    if (cell.read_clock < clocks_.last_barrier(me / LANES)) return true;
    const u32* reads = &line_reads_[(size_t)(address / LINE) * MOST_WARPS];
    for (u32 w = 0; w < clocks_.engine(); w++)
      if (reads[w] >= clocks_.block_start() && !clocks_.before(w * LANES + (w == me / LANES ? me % LANES : 0), reads[w], me))
        return false;
    return true;
  }
  u32 thread = cell.reader & MANY_OF_WARP ? (cell.reader & 31u) * LANES : cell.reader;
  if (cell.reader & MANY_OF_WARP && thread / LANES == me / LANES) return cell.read_clock < clocks_.now(me / LANES);
  return clocks_.before(thread, cell.read_clock, me);
}

namespace {

std::string place(const Thread* me, u16 site) {
  return source_line(me->block->worker->module->sites[site]);
}
std::string name(const Thread* me, u32 address) {
  return me->block->worker->checker->shared_name(address);
}
std::string who(const Thread* me, u16 writer) {
  u32 thread = writer & THREAD;
  return thread / LANES == me->block->warps ? "the copy engine" : "thread " + std::to_string(thread);
}

}  // namespace

void SharedRaces::check_write(Thread* me, const Cell& cell, u32 address, int site, bool atomic) {
  if (cell.write_clock >= clocks_.block_start()) {
    if (cell.writer & PENDING)
      report_fault(me, site, "async-copy", "write of %s while the cp.async of %s to it is under way",
                   name(me, address).c_str(), place(me, cell.write_site).c_str());
    else if (!(atomic && cell.writer & ATOMIC) && !clocks_.before(cell.writer & THREAD, cell.write_clock, me->flat))
      report_fault(me, site, "race", "write of %s, which %s writes at %s with no barrier between",
                   name(me, address).c_str(), who(me, cell.writer).c_str(), place(me, cell.write_site).c_str());
  }
  if (cell.read_clock >= clocks_.block_start() && cell.reader != me->flat && !reads_before(cell, address, me->flat)) {
    std::string reader =
        cell.reader & MANY_OF_WARP ? "other threads read" : "thread " + std::to_string(cell.reader) + " reads";
    report_fault(me, site, "race", "write of %s, which %s at %s with no barrier between", name(me, address).c_str(),
                 reader.c_str(), place(me, cell.read_site).c_str());
  }
}

void SharedRaces::check_read(Thread* me, const Cell& cell, u32 address, int site) {
  if (cell.write_clock < clocks_.block_start())
    report_fault(me, site, "uninitialized", "read of %s, which nothing has written", name(me, address).c_str());
  else if (cell.writer & PENDING)
    report_fault(me, site, "async-copy", "read of %s before the cp.async of %s to it was waited for",
                 name(me, address).c_str(), place(me, cell.write_site).c_str());
  else if (!clocks_.before(cell.writer & THREAD, cell.write_clock, me->flat))
    report_fault(me, site, "race", "read of %s, which %s writes at %s with no barrier between",
                 name(me, address).c_str(), who(me, cell.writer).c_str(), place(me, cell.write_site).c_str());
}

// There may be other readers since the last write.
void SharedRaces::add_reader(Cell& cell, u32 address, u32 me) {
  u32 warp = me / LANES;
  if (cell.read_clock < clocks_.block_start() || reads_before(cell, address, me)) {
    cell.reader = (u16)me;  // older readers are ordered before it, and so before later accesses
    cell.read_clock = clocks_.now(warp);
    return;
  }
  if (cell.reader == me) return;
  u32 other = cell.reader == MANY ? MOST_WARPS : cell.reader & MANY_OF_WARP ? cell.reader & 31u : cell.reader / LANES;
  if (other == warp) {
    cell.reader = (u16)(MANY_OF_WARP | warp);
  } else {
    if (other < MOST_WARPS) line_read(address, other, cell.read_clock);
    line_read(address, warp, clocks_.now(warp));
    cell.reader = MANY;
  }
  cell.read_clock = cell.reader == MANY ? clocks_.latest() : clocks_.now(warp);
}

// Usually a barrier of the whole block is between a write and later accesses.
inline void SharedRaces::read_cell(Thread* me, Cell& cell, u32 address, int site) {
  bool in_order =
      cell.write_clock >= clocks_.block_start() && cell.write_clock < clocks_.settled() && !(cell.writer & PENDING);
  if (!in_order) check_read(me, cell, address, site);
  if (cell.read_clock < clocks_.settled()) {
    cell.reader = (u16)me->flat;
    cell.read_clock = clocks_.now(me->flat / LANES);
  } else if (cell.reader == MANY) {
    cell.read_clock = clocks_.latest();
    line_read(address, me->flat / LANES, clocks_.now(me->flat / LANES));
  } else {
    add_reader(cell, address, me->flat);
  }
  cell.read_site = (u16)site;
}

inline void SharedRaces::write_cell(Thread* me, Cell& cell, u32 address, int site, bool atomic) {
  u32 settled = clocks_.settled();
  if (cell.write_clock >= settled || cell.read_clock >= settled || cell.writer & PENDING)
    check_write(me, cell, address, site, atomic);
  cell = {clocks_.now(me->flat / LANES), 0, (u16)(me->flat | (atomic ? ATOMIC : 0)), 0, (u16)site, 0};
}

template <class F>
inline void SharedRaces::for_cells(u32 address, u32 bytes, F body) {
  u32 end = address + bytes;
  while (address < end) {
    u32 word = address / 4;
    if (address % 4 == 0 && end - address >= 4 && !split_[word]) {
      body(words_[word], address);
      address += 4;
      continue;
    }
    Cell* own = &bytes_[word * 4];
    if (!split_[word]) {
      split_[word] = 1;
      own[0] = own[1] = own[2] = own[3] = words_[word];
    }
    for (u32 stop = std::min(end, word * 4 + 4); address < stop; address++) body(own[address % 4], address);
  }
}

void SharedRaces::read(Thread* me, u32 address, u32 bytes, int site) {
  for_cells(address, bytes, [&](Cell& cell, u32 at) { read_cell(me, cell, at, site); });
}

void SharedRaces::write(Thread* me, u32 address, u32 bytes, int site, bool atomic) {
  for_cells(address, bytes, [&](Cell& cell, u32 at) { write_cell(me, cell, at, site, atomic); });
  // All bytes of a word are equal again after a write of the whole word.
  for (u32 at = (address + 3) & ~3u; at + 4 <= address + bytes; at += 4) {
    if (!split_[at / 4]) continue;
    split_[at / 4] = 0;
    words_[at / 4] = bytes_[at];
  }
}

void SharedRaces::set_pending(u32 address, u32 bytes, bool pending) {
  for_cells(address, bytes,
            [&](Cell& cell, u32) { cell.writer = (u16)(pending ? cell.writer | PENDING : cell.writer & ~PENDING); });
}

void SharedRaces::engine_wrote(u32 address, u32 bytes, u32 clock, int site) {
  for_cells(address, bytes, [&](Cell& cell, u32) {
    cell = {clock, 0, (u16)(clocks_.engine() * LANES), 0, (u16)site, 0};
  });
}

void SharedRaces::product_issued(Thread* me, u32 address, int site) {
  for_cells(address, 16, [&](Cell& cell, u32 at) {
    check_read(me, cell, at, site);
    u32 writer = cell.writer & THREAD;
    if (cell.write_clock >= clocks_.block_start() && writer / LANES < clocks_.engine() &&
        !clocks_.fenced(writer, cell.write_clock))
      report_fault(me, site, "proxy-fence",
                   "a product reads %s, which thread %u writes at %s with no fence.proxy.async after it",
                   name(me, at).c_str(), writer, place(me, cell.write_site).c_str());
  });
}

void SharedRaces::product_done(Thread* me, u32 address, u32 clock, int site) {
  for_cells(address, 16, [&](Cell& cell, u32 at) {
    if (cell.write_clock > clock)
      report_fault(me, site, "async-product", "%s is written at %s while this product may read it",
                   name(me, at).c_str(), place(me, cell.write_site).c_str());
    read_cell(me, cell, at, site);
  });
}

}  // namespace emulator
