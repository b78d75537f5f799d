// Accesses per warp: sectors of global memory and passes over the banks of shared memory. Lanes run one after the other, so a
// warp's access is assembled from the lanes' accesses at one site that have the same number since the lanes last met.
#pragma once
#include <vector>

#include "state.h"

namespace emulator {

class AccessLog {
 public:
  void begin_launch(const ModuleTable*, u32 warps, u32 threads);
  void global(const Thread*, u64 address, u32 bytes, int log);
  void shared(const Thread*, u32 address, u32 bytes, int log);
  void count_rows(const u32* rows, int log);
  void flush();
  void warp_converged(u32 warp);
  // Adds to the totals; reports wasteful sites.
  void end_launch(Worker&, Counters* totals);

 private:
  static constexpr u32 SECTOR = 32, BANKS = 32, BANK_BYTES = 4;
  // A window of sectors that starts this far before the first lane's.
  static constexpr u64 WINDOW_BEFORE = 16, WINDOW = 64;

  struct Sectors {
    u64 base;     // of bit 0
    u64 touched;  // one bit per sector
    u64 last_far;
    u32 far;  // sectors outside the window
    u32 bytes;
  };
  struct Banks {
    u32 lanes = 0;
    u32 bytes = 0;
    u16 word[LANES];
  };
  struct Place {
    u32 epoch = 0, next = 0;
  };
  struct Total {
    u64 accesses = 0, actual = 0, ideal = 0;
    bool shared = false;
  };
  // The number of this access among its thread's accesses at the site.
  u32 next_access(const Thread* me, int log) {
    Place& place = places_[(size_t)me->flat * logs_ + (size_t)log];
    u32 epoch = epoch_[me->flat / LANES];
    if (place.epoch != epoch) place = {epoch, 0};
    return place.next++;
  }
  Sectors& new_sectors(u32 warp, int log, u32 number, u64 first);
  Banks& new_banks(u32 warp, int log, u32 number);
  void flush_warp(u32 warp);
  void add(Total&, const Sectors&);
  void add(Total&, const Banks&);

  u32 logs_ = 0, warps_ = 0;
  std::vector<Place> places_;                  // by thread and log
  std::vector<std::vector<Sectors>> sectors_;  // by warp and log
  std::vector<std::vector<Banks>> banks_;      // by warp and log
  std::vector<std::vector<u32>> used_;         // by warp: logs with accesses
  std::vector<u32> epoch_, pending_;           // by warp
  std::vector<Total> totals_;                  // by log
};

inline void AccessLog::global(const Thread* me, u64 address, u32 bytes, int log) {
  if (log < 0) return;
  u32 warp = me->flat / LANES, number = next_access(me, log);
  auto& list = sectors_[(size_t)warp * logs_ + (size_t)log];
  u64 first = address / SECTOR, last = (address + bytes - 1) / SECTOR;
  Sectors& access = number < list.size() ? list[number] : new_sectors(warp, log, number, first);
  access.bytes += bytes;
  for (u64 sector = first; sector <= last; sector++) {
    u64 bit = sector - access.base;
    if (bit < WINDOW) {
      access.touched |= 1ull << bit;
    } else if (sector != access.last_far) {
      access.far++;
      access.last_far = sector;
    }
  }
}

inline void AccessLog::shared(const Thread* me, u32 address, u32 bytes, int log) {
  if (log < 0) return;
  u32 warp = me->flat / LANES, number = next_access(me, log);
  auto& list = banks_[(size_t)warp * logs_ + (size_t)log];
  Banks& access = number < list.size() ? list[number] : new_banks(warp, log, number);
  access.lanes |= 1u << me->lane;
  access.bytes = bytes;
  access.word[me->lane] = (u16)(address / BANK_BYTES);
}

}  // namespace emulator
