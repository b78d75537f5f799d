// mbarrier: barriers in shared memory, which count arrivals of threads and bytes of the copy engine. Their state is kept here, not
// in the 8 bytes. Leaves out the state that an arrival returns, and waiting by it.
#include <algorithm>

#include "check.h"
#include "state.h"

namespace emulator {
namespace {

void complete_if_over(Worker& worker, SharedBarrier& barrier) {
  if (barrier.pending || barrier.bytes) return;
  barrier.phases++;
  barrier.pending = barrier.count;
  for (u32 w = 0; w <= MOST_WARPS; w++) barrier.completed[w] = std::max(barrier.completed[w], barrier.arrived[w]);
  for (u32 w = 0; w < worker.block.warps; w++) {
    make_ready(worker.block, w, barrier.sleeping[w]);
    barrier.sleeping[w] = 0;
  }
}

}  // namespace

SharedBarrier* mbarrier_at(Thread* me, u32 address, int site) {
  Worker& worker = *me->block->worker;
  if (address & 7) {
    report_fault(me, site, "misaligned", "mbarrier at %#x", address);
    abandon(worker, Outcome::misaligned_address);
  }
  for (SharedBarrier& barrier : worker.barriers) {
    if (barrier.address != address) continue;
    if (worker.check && !worker.checker->clocks().before(barrier.creator, barrier.created, me->flat))
      report_fault(me, site, "race", "the mbarrier at %#x, which thread %u initializes with no barrier between", address,
                   barrier.creator);
    barrier.site = site;
    return &barrier;
  }
  report_fault(me, site, "mbarrier", "there is no mbarrier at %#x", address);
  abandon(worker, Outcome::launch_failed);
}

void mbarrier_init(Thread* me, u32 address, u32 count, int site) {
  Worker& worker = *me->block->worker;
  if (worker.check) worker.checker->access(me, SPACE_SHARED, address, 8, ACCESS_WRITE, site);
  for (const SharedBarrier& barrier : worker.barriers)
    if (barrier.address == address) {
      report_fault(me, site, "mbarrier", "the mbarrier at %#x is initialized twice", address);
      abandon(worker, Outcome::launch_failed);
    }
  SharedBarrier barrier{};
  barrier.address = address;
  barrier.count = barrier.pending = count;
  barrier.site = site;
  barrier.creator = me->flat;
  barrier.created = worker.check ? worker.checker->clocks().now(me->flat / LANES) : 0;
  worker.barriers.push_back(barrier);
}

void mbarrier_arrive(Thread* me, u32 address, u32 count, u32 bytes, int site) {
  Worker& worker = *me->block->worker;
  SharedBarrier& barrier = *mbarrier_at(me, address, site);
  if (count > barrier.pending) {
    report_fault(me, site, "mbarrier", "%u arrivals at the mbarrier at %#x, where phase %u waits for %u", count, address,
                 barrier.phases, barrier.pending);
    abandon(worker, Outcome::launch_failed);
  }
  barrier.bytes += bytes;
  barrier.pending -= count;
  if (worker.check) worker.checker->clocks().release(me->flat / LANES, barrier.arrived);
  complete_if_over(worker, barrier);
}

void mbarrier_complete(Worker& worker, SharedBarrier& barrier, u32 bytes, u32 clock) {
  barrier.bytes -= bytes;
  u32& engine = barrier.arrived[worker.block.warps];
  engine = std::max(engine, clock);
  complete_if_over(worker, barrier);
}

// A wait that may suspend does, and then says once that the phase is not over: programs have to ask again, as on the hardware.
u32 mbarrier_wait(Thread* me, u32 address, u32 parity, u32 suspends, int site) {
  Worker& worker = *me->block->worker;
  SharedBarrier& barrier = *mbarrier_at(me, address, site);
  auto over = [&] { return (barrier.phases & 1) != (parity & 1); };
  if (over() || (finish_bulk_copies(worker, &barrier) && over())) {
    if (worker.check) worker.checker->clocks().acquire(me->flat / LANES, barrier.completed);
    return 1;
  }
  if (suspends) {
    barrier.sleeping[me->flat / LANES] |= 1u << me->lane;
    make_unready(*me->block, me->flat / LANES, 1u << me->lane);
  }
  run_others(me);
  return 0;
}

}  // namespace emulator
