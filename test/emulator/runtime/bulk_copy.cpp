// cp.async.bulk.tensor: tiles of a matrix to shared memory, with the 128-byte swizzle. Like cp.async, the destination is poisoned
// when the copy is issued and written as late as possible. Leaves out other ranks and swizzles, multicast and stores.
#include <cstring>

#include "check.h"
#include "state.h"

namespace emulator {
namespace {

constexpr u32 SWIZZLE_ALIGNMENT = 1024;

u32 tile_bytes(const TensorMap& map) {
  return map.box_columns * 2 * map.box_rows;
}

// The source of a row of the tile; null beyond the matrix.
const char* row_source(const BulkCopy& copy, u32 r) {
  s64 row = (s64)copy.row + r;
  if (row < 0 || (u64)row >= copy.map.rows) return nullptr;
  return (const char*)(copy.map.address + (u64)row * copy.map.row_bytes + (u64)copy.column * 2);
}

void carry_out(Worker& worker, const BulkCopy& copy) {
  char* shared = worker.block.shared;
  u32 width = copy.map.box_columns * 2, bytes = tile_bytes(copy.map), clock = 0;
  for (u32 r = 0; r < copy.map.box_rows; r++) {
    const char* from = row_source(copy, r);
    for (u32 at = 0; at < width; at += 16) {
      u32 to = copy.to + r * width + at;
      to ^= to >> 3 & 0x70;
      if (from) memcpy(shared + to, from + at, 16);
      else memset(shared + to, 0, 16);
    }
  }
  if (worker.check) {
    clock = worker.checker->clocks().engine_access();
    worker.checker->bulk_done(copy.to, bytes, clock, copy.site);
  }
  for (SharedBarrier& barrier : worker.barriers)
    if (barrier.address == copy.barrier) mbarrier_complete(worker, barrier, bytes, clock);
}

}  // namespace

void bulk_copy(Thread* me, u32 to, u64 address, s32 column, s32 row, u32 barrier_address, int site) {
  Worker& worker = *me->block->worker;
  BulkCopy copy{*(const TensorMap*)address, column, row, to, barrier_address, site};
  auto fail = [&](const char* kind, const char* text) {
    report_fault(me, site, kind, "%s", text);
    abandon(worker, Outcome::launch_failed);
  };
  if (copy.map.magic != TensorMap::MAGIC) fail("bulk-copy", "no tensor map of cuTensorMapEncodeTiled");
  if (to % SWIZZLE_ALIGNMENT) fail("misaligned", "a swizzled tile does not start at a multiple of 1024 bytes");
  if (column < 0 || (u64)column + copy.map.box_columns > copy.map.columns)
    fail("bulk-copy", "a tile with columns beyond the matrix: zeros on the hardware, here a mistake");
  SharedBarrier& barrier = *mbarrier_at(me, barrier_address, site);
  u32 bytes = tile_bytes(copy.map);
  if (worker.check) {
    Checker& checker = *worker.checker;
    if (!checker.clocks().fenced(barrier.creator, barrier.created))
      report_fault(me, site, "proxy-fence", "no fence.proxy.async since the mbarrier at %#x was initialized",
                   barrier_address);
    s64 announced = barrier.bytes;
    for (const BulkCopy& other : worker.bulk_copies)
      if (other.barrier == barrier_address) announced -= tile_bytes(other.map);
    if (announced < (s64)bytes)
      report_fault(me, site, "mbarrier", "a copy of %u bytes, of which %lld are announced at the mbarrier at %#x", bytes,
                   std::max(announced, 0ll), barrier_address);
    for (u32 r = 0; r < copy.map.box_rows; r++)
      if (const char* from = row_source(copy, r)) checker.bulk_source(me, (u64)from, copy.map.box_columns * 2, site);
    checker.bulk_issued(me, to, bytes, site);
  }
  memset(worker.block.shared + to, 0xff, bytes);
  worker.bulk_copies.push_back(copy);
}

void proxy_fence(Thread* me) {
  Worker& worker = *me->block->worker;
  if (worker.check) worker.checker->clocks().proxy_fence(me->flat);
}

bool finish_bulk_copies(Worker& worker, const SharedBarrier* barrier) {
  if (worker.bulk_copies.empty()) return false;
  std::vector<BulkCopy> later, now;
  for (const BulkCopy& copy : worker.bulk_copies)
    (!barrier || copy.barrier == barrier->address ? now : later).push_back(copy);
  worker.bulk_copies.swap(later);
  for (const BulkCopy& copy : now) carry_out(worker, copy);
  return !now.empty();
}

}  // namespace emulator
