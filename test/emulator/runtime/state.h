// The state of a launch: threads, warps, a block, and the worker (an OS thread) that runs one block at a time.
#pragma once
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "../engine.h"
#include "abi.h"

namespace emulator {

constexpr u32 MOST_THREADS = 1024, MOST_WARPS = 32, LANES = 32, BARRIERS = 16;

// Executed by the last lane to arrive, for all lanes of the mask at once.
using WarpOperation = void (*)(void* const* operands, u32 mask, Thread* const* lanes);

struct Warp {
  u32 ready = 0;       // lanes that could run now
  u32 live = 0;        // lanes that have not exited
  u32 started = 0;     // lanes that have a fiber
  u32 at_barrier = 0;  // lanes that wait at a barrier
  u32 waiting = 0;     // lanes that wait for others in a warp instruction
  u32 mask[LANES];     // the mask that each of them waits with
  WarpOperation operation[LANES];
  void* operand[LANES];
  int site[LANES];
  Thread* lanes[LANES];
};

struct Barrier {
  u32 arrived = 0;
  u32 wanted = 0;  // 0: all live threads
  u32 votes = 0;
  u32 result = 0;
  u32 result_threads = 0;
  int site = -1;
  u32 warps = 0;                  // that wait
  u32 sleeping[MOST_WARPS] = {};  // lanes that wait
};

struct Worker;

struct Block {
  Geometry geometry;
  u32 threads = 0, warps = 0;
  u32 live = 0;
  u32 ready_warps = 0;  // those with ready lanes
  Warp warp[MOST_WARPS];
  Barrier barrier[BARRIERS];
  u32 barriers_in_use = 0;  // one bit per barrier
  char* shared = nullptr;
  Worker* worker = nullptr;
};

struct PendingCopy {
  u64 from;
  u32 to;
  u16 bytes, source_bytes;
  int site;
  u32 group;
};
struct CopyQueue {
  std::vector<PendingCopy> copies;
  u32 group = 0;
};

// An mbarrier of the block.
struct SharedBarrier {
  u32 address;
  u32 count, pending;  // arrivals of a phase, and those still to come
  s64 bytes = 0;       // announced and not yet copied
  u32 phases = 0;      // completed
  int site;            // of the last instruction on it
  u32 creator, created;                // thread and clock
  u32 sleeping[MOST_WARPS] = {};       // lanes that wait
  u32 arrived[MOST_WARPS + 1] = {};    // clocks of those that have arrived in this phase
  u32 completed[MOST_WARPS + 1] = {};  // and in all before
};

// An issued cp.async.bulk.tensor.
struct BulkCopy {
  TensorMap map;
  s32 column, row;
  u32 to, barrier;
  int site;
};

// A warp's wgmma that are under way.
struct ProductQueue {
  struct Read {
    u32 group, address;  // 16 bytes of shared memory
    u32 clock;           // the latest when it was issued
    int site;
  };
  std::vector<Read> reads;
  u32 committed = 0, done = 0;  // groups
  u32 open = 0;                 // products since the last commit
  u32 issued = 0;               // products in all
  u32 registers = 0;            // setmaxnreg
  int site = -1;                // of the last
};

struct KernelRecord {
  Kernel kernel;
  const KernelEntry* entry;
  const Module* module;
  std::vector<Parameter> parameters;
};

class Checker;  // check.h

struct Worker {
  Block block;
  const KernelEntry* kernel = nullptr;
  const ModuleTable* module = nullptr;
  const char* parameters = nullptr;
  Order order = Order::ascending;
  u64 random = 1;
  bool check = false;
  f32 upward = 1, downward = 1;
  Accumulation accumulation;
  Outcome outcome = Outcome::done;
  bool abandoned = false;

  void* scheduler_stack = nullptr;  // of the OS thread
  Thread* idle = nullptr;           // fibers without a CUDA thread
  std::vector<Thread*> fibers;
  char* free_stacks = nullptr;
  size_t stacks_left = 0;
  std::vector<u64> counts;  // by basic block
  Extent thread_index[MOST_THREADS];
  u8 priority[MOST_WARPS];
  CopyQueue copies[MOST_THREADS];
  std::deque<SharedBarrier> barriers;
  std::vector<BulkCopy> bulk_copies;
  ProductQueue products[MOST_WARPS];
  std::unique_ptr<Checker> checker;

  Worker();
  ~Worker();
};

struct Module {
  void* library = nullptr;
  std::string path;
  const ModuleTable* table = nullptr;
  std::vector<std::unique_ptr<KernelRecord>> kernels;
  std::vector<Global> globals;
};

extern const Runtime runtime_table;  // runtime.cpp

// ---- fiber.cpp
Thread* new_fiber(Worker&);
// Makes the fiber start from the beginning at its next switch.
void reset_fiber(Thread*);
void switch_fiber(void** save, void* load);
void fiber_main(Thread*);  // schedule.cpp

// ---- schedule.cpp
void run_block(Worker&, Extent index);
// Runs other threads until `me` is ready again.
void run_others(Thread* me);
void make_ready(Block&, u32 warp, u32 lanes);
void make_unready(Block&, u32 warp, u32 lanes);
// Ends the launch.
[[noreturn]] void abandon(Worker&, Outcome);

// ---- barrier.cpp
void thread_left(Block&, Thread*);
void barrier(Thread*, u32 id, u32 threads, int site);
void barrier_arrive(Thread*, u32 id, u32 threads, int site);
u32 barrier_reduce(Thread*, u32 id, u32 threads, int operation, u32 value, int site);

// ---- warp.cpp
void rendezvous(Thread*, u32 mask, WarpOperation, void* operand, int site);
void syncwarp(Thread*, u32 mask, int site);
u32 shuffle(Thread*, int mode, u32 value, u32 lane, u32 clamp, u32 mask, pred* in_range, int site);
u32 vote(Thread*, int mode, u32 value, u32 mask, int site);
u32 match(Thread*, int all, u64 value, u32 mask, pred* same, int site);
u32 redux(Thread*, int operation, u32 value, u32 mask, int site);
u32 activemask(Thread*);

// ---- matrix.cpp
void matrices(Thread*, const MatrixGroup*, u32* words, int site);

// ---- async_copy.cpp
void async_copy(Thread*, u32 to, u64 from, u32 bytes, u32 source_bytes, int site);
void async_commit(Thread*);
void async_wait(Thread*, u32 groups_left);
void forget_copies(Thread*);

// ---- mbarrier.cpp
void mbarrier_init(Thread*, u32 address, u32 count, int site);
void mbarrier_arrive(Thread*, u32 address, u32 count, u32 bytes, int site);
u32 mbarrier_wait(Thread*, u32 address, u32 parity, u32 suspends, int site);
// Copied bytes arrive.
void mbarrier_complete(Worker&, SharedBarrier&, u32 bytes, u32 clock);
// A missing one ends the launch.
SharedBarrier* mbarrier_at(Thread*, u32 address, int site);

// ---- bulk_copy.cpp
void bulk_copy(Thread*, u32 to, u64 map, s32 column, s32 row, u32 barrier, int site);
void proxy_fence(Thread*);
// Carries out copies that count at the barrier (null: at any); false if there are none.
bool finish_bulk_copies(Worker&, const SharedBarrier*);

// ---- warpgroup.cpp
void warpgroup_product(Thread*, const WarpgroupStep*, u64 a, u64 b, u32 add, u32* words);
void warpgroup_sync(Thread*, int site);
void warpgroup_commit(Thread*, int site);
void warpgroup_wait(Thread*, u32 groups_left, int site);
void warpgroup_hazard(Thread*, int kind, int site);
void set_registers(Thread*, u32 count, int site);
// At the end of a block: products nobody waited for, and warps of a warpgroup that did not take part.
void check_warpgroups(Worker&, Thread* witness);

// ---- report.cpp
// A kernel error at an instruction (-1: none in particular), reported once per kind and site in a launch.
void report_fault(Thread*, int site, const char* kind, const char* format, ...) __attribute__((format(printf, 4, 5)));
void begin_reports();
std::string source_line(const Site&);

}  // namespace emulator
