// Bounds and alignment of every access; then races and the access log.
#include "check.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>

namespace emulator {
namespace {

// Whether two of these bytes are all ones.
inline bool looks_unwritten(const char* at, u32 bytes) {
  for (u32 i = 0; i + 4 <= bytes; i += 4) {
    u32 word;
    memcpy(&word, at + i, sizeof word);
    if (word >> 16 == 0xffff || (word & 0xffff) == 0xffff) return true;
  }
  if (bytes >= 4) return false;
  u16 word;
  memcpy(&word, at, sizeof word);
  return word == 0xffff;
}

// "_ZZ7logprobE4part" is the variable part of the function logprob.
const char* variable_name(const SharedEntry& variable) {
  if (strncmp(variable.name, "_ZZ", 3)) return variable.name;
  const char* end = variable.name + strlen(variable.name);
  for (const char* at = end - 1; at > variable.name; at--)
    if (isdigit((unsigned char)*at) && atoi(at) == end - at - 1) return at + 1;
  return variable.name;
}

const char* verb(int kind) {
  return kind == ACCESS_READ ? "read" : kind == ACCESS_WRITE ? "write" : "atomic";
}

}  // namespace

void Checker::begin_launch() {
  const KernelEntry& kernel = *worker_.kernel;
  clocks_.begin_launch();
  shared_.resize(kernel.dynamic_offset + worker_.block.geometry.dynamic_size);
  last_allocation_.assign(worker_.module->site_count + 1, nullptr);
  last_shared_ = nullptr;
  dynamic_start_ = kernel.dynamic_offset;
  dynamic_end_ = dynamic_start_ + worker_.block.geometry.dynamic_size;
  log_.begin_launch(worker_.module, worker_.block.warps, worker_.block.threads);
}

void Checker::end_launch(Counters* totals) {
  log_.end_launch(worker_, totals);
}
void Checker::begin_block() {
  clocks_.begin_block(worker_.block.warps);
}
void Checker::end_block() {
  log_.flush();
}

void Checker::barrier_passed(u32 id, u32 warps, bool everyone) {
  clocks_.barrier_passed(id, warps, everyone);
  if (everyone) log_.flush();
}

void Checker::out_of_bounds(Thread* me, int site, const char* kind, u32 bytes, u64 address, const std::string& where) {
  report_fault(me, site, "out-of-bounds", "%u-byte %s at %#llx, %s", bytes, kind, address, where.c_str());
  abandon(worker_, Outcome::illegal_address);
}

const SharedEntry* Checker::shared_variable(u32 address, u32 bytes) const {
  const KernelEntry& kernel = *worker_.kernel;
  for (u32 i = 0; i < kernel.shared_count; i++) {
    const SharedEntry& variable = kernel.shared[i];
    if (address >= variable.offset && address + bytes <= variable.offset + variable.size) return &variable;
  }
  return nullptr;
}

std::string Checker::shared_name(u32 address) const {
  const SharedEntry* variable = shared_variable(address, 1);
  u64 start = variable ? variable->offset : dynamic_start_;
  return std::string(variable ? variable_name(*variable) : "dynamic shared memory") + "+" +
         std::to_string(address - start);
}

char* Checker::shared_access(Thread* me, u32 address, u32 bytes, int kind, int site, int log) {
  u64 end = (u64)address + bytes;
  bool inside = address >= dynamic_start_ ? end <= dynamic_end_
                                          : last_shared_ && address >= last_shared_->offset &&
                                                end <= last_shared_->offset + last_shared_->size;
  if (__builtin_expect(!inside, 0)) {
    const SharedEntry* variable = shared_variable(address, bytes);
    if (!variable) shared_out_of_bounds(me, address, bytes, kind, site);
    last_shared_ = variable;
  }
  if (kind == ACCESS_READ) shared_.read(me, address, bytes, site);
  else shared_.write(me, address, bytes, site, kind == ACCESS_ATOMIC);
  log_.shared(me, address, bytes, log);
  return me->shared + address;
}

void Checker::shared_out_of_bounds(Thread* me, u32 address, u32 bytes, int kind, int site) {
  const SharedEntry* below = nullptr;
  for (u32 i = 0; i < worker_.kernel->shared_count; i++)
    if (address >= worker_.kernel->shared[i].offset) below = &worker_.kernel->shared[i];
  bool dynamic = !below || address >= dynamic_start_;
  u64 start = dynamic ? dynamic_start_ : below->offset, size = dynamic ? dynamic_end_ - dynamic_start_ : below->size;
  char text[160];
  snprintf(text, sizeof text, "%lld bytes into the %llu bytes of %s", (long long)(address - start), size,
           dynamic ? "dynamic shared memory" : variable_name(*below));
  out_of_bounds(me, site,
                kind == ACCESS_READ    ? "shared read"
                : kind == ACCESS_WRITE ? "shared write"
                                       : "shared atomic",
                bytes, address, text);
}

const char* Checker::access_row(Thread* me, u32 address, int site) {
  if (address & 15) {
    report_fault(me, site, "misaligned", "row address %#x of lane %u", address, me->lane);
    abandon(worker_, Outcome::misaligned_address);
  }
  return shared_access(me, address, 16, ACCESS_READ, site, -1);  // its conflicts: count_rows
}

// Local memory has a byte of state per byte: whether it was written.
char* Checker::local_access(Thread* me, u64 address, u32 bytes, int kind, int site) {
  for (Frame* frame = me->frame; frame; frame = frame->caller) {
    if (address < frame->low || address + bytes > frame->high) continue;
    u8* written = frame->written + (address - frame->low);
    if (kind != ACCESS_READ) memset(written, 1, bytes);
    else if (memchr(written, 0, bytes))
      report_fault(me, site, "uninitialized", "%u-byte read of local memory, byte %llu, which nothing has written",
                   bytes, address - frame->low);
    return (char*)address;
  }
  char text[100];
  u64 low = me->frame ? me->frame->low : 0, size = me->frame ? me->frame->high - low : 0;
  snprintf(text, sizeof text, "%lld bytes into %llu bytes of local memory", (long long)(address - low), size);
  out_of_bounds(me, site, kind == ACCESS_READ ? "local read" : "local write", bytes, address, text);
}

// Usually the allocation that the site last touched.
inline char* Checker::global_access(Thread* me, u64 address, u32 bytes, int kind, int site, bool constant) {
  AllocationRecord* piece = last_allocation_[site];
  if (__builtin_expect(!piece || address < piece->low || address + bytes > piece->high, 0))
    piece = last_allocation_[site] = find_piece(me, address, bytes, kind, site);
  if (constant) return (char*)address;
  check_global(me, *piece, address, bytes, kind, site);
  log_.global(me, address, bytes, worker_.module->sites[site].log);
  return (char*)address;
}

AllocationRecord* Checker::find_piece(Thread* me, u64 address, u32 bytes, int kind, int site) {
  AllocationRecord* piece = allocation_at(address);
  if (piece && address + bytes <= piece->high) return piece;
  std::string where = piece ? "" : describe_address(address);
  if (piece)
    where = "which ends " + std::to_string(address + bytes - piece->high) + " bytes past the end of a " +
            std::to_string(piece->high - piece->low) + "-byte allocation";
  out_of_bounds(me, site,
                kind == ACCESS_READ    ? "global read"
                : kind == ACCESS_WRITE ? "global write"
                                       : "global atomic",
                bytes, address, where);
}

// GlobalCell::writer
constexpr u16 GLOBAL_ATOMIC = 0x8000, GLOBAL_THREAD = 0x3ff;

// Last writer of each two bytes. Reads are only checked against earlier writes: in another thread order, the write comes first.
// Single bytes are left out, since their neighbours may belong to another thread.
inline void Checker::check_global(Thread* me, AllocationRecord& piece, u64 address, u32 bytes, int kind, int site) {
  bool writes = kind != ACCESS_READ;
  if (bytes < GLOBAL_GRAIN) return;
  GlobalCell* cells = piece.cell(address, writes);
  u32 count = bytes / GLOBAL_GRAIN;
  if (cells) {
    u32 latest = 0;
    for (u32 i = 0; i < count; i++) latest = std::max(latest, cells[i].clock);
    if (latest >= clocks_.launch_start()) check_order(me, cells, address, count, kind, site);
  }
  if (writes) {
    GlobalCell stamp{clocks_.now(me->flat / LANES), (u16)(me->flat | (kind == ACCESS_ATOMIC ? GLOBAL_ATOMIC : 0)),
                     (u16)site};
    for (u32 i = 0; i < count; i++) cells[i] = stamp;
  }
  if (kind != ACCESS_WRITE && host_writes_known && looks_unwritten((const char*)address, bytes))
    check_written(me, cells, address, count, site);
}

// Written during this launch.
void Checker::check_order(Thread* me, const GlobalCell* cells, u64 address, u32 count, int kind, int site) {
  for (u32 i = 0; i < count; i++) {
    const GlobalCell& cell = cells[i];
    if (cell.clock < clocks_.launch_start()) continue;
    if (kind != ACCESS_WRITE && cell.writer & GLOBAL_ATOMIC) continue;  // a read may begin a compare-and-swap loop
    bool other_block = cell.clock < clocks_.block_start();
    // With a fence, blocks may pass data through an atomic, and the emulator does not know who waits for whom.
    if (other_block ? worker_.kernel->has_fence != 0
                    : clocks_.before(cell.writer & GLOBAL_THREAD, cell.clock, me->flat))
      continue;
    report_fault(me, site, "global-race", "%s of %#llx, which thread %u of %s writes at %s in the same launch",
                 verb(kind), address + i * GLOBAL_GRAIN, cell.writer & GLOBAL_THREAD,
                 other_block ? "another block" : "this block", source_line(worker_.module->sites[cell.site]).c_str());
    return;
  }
}

// Unwritten memory is all ones, as the driver leaves it; but a kernel or the host may have written that value.
void Checker::check_written(Thread* me, const GlobalCell* cells, u64 address, u32 count, int site) {
  for (u32 i = 0; i < count; i++) {
    u16 value;
    memcpy(&value, (const char*)address + i * GLOBAL_GRAIN, sizeof value);
    if (value != 0xffff || (cells && cells[i].clock)) continue;
    report_fault(me, site, "uninitialized", "%u-byte read at %#llx, %s, which nothing has written",
                 count * GLOBAL_GRAIN, address, describe_address(address).c_str());
    return;
  }
}

void Checker::async_issued(Thread* me, u32 to, u64 from, u32 bytes, u32 source_bytes, int site) {
  if (source_bytes) {
    if (from & (bytes - 1)) {
      report_fault(me, site, "misaligned", "%u-byte copy from %#llx", bytes, from);
      abandon(worker_, Outcome::misaligned_address);
    }
    global_access(me, from, source_bytes, ACCESS_READ, site, false);
  }
  if (to & (bytes - 1)) {
    report_fault(me, site, "misaligned", "%u-byte copy to shared memory at %#x", bytes, to);
    abandon(worker_, Outcome::misaligned_address);
  }
  shared_access(me, to, bytes, ACCESS_WRITE, site, -1);
  shared_.set_pending(to, bytes, true);
}

void Checker::async_done(Thread* me, u32 to, u32 bytes, int site) {
  shared_.set_pending(to, bytes, false);
  shared_.write(me, to, bytes, site, false);
}

void Checker::bulk_issued(Thread* me, u32 to, u32 bytes, int site) {
  shared_access(me, to, bytes, ACCESS_WRITE, site, -1);
  shared_.set_pending(to, bytes, true);
}

void Checker::bulk_source(Thread* me, u64 from, u32 bytes, int site) {
  find_piece(me, from, bytes, ACCESS_READ, site);
}

void Checker::product_issued(Thread* me, u32 address, int site) {
  if (address + 16ull > dynamic_end_ || (address < dynamic_start_ && !shared_variable(address, 16)))
    shared_out_of_bounds(me, address, 16, ACCESS_READ, site);
  shared_.product_issued(me, address, site);
}

char* Checker::access(Thread* me, int space, u64 address, u32 bytes, int kind, int site) {
  if (space == SPACE_GENERIC) {
    if (address >> 32 == SHARED_WINDOW >> 32) {
      space = SPACE_SHARED;
    } else {
      space = SPACE_GLOBAL;
      for (Frame* frame = me->frame; frame; frame = frame->caller)
        if (address >= frame->low && address < frame->high) space = SPACE_LOCAL;
    }
  }
  if (__builtin_expect(address & (bytes - 1), 0)) {
    report_fault(me, site, "misaligned", "%u-byte %s at %#llx", bytes, verb(kind), address);
    abandon(worker_, Outcome::misaligned_address);
  }
  switch (space) {
    case SPACE_SHARED: return shared_access(me, (u32)address, bytes, kind, site, worker_.module->sites[site].log);
    case SPACE_LOCAL: return local_access(me, address, bytes, kind, site);
    default: return global_access(me, address, bytes, kind, site, space == SPACE_CONST);
  }
}

char* checked_access(Thread* me, int space, u64 address, u32 bytes, int kind, int site) {
  return me->block->worker->checker->access(me, space, address, bytes, kind, site);
}

}  // namespace emulator
