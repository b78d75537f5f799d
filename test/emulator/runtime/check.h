// The checks and measurements of a launch when checks are on: bounds, alignment, unwritten memory, races; bank conflicts and
// sectors. One per worker.
#pragma once
#include "access_log.h"
#include "allocation.h"
#include "race.h"

namespace emulator {

class Checker {
 public:
  explicit Checker(Worker& worker) : worker_(worker), shared_(clocks_) {}
  void begin_launch();
  void end_launch(Counters* totals);
  void begin_block();
  void end_block();
  void barrier_told(u32 id, u32 warp) { clocks_.barrier_told(id, warp); }
  void barrier_passed(u32 id, u32 warps, bool everyone);
  void warp_synchronized(u32 warp) { clocks_.warp_synchronized(warp); }
  // All live lanes of the warp are at the same place.
  void warp_converged(u32 warp) { log_.warp_converged(warp); }

  // Host address of a valid access; otherwise the launch ends.
  char* access(Thread*, int space, u64 address, u32 bytes, int kind, int site);
  // A row of ldmatrix, and the bank conflicts of eight rows.
  const char* access_row(Thread*, u32 address, int site);
  void count_rows(const u32* rows, int site) { log_.count_rows(rows, worker_.module->sites[site].log); }
  // An issued copy: its source and destination are checked now; the destination is out of bounds until it is done.
  void async_issued(Thread*, u32 to, u64 from, u32 bytes, u32 source_bytes, int site);
  void async_done(Thread*, u32 to, u32 bytes, int site);
  // An issued cp.async.bulk.tensor: where it writes, and a row that it reads.
  void bulk_issued(Thread*, u32 to, u32 bytes, int site);
  void bulk_source(Thread*, u64 from, u32 bytes, int site);
  void bulk_done(u32 to, u32 bytes, u32 clock, int site) { shared_.engine_wrote(to, bytes, clock, site); }
  // 16 bytes that a product reads: when it is issued, and once it has been waited for.
  void product_issued(Thread*, u32 address, int site);
  void product_done(Thread* me, u32 address, u32 clock, int site) { shared_.product_done(me, address, clock, site); }
  Clocks& clocks() { return clocks_; }
  // "part+12" for an address in shared memory.
  std::string shared_name(u32 address) const;

 private:
  char* shared_access(Thread*, u32 address, u32 bytes, int kind, int site, int log);
  [[noreturn]] void shared_out_of_bounds(Thread*, u32 address, u32 bytes, int kind, int site);
  char* local_access(Thread*, u64 address, u32 bytes, int kind, int site);
  char* global_access(Thread*, u64 address, u32 bytes, int kind, int site, bool constant);
  AllocationRecord* find_piece(Thread*, u64 address, u32 bytes, int kind, int site);
  void check_global(Thread*, AllocationRecord&, u64 address, u32 bytes, int kind, int site);
  void check_order(Thread*, const GlobalCell*, u64 address, u32 count, int kind, int site);
  void check_written(Thread*, const GlobalCell*, u64 address, u32 count, int site);
  [[noreturn]] void out_of_bounds(Thread*, int site, const char* kind, u32 bytes, u64 address,
                                  const std::string& where);
  const SharedEntry* shared_variable(u32 address, u32 bytes) const;

  Worker& worker_;
  Clocks clocks_;
  SharedRaces shared_;
  AccessLog log_;
  // By site: the allocation of its last access.
  std::vector<AllocationRecord*> last_allocation_;
  const SharedEntry* last_shared_ = nullptr;
  u64 dynamic_start_ = 0, dynamic_end_ = 0;  // of dynamic shared memory
};

// Called by translated code for each access while checks are on.
char* checked_access(Thread*, int space, u64 address, u32 bytes, int kind, int site);

}  // namespace emulator
