// Accesses by warp: sectors of global memory and passes over the banks of shared memory. Lanes run one after the other,
// so an access of a warp is put together from the lanes' accesses at one site that have the same number since the
// lanes were last together.
#pragma once
#include <vector>

#include "state.h"

namespace emulator {

class AccessLog {
 public:
  void begin_launch(const ModuleTable*, u32 warps, u32 threads);
  void global(Thread*, u64 address, u32 bytes, int log);
  void shared(Thread*, u32 address, u32 bytes, int log);
  void count_rows(const u32* rows, int log);
  void flush();
  void warp_converged(u32 warp);
  // Adds to the totals; reports sites that waste.
  void end_launch(Worker&, Counters* totals);

 private:
  struct Sectors {
    u64 base;     // of bit 0
    u64 touched;  // bit a sector
    u64 last_far;
    u32 far;  // sectors outside of the window
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
  u32 next_access(Thread*, int log);
  void flush_warp(u32 warp);
  void add(Total&, const Sectors&);
  void add(Total&, const Banks&);

  u32 logs_ = 0, warps_ = 0;
  std::vector<Place> places_;                      // by thread and log
  std::vector<std::vector<Sectors>> sectors_;      // by warp and log
  std::vector<std::vector<Banks>> banks_;          // by warp and log
  std::vector<std::vector<u32>> used_;             // by warp: logs with accesses
  std::vector<u32> epoch_, pending_;               // by warp
  std::vector<Total> totals_;                      // by log
};

}  // namespace emulator
