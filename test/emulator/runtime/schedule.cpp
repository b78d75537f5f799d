// Chooses the next thread of a block to run. A thread runs until it waits for others; a fiber whose thread has exited takes the
// next one, so that a kernel without barriers needs a single fiber.
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "check.h"
#include "state.h"

namespace emulator {
namespace {

u32 random_number(Worker& worker) {
  u64 x = worker.random;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  worker.random = x;
  return (u32)(x >> 32);
}

u32 nth_bit(u32 bits, u32 n) {
  while (n--) bits &= bits - 1;
  return (u32)__builtin_ctz(bits);
}

u32 above(u32 bit) {
  return ~((2u << bit) - 1);
}
u32 below(u32 bit) {
  return (1u << bit) - 1;
}
u32 lowest(u32 bits) {
  return (u32)__builtin_ctz(bits);
}
u32 highest(u32 bits) {
  return 31 - (u32)__builtin_clz(bits);
}

// The next ready thread after `lane` of `warp`; false if there is none.
bool pick(Worker& worker, u32* warp, u32* lane) {
  Block& block = worker.block;
  u32 ready = block.ready_warps;
  if (!ready) return false;
  switch (worker.order) {
    case Order::ascending: {
      u32 lanes = block.warp[*warp].ready;
      if (lanes) {
        *lane = lowest(lanes & above(*lane) ? lanes & above(*lane) : lanes);
        return true;
      }
      *warp = lowest(ready & above(*warp) ? ready & above(*warp) : ready);
      *lane = lowest(block.warp[*warp].ready);
      return true;
    }
    case Order::descending: {
      u32 lanes = block.warp[*warp].ready;
      if (lanes) {
        *lane = highest(lanes & below(*lane) ? lanes & below(*lane) : lanes);
        return true;
      }
      *warp = highest(ready & below(*warp) ? ready & below(*warp) : ready);
      *lane = highest(block.warp[*warp].ready);
      return true;
    }
    case Order::far_ahead: {
      u32 rank = 0;
      while (!(ready >> worker.priority[rank] & 1)) rank++;
      *warp = worker.priority[rank];
      u32 lanes = block.warp[*warp].ready;
      *lane = lowest(lanes & above(*lane) ? lanes & above(*lane) : lanes);
      return true;
    }
    case Order::shuffled: {
      *warp = nth_bit(ready, random_number(worker) % (u32)__builtin_popcount(ready));
      u32 lanes = block.warp[*warp].ready;
      *lane = nth_bit(lanes, random_number(worker) % (u32)__builtin_popcount(lanes));
      return true;
    }
  }
  return false;
}

// Copies of the copy engine are carried out as late as possible: when threads can only go on with them.
bool pick_or_copy(Worker& worker, u32* warp, u32* lane) {
  return pick(worker, warp, lane) || (finish_bulk_copies(worker, nullptr) && pick(worker, warp, lane));
}

void bind(Worker& worker, Thread* thread, u32 warp, u32 lane) {
  thread->warp = &worker.block.warp[warp];
  thread->lane = lane;
  thread->flat = warp * LANES + lane;
  thread->index = worker.thread_index[thread->flat];
  thread->shared = worker.block.shared;
  thread->counts = worker.counts.data();
  thread->frame = nullptr;
  thread->check = worker.check;
  thread->upward = worker.upward;
  thread->downward = worker.downward;
  thread->warp->lanes[lane] = thread;
  thread->warp->started |= 1u << lane;
}

Thread* fiber_for(Worker& worker) {
  Thread* thread = worker.idle;
  if (!thread) return new_fiber(worker);
  worker.idle = thread->next;
  return thread;
}

__attribute__((noinline, cold)) void report_deadlock(Worker& worker, Thread* witness) {
  Block& block = worker.block;
  std::string states;
  for (u32 w = 0; w < block.warps; w++) {
    const Warp& warp = block.warp[w];
    if (!warp.live) continue;
    char text[300];
    snprintf(text, sizeof text, "; warp %u: ", w);
    states += text;
    for (const Barrier& barrier : block.barrier) {
      if (!barrier.sleeping[w]) continue;
      snprintf(text, sizeof text, "lanes %08x wait at the barrier of %s ", barrier.sleeping[w],
               source_line(worker.module->sites[barrier.site]).c_str());
      states += text;
    }
    for (const SharedBarrier& barrier : worker.barriers) {
      if (!barrier.sleeping[w]) continue;
      snprintf(text, sizeof text, "lanes %08x wait at %s for the mbarrier at %#x, phase %u, %u arrivals and %lld bytes short ",
               barrier.sleeping[w], source_line(worker.module->sites[barrier.site]).c_str(), barrier.address,
               barrier.phases, barrier.pending, barrier.bytes);
      states += text;
    }
    if (!warp.waiting) continue;
    u32 lane = lowest(warp.waiting);
    snprintf(text, sizeof text, "lanes %08x wait in a warp instruction of %s for lanes %08x", warp.waiting,
             source_line(worker.module->sites[warp.site[lane]]).c_str(), warp.mask[lane]);
    states += text;
  }
  report_fault(witness, -1, "deadlock", "no thread can go on%s", states.c_str());
}

}  // namespace

void make_ready(Block& block, u32 warp, u32 lanes) {
  block.warp[warp].ready |= lanes;
  if (lanes) block.ready_warps |= 1u << warp;
}

void make_unready(Block& block, u32 warp, u32 lanes) {
  if (!(block.warp[warp].ready &= ~lanes)) block.ready_warps &= ~(1u << warp);
}

void abandon(Worker& worker, Outcome outcome) {
  worker.abandoned = true;
  worker.outcome = outcome;
  void* nowhere;
  switch_fiber(&nowhere, worker.scheduler_stack);
  abort();
}

void run_others(Thread* me) {
  Worker& worker = *me->block->worker;
  u32 warp = me->flat / LANES, lane = me->lane;
  if (__builtin_expect(!pick_or_copy(worker, &warp, &lane), 0)) {
    report_deadlock(worker, me);
    abandon(worker, Outcome::launch_failed);
  }
  Thread* next;
  Warp& chosen = worker.block.warp[warp];
  if (__builtin_expect(chosen.started >> lane & 1, 1)) {
    next = chosen.lanes[lane];
  } else {
    next = fiber_for(worker);
    bind(worker, next, warp, lane);
  }
  if (next != me) switch_fiber(&me->stack_pointer, next->stack_pointer);
}

void fiber_main(Thread* me) {
  Block& block = *me->block;
  Worker& worker = *block.worker;
  for (;;) {
    worker.kernel->run(me, worker.parameters);
    forget_copies(me);
    u32 warp = me->flat / LANES, lane = me->lane;
    me->warp->live &= ~(1u << lane);
    make_unready(block, warp, 1u << lane);
    block.live--;
    thread_left(block, me);
    if (!block.live) {
      if (worker.check) check_warpgroups(worker, me);
      me->next = worker.idle;
      worker.idle = me;
      switch_fiber(&me->stack_pointer, worker.scheduler_stack);
      continue;
    }
    if (!pick_or_copy(worker, &warp, &lane)) {
      report_deadlock(worker, me);
      abandon(worker, Outcome::launch_failed);
    }
    if (!(block.warp[warp].started >> lane & 1)) {
      bind(worker, me, warp, lane);
      continue;
    }
    me->next = worker.idle;
    worker.idle = me;
    switch_fiber(&me->stack_pointer, block.warp[warp].lanes[lane]->stack_pointer);
  }
}

void run_block(Worker& worker, Extent index) {
  Block& block = worker.block;
  block.geometry.index = index;
  block.live = block.threads;
  for (u32 bits = block.barriers_in_use; bits; bits &= bits - 1) block.barrier[lowest(bits)] = Barrier();
  block.barriers_in_use = 0;
  block.ready_warps = 0;
  worker.barriers.clear();
  worker.bulk_copies.clear();
  for (u32 w = 0; w < block.warps; w++) {
    worker.products[w] = ProductQueue();
    Warp& warp = block.warp[w];
    u32 rest = block.threads - w * LANES;
    warp.live = rest >= LANES ? ~0u : (1u << rest) - 1;
    warp.ready = warp.started = warp.at_barrier = warp.waiting = 0;
    make_ready(block, w, warp.live);
    worker.priority[w] = (u8)w;
  }
  if (worker.order == Order::far_ahead)
    for (u32 w = block.warps; w-- > 1;) std::swap(worker.priority[w], worker.priority[random_number(worker) % (w + 1)]);
  // Unwritten shared memory reads as NaN, in every block alike.
  memset(block.shared, 0xff, worker.block.geometry.dynamic_offset + worker.block.geometry.dynamic_size);
  if (worker.check) worker.checker->begin_block();
  u32 warp = worker.order == Order::descending ? block.warps - 1 : 0, lane = LANES - 1;
  if (worker.order == Order::descending) lane = 0;
  pick(worker, &warp, &lane);
  Thread* first = fiber_for(worker);
  bind(worker, first, warp, lane);
  switch_fiber(&worker.scheduler_stack, first->stack_pointer);
  if (worker.abandoned) {
    // Stacks end wherever they were left, so all of them restart.
    worker.idle = nullptr;
    for (Thread* fiber : worker.fibers) {
      reset_fiber(fiber);
      fiber->next = worker.idle;
      worker.idle = fiber;
    }
    for (u32 t = 0; t < block.threads; t++) {
      worker.copies[t].copies.clear();
      worker.copies[t].group = 0;
    }
  }
  if (worker.check) worker.checker->end_block();
}

}  // namespace emulator
