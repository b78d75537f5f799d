// bar.sync, bar.arrive, bar.red: sixteen barriers that count arrivals of threads.
#include "check.h"
#include "state.h"

namespace emulator {
namespace {

u32 threads_wanted(const Block& block, const Barrier& barrier) {
  return barrier.wanted ? barrier.wanted : block.live;
}

void release(Block& block, u32 id) {
  Barrier& barrier = block.barrier[id];
  Worker& worker = *block.worker;
  if (worker.check) worker.checker->barrier_passed(id, barrier.warps, !barrier.wanted);
  for (u32 w = 0; w < block.warps; w++) {
    u32 lanes = barrier.sleeping[w];
    if (!lanes) continue;
    barrier.sleeping[w] = 0;
    block.warp[w].at_barrier &= ~lanes;
    make_ready(block, w, lanes);
  }
  barrier.result = barrier.votes;
  barrier.result_threads = barrier.arrived;
  barrier.arrived = barrier.votes = barrier.warps = 0;
}

// True if this was the last expected arrival.
bool arrive(Thread* me, u32 id, u32 threads, int site) {
  Block& block = *me->block;
  Worker& worker = *block.worker;
  if (id >= BARRIERS) {
    report_fault(me, site, "divergent-barrier", "barrier %u: there are 16", id);
    abandon(worker, Outcome::launch_failed);
  }
  Barrier& barrier = block.barrier[id];
  if (worker.check) {
    // With an explicit thread count, warps may arrive from different places.
    if (!threads && barrier.arrived && barrier.site != site)
      report_fault(me, site, "divergent-barrier", "others wait at the barrier of %s",
                   source_line(worker.module->sites[barrier.site]).c_str());
    if (barrier.arrived && barrier.wanted != threads)
      report_fault(me, site, "divergent-barrier", "waits for %u threads, others for %u", threads, barrier.wanted);
    if (threads % LANES)
      report_fault(me, site, "divergent-barrier", "%u threads are no whole number of warps", threads);
    if (!threads && block.live != block.threads)
      report_fault(me, site, "divergent-barrier", "%u of %u threads have exited before it", block.threads - block.live,
                   block.threads);
  }
  block.barriers_in_use |= 1u << id;
  barrier.site = site;
  barrier.wanted = threads;
  return ++barrier.arrived >= threads_wanted(block, barrier);
}

}  // namespace

void barrier(Thread* me, u32 id, u32 threads, int site) {
  Block& block = *me->block;
  u32 warp = me->flat / LANES, bit = 1u << me->lane;
  bool last = arrive(me, id, threads, site);
  block.barrier[id].warps |= 1u << warp;
  if (last) return release(block, id);
  block.barrier[id].sleeping[warp] |= bit;
  me->warp->at_barrier |= bit;
  make_unready(block, warp, bit);
  run_others(me);
}

void barrier_arrive(Thread* me, u32 id, u32 threads, int site) {
  bool last = arrive(me, id, threads, site);
  Worker& worker = *me->block->worker;
  if (worker.check) worker.checker->barrier_told(id, me->flat / LANES);
  if (last) release(*me->block, id);
}

u32 barrier_reduce(Thread* me, u32 id, u32 threads, int operation, u32 value, int site) {
  Barrier& own = me->block->barrier[id % BARRIERS];
  own.votes += value != 0;
  barrier(me, id, threads, site);
  if (operation == BARRIER_POPC) return own.result;
  return operation == BARRIER_AND ? own.result == own.result_threads : own.result != 0;
}

// An exited thread is no longer waited for.
void thread_left(Block& block, Thread* me) {
  u32 bit = 1u << me->lane;
  for (u32 lanes = me->warp->waiting; lanes; lanes &= lanes - 1) {
    u32 lane = (u32)__builtin_ctz(lanes);
    if (!(me->warp->mask[lane] & bit)) continue;
    report_fault(me, me->warp->site[lane], "warp-mask", "lane %u exits while lane %u waits for it", me->lane, lane);
    abandon(*block.worker, Outcome::launch_failed);
  }
  for (u32 bits = block.barriers_in_use; bits; bits &= bits - 1) {
    u32 id = (u32)__builtin_ctz(bits);
    Barrier& barrier = block.barrier[id];
    if (!barrier.arrived || barrier.wanted || !block.live || barrier.arrived < block.live) continue;
    if (block.worker->check) report_fault(me, barrier.site, "divergent-barrier", "exits while others wait at it");
    release(block, id);
  }
}

}  // namespace emulator
