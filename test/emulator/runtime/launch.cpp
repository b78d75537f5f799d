// A launch: workers, blocks in order, counters.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include "check.h"
#include "state.h"

namespace emulator {
namespace {

// The maximum for a block on any architecture, red zones included.
constexpr size_t SHARED_BYTES = 512 << 10;
// Fewer threads than this are not worth a second OS thread.
constexpr u64 WORTH_THREADS = 4096;

std::map<std::string, Counters> totals;
std::mutex totals_lock;

std::vector<std::unique_ptr<Worker>>& workers() {
  static std::vector<std::unique_ptr<Worker>> all;
  return all;
}

void prepare(Worker& worker, const KernelRecord& record, Dim3 grid, Dim3 block, u32 dynamic_shared,
             const char* parameters) {
  const Settings& chosen = settings();
  worker.kernel = record.entry;
  worker.module = record.module->table;
  worker.parameters = parameters;
  worker.order = chosen.order;
  worker.random = chosen.seed * 2862933555777941757ull + 88172645463325252ull;
  worker.check = chosen.check;
  worker.upward = chosen.perturb ? 1 + 0x1p-22f : 1;
  worker.downward = chosen.perturb ? 1 - 0x1p-22f : 1;
  worker.accumulation = chosen.accumulation;
  worker.outcome = Outcome::done;
  worker.abandoned = false;
  worker.counts.assign(worker.module->block_count + 1, 0);
  Block& b = worker.block;
  b.geometry.grid = {grid.x, grid.y, grid.z};
  b.geometry.block = {block.x, block.y, block.z};
  b.geometry.dynamic_offset = record.entry->dynamic_offset;
  b.geometry.dynamic_size = dynamic_shared;
  b.threads = block.x * block.y * block.z;
  b.warps = (b.threads + LANES - 1) / LANES;
  for (u32 t = 0; t < b.threads; t++)
    worker.thread_index[t] = {t % block.x, t / block.x % block.y, t / block.x / block.y};
  if (worker.check) {
    if (!worker.checker) worker.checker = std::make_unique<Checker>(worker);
    worker.checker->begin_launch();
  }
}

// Blocks in numerical order, or reversed if threads run backwards, which exposes a block that relies on another's result.
Extent block_index(const Worker& worker, u64 number, u64 blocks) {
  if (worker.order == Order::descending) number = blocks - 1 - number;
  const Extent& grid = worker.block.geometry.grid;
  return {(u32)(number % grid.x), (u32)(number / grid.x % grid.y), (u32)(number / grid.x / grid.y)};
}

void add_counts(Counters* sum, const Worker& worker) {
  u64 by_kind[COUNTED] = {};
  const ModuleTable& module = *worker.module;
  for (u32 b = 0; b < module.block_count; b++) {
    if (!worker.counts[b]) continue;
    for (int kind = 0; kind < COUNTED; kind++) by_kind[kind] += worker.counts[b] * module.blocks[b].by_kind[kind];
  }
  for (int kind = 0; kind < COUNT_FLOPS; kind++) sum->instructions += by_kind[kind];
  sum->integer += by_kind[COUNT_INTEGER];
  sum->floating += by_kind[COUNT_FLOATING];
  sum->fused += by_kind[COUNT_FUSED];
  sum->special += by_kind[COUNT_SPECIAL];
  sum->memory += by_kind[COUNT_MEMORY];
  sum->barrier += by_kind[COUNT_BARRIER];
  sum->warp += by_kind[COUNT_WARP];
  sum->mma += by_kind[COUNT_MMA];
  sum->ldmatrix += by_kind[COUNT_LDMATRIX];
  sum->async_copy += by_kind[COUNT_ASYNC];
  sum->control += by_kind[COUNT_CONTROL];
  sum->flops += by_kind[COUNT_FLOPS];
  sum->mma_flops += by_kind[COUNT_MMA_FLOPS] * 32;
}

}  // namespace

Worker::Worker() {
  block.worker = this;
  block.shared = (char*)aligned_alloc(1024, SHARED_BYTES);
}

Worker::~Worker() {
  free(block.shared);
}

Outcome launch(const Kernel* kernel, Dim3 grid, Dim3 block, uint32_t dynamic_shared, const char* parameters) {
  const KernelRecord& record = *(const KernelRecord*)kernel->implementation;
  u64 blocks = (u64)grid.x * grid.y * grid.z, threads = (u64)block.x * block.y * block.z;
  if (!blocks || !threads || threads > MOST_THREADS ||
      record.entry->dynamic_offset + (u64)dynamic_shared > SHARED_BYTES) {
    report("launch", kernel->name,
           std::string("kernel ") + kernel->name +
               ": a launch without threads, or of too many, or with too much shared memory");
    return Outcome::launch_failed;
  }
  begin_reports();
  u64 wanted =
      settings().check || record.entry->has_fence || record.entry->has_global_atomic || blocks * threads < WORTH_THREADS
          ? 1
          : settings().threads;
  u64 count = std::max<u64>(1, std::min(wanted, blocks));
  auto& all = workers();
  while (all.size() < count) all.push_back(std::make_unique<Worker>());
  for (u64 w = 0; w < count; w++) prepare(*all[w], record, grid, block, dynamic_shared, parameters);

  std::atomic<u64> next{0};
  std::atomic<bool> failed{false};
  auto work = [&](Worker& worker) {
    for (u64 number; !failed && (number = next.fetch_add(1)) < blocks;) {
      run_block(worker, block_index(worker, number, blocks));
      if (worker.abandoned) failed = true;
    }
  };
  std::vector<std::thread> others;
  for (u64 w = 1; w < count; w++) others.emplace_back([&, w] { work(*all[w]); });
  work(*all[0]);
  for (std::thread& other : others) other.join();

  std::lock_guard guard(totals_lock);
  Counters& sum = totals[kernel->name];
  sum.kernel = kernel->name;
  sum.launches++;
  sum.threads += blocks * threads;
  Outcome outcome = Outcome::done;
  for (u64 w = 0; w < count; w++) {
    add_counts(&sum, *all[w]);
    if (all[w]->check) all[w]->checker->end_launch(&sum);
    if (all[w]->outcome != Outcome::done) outcome = all[w]->outcome;
  }
  return outcome;
}

std::vector<Counters> counters() {
  std::lock_guard guard(totals_lock);
  std::vector<Counters> list;
  for (const auto& [name, sum] : totals) list.push_back(sum);
  return list;
}

void clear_counters() {
  std::lock_guard guard(totals_lock);
  totals.clear();
}

}  // namespace emulator
