// Warp instructions: lanes wait until all lanes of the mask have arrived; the last one executes it for all.
#include <algorithm>

#include "check.h"
#include "state.h"

namespace emulator {
namespace {

template <class F>
void for_lanes(u32 mask, F body) {
  for (; mask; mask &= mask - 1) body((u32)__builtin_ctz(mask));
}

// All lanes of the mask wait with the same mask and in the same instruction.
bool agree(Thread* me, u32 mask, WarpOperation operation, int site) {
  Warp& warp = *me->warp;
  Worker& worker = *me->block->worker;
  bool same = true;
  for_lanes(mask, [&](u32 lane) { same &= warp.mask[lane] == mask; });
  if (!same) return false;
  for_lanes(mask, [&](u32 lane) {
    if (warp.operation[lane] != operation) {
      report_fault(me, site, "divergent-warp", "lane %u meets it in another instruction, at %s", lane,
                   source_line(worker.module->sites[warp.site[lane]]).c_str());
      abandon(worker, Outcome::launch_failed);
    }
    if (worker.check && warp.site[lane] != site)
      report_fault(me, site, "divergent-warp", "lane %u meets it at %s", lane,
                   source_line(worker.module->sites[warp.site[lane]]).c_str());
  });
  return true;
}

}  // namespace

void rendezvous(Thread* me, u32 mask, WarpOperation operation, void* operand, int site) {
  Warp& warp = *me->warp;
  Block& block = *me->block;
  u32 bit = 1u << me->lane, w = me->flat / LANES;
  if (__builtin_expect(!(mask & bit), 0)) {
    report_fault(me, site, "warp-mask", "lane %u uses the mask %08x, which leaves it out", me->lane, mask);
    abandon(*block.worker, Outcome::launch_failed);
  }
  if (__builtin_expect(mask & ~warp.live, 0)) {
    // A mask may name lanes that the last warp of a block doesn't have.
    u32 rest = block.threads - w * LANES, existing = rest >= LANES ? ~0u : (1u << rest) - 1;
    if (mask & existing & ~warp.live)
      report_fault(me, site, "warp-mask", "the mask %08x names lanes that have exited; %08x are left", mask, warp.live);
    mask &= warp.live;
  }
  warp.waiting |= bit;
  warp.mask[me->lane] = mask;
  warp.operation[me->lane] = operation;
  warp.operand[me->lane] = operand;
  warp.site[me->lane] = site;
  if ((warp.waiting & mask) == mask && agree(me, mask, operation, site)) {
    operation(warp.operand, mask, warp.lanes);
    warp.waiting &= ~mask;
    make_ready(block, w, mask);
    if (block.worker->check && mask == warp.live) block.worker->checker->warp_converged(w);
    return;
  }
  make_unready(block, w, bit);
  run_others(me);
}

void syncwarp(Thread* me, u32 mask, int site) {
  rendezvous(
      me, mask,
      [](void* const*, u32 lanes, Thread* const* threads) {
        Thread* one = threads[__builtin_ctz(lanes)];
        Worker& worker = *one->block->worker;
        if (worker.check && lanes == one->warp->live) worker.checker->warp_synchronized(one->flat / LANES);
      },
      nullptr, site);
}

namespace {

struct Shuffle {
  u32 value, lane, clamp;
  int mode, site;
  u32 result;
  pred in_range;
};

// The PTX manual's pseudocode. A lane outside the mask gives an undefined value: here NaN, plus a report.
void shuffle_lanes(void* const* operands, u32 mask, Thread* const* lanes) {
  for_lanes(mask, [&](u32 lane) {
    auto& own = *(Shuffle*)operands[lane];
    u32 segment = own.clamp >> 8 & 31, clamp = own.clamp & 31, by = own.lane & 31;
    int most = (int)((lane & segment) | (clamp & ~segment)), least = (int)(lane & segment), from = 0;
    switch (own.mode) {
      case SHUFFLE_UP:
        from = (int)lane - (int)by;
        own.in_range = from >= most;
        break;
      case SHUFFLE_DOWN:
        from = (int)(lane + by);
        own.in_range = from <= most;
        break;
      case SHUFFLE_XOR:
        from = (int)(lane ^ by);
        own.in_range = from <= most;
        break;
      default: from = least | (int)(by & ~segment); own.in_range = from <= most;
    }
    if (!own.in_range) from = (int)lane;
    bool there = mask >> from & 1;
    own.result = there ? ((Shuffle*)operands[from])->value : ~0u;
    if (!there && lanes[lane]->check)
      report_fault(lanes[lane], own.site, "warp-mask", "lane %u reads lane %d, which is outside of the mask %08x", lane,
                   from, mask);
  });
}

struct Ballot {
  u64 value;
  int mode;
  u32 result;
  pred same;
};

void vote_lanes(void* const* operands, u32 mask, Thread* const*) {
  u32 ballot = 0;
  for_lanes(mask, [&](u32 lane) { ballot |= (u32)(((Ballot*)operands[lane])->value != 0) << lane; });
  for_lanes(mask, [&](u32 lane) {
    auto& own = *(Ballot*)operands[lane];
    own.result = own.mode == VOTE_BALLOT ? ballot
                 : own.mode == VOTE_ANY  ? ballot != 0
                 : own.mode == VOTE_ALL  ? ballot == mask
                                         : ballot == 0 || ballot == mask;
  });
}

void match_lanes(void* const* operands, u32 mask, Thread* const*) {
  for_lanes(mask, [&](u32 lane) {
    auto& own = *(Ballot*)operands[lane];
    u32 equal = 0;
    for_lanes(mask, [&](u32 other) { equal |= (u32)(((Ballot*)operands[other])->value == own.value) << other; });
    own.same = equal == mask;
    own.result = own.mode /* all */ ? (own.same ? mask : 0) : equal;
  });
}

u32 reduce(int operation, u32 a, u32 b) {
  switch (operation) {
    case REDUCE_ADD: return a + b;
    case REDUCE_AND: return a & b;
    case REDUCE_OR: return a | b;
    case REDUCE_XOR: return a ^ b;
    case REDUCE_MIN_U: return std::min(a, b);
    case REDUCE_MAX_U: return std::max(a, b);
    case REDUCE_MIN_S: return (u32)std::min((s32)a, (s32)b);
    default: return (u32)std::max((s32)a, (s32)b);
  }
}

void redux_lanes(void* const* operands, u32 mask, Thread* const*) {
  u32 first = (u32)__builtin_ctz(mask);
  u32 total = (u32)((Ballot*)operands[first])->value;
  for_lanes(mask & (mask - 1), [&](u32 lane) {
    total = reduce(((Ballot*)operands[lane])->mode, total, (u32)((Ballot*)operands[lane])->value);
  });
  for_lanes(mask, [&](u32 lane) { ((Ballot*)operands[lane])->result = total; });
}

}  // namespace

u32 shuffle(Thread* me, int mode, u32 value, u32 lane, u32 clamp, u32 mask, pred* in_range, int site) {
  Shuffle own{value, lane, clamp, mode, site, 0, 0};
  rendezvous(me, mask, shuffle_lanes, &own, site);
  if (in_range) *in_range = own.in_range;
  return own.result;
}

u32 vote(Thread* me, int mode, u32 value, u32 mask, int site) {
  Ballot own{value, mode, 0, 0};
  rendezvous(me, mask, vote_lanes, &own, site);
  return own.result;
}

u32 match(Thread* me, int all, u64 value, u32 mask, pred* same, int site) {
  Ballot own{value, all, 0, 0};
  rendezvous(me, mask, match_lanes, &own, site);
  *same = own.same;
  return own.result;
}

u32 redux(Thread* me, int operation, u32 value, u32 mask, int site) {
  Ballot own{value, operation, 0, 0};
  rendezvous(me, mask, redux_lanes, &own, site);
  return own.result;
}

// Lanes run one after the other here, and some may have finished: the answer is as if no lane ever diverged.
u32 activemask(Thread* me) {
  u32 rest = me->block->threads - me->flat / LANES * LANES;
  return rest >= LANES ? ~0u : (1u << rest) - 1;
}

}  // namespace emulator
