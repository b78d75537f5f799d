// The state of a launch: threads, warps, a block, and the worker (an OS thread) that runs one block at a time.
#pragma once
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

// ---- report.cpp
// A kernel error at an instruction (-1: none in particular), reported once per kind and site in a launch.
void report_fault(Thread*, int site, const char* kind, const char* format, ...) __attribute__((format(printf, 4, 5)));
void begin_reports();
std::string source_line(const Site&);

}  // namespace emulator
