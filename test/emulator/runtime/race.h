// Which accesses may have been concurrent. Each warp has a clock, and knows other warps' clocks as of their last common barrier
// (a vector clock). An access came before another if the later warp knows a clock at least as late as the access; lanes of one
// warp are ordered only by __syncwarp.
#pragma once
#include "state.h"

namespace emulator {

class Clocks {
 public:
  void begin_launch();
  void begin_block(u32 warps);
  // bar.arrive: warps that wait at the barrier will know everything the warp has done until now.
  void barrier_told(u32 id, u32 warp);
  // `warps` have waited at it; `everyone`: all live threads of the block.
  void barrier_passed(u32 id, u32 warps, bool everyone);
  void warp_synchronized(u32 warp);
  // What the warp has done until now becomes known to those that later take up `known`.
  void release(u32 warp, u32* known);
  void acquire(u32 warp, const u32* known);
  // The copy engine, as if it were one more warp of the block: its accesses come before those of warps that have waited
  // for them at an mbarrier. Returns the stamp of an access now.
  u32 engine_access() { return ++tick_; }
  u32 engine() const { return warps_; }
  // fence.proxy.async: the thread's writes until now are seen by copy engine and products.
  void proxy_fence(u32 thread) {
    known_[thread / LANES][thread / LANES] = fenced_[thread] = ++tick_;
  }
  bool fenced(u32 thread, u32 clock) const { return fenced_[thread] > clock; }

  // Stamp of an access by the warp now.
  u32 now(u32 warp) const { return known_[warp][warp]; }
  // The latest stamp so far.
  u32 latest() const { return tick_; }
  u32 launch_start() const { return launch_start_; }
  u32 block_start() const { return block_start_; }
  // Accesses with an earlier stamp precede all later ones.
  u32 settled() const { return settled_; }
  // Whether an access of this block by `thread`, stamped `clock`, is ordered before one by `me` now.
  bool before(u32 thread, u32 clock, u32 me) const {
    if (thread == me) return true;
    u32 own = me / LANES, other = thread / LANES;
    return own == other ? clock < known_[own][own] : clock <= known_[own][other];
  }
  // When the warp last passed a barrier.
  u32 last_barrier(u32 warp) const { return last_barrier_[warp]; }

 private:
  u32 tick_ = WARM_UP, launch_start_ = WARM_UP, block_start_ = WARM_UP, settled_ = WARM_UP, warps_ = 0;
  // The last column is the copy engine's.
  u32 known_[MOST_WARPS][MOST_WARPS + 1], last_barrier_[MOST_WARPS];
  u32 told_[BARRIERS][MOST_WARPS + 1] = {};  // by bar.arrive
  u32 fenced_[MOST_THREADS] = {};
  static constexpr u32 WARM_UP = 16;     // above every special stamp
};

// Shared memory of one block: last writer and last readers of each word, of each byte where a word's bytes differ.
class SharedRaces {
 public:
  explicit SharedRaces(const Clocks& clocks) : clocks_(clocks) {}
  void resize(size_t bytes);
  void read(Thread*, u32 address, u32 bytes, int site);
  void write(Thread*, u32 address, u32 bytes, int site, bool atomic);
  // Between issue and wait of a cp.async.
  void set_pending(u32 address, u32 bytes, bool pending);
  // The copy engine has written.
  void engine_wrote(u32 address, u32 bytes, u32 clock, int site);
  // A product's read of 16 bytes when it is issued, and again once it has been waited for; `clock`: the latest at issue.
  void product_issued(Thread*, u32 address, int site);
  void product_done(Thread*, u32 address, u32 clock, int site);

 private:
  struct Cell {
    u32 write_clock, read_clock;
    u16 writer, reader;
    u16 write_site, read_site;
  };
  void check_read(Thread*, const Cell&, u32 address, int site);
  void check_write(Thread*, const Cell&, u32 address, int site, bool atomic);
  bool reads_before(const Cell&, u32 address, u32 me) const;
  void read_cell(Thread*, Cell&, u32 address, int site);
  void write_cell(Thread*, Cell&, u32 address, int site, bool atomic);
  void add_reader(Cell&, u32 address, u32 me);
  void line_read(u32 address, u32 warp, u32 clock) {
    u32& last = line_reads_[(size_t)(address / LINE) * MOST_WARPS + warp];
    if (clock > last) last = clock;
  }
  template <class F>
  void for_cells(u32 address, u32 bytes, F);

  const Clocks& clocks_;
  std::vector<Cell> words_, bytes_;
  std::vector<u8> split_;  // by word: bytes_ hold
  // By 128 bytes and warp: the warp's last read of a word there that several warps have read.
  static constexpr u32 LINE = 128;
  std::vector<u32> line_reads_;
};

}  // namespace emulator
