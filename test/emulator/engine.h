// The interface between the emulated driver (driver/) and the PTX engine (ptx/, runtime/). The engine turns PTX into native
// code and runs launches on the CPU; it knows kernels, but not streams or contexts (see README.md for the path from PTX to a
// result). The driver owns the memory and tells the engine where it is.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace emulator {

struct Dim3 {
  uint32_t x, y, z;
};

struct Parameter {
  uint32_t offset, size;  // in the packed block, natural alignment
};

struct Kernel {
  const char* name;
  const Parameter* parameters;
  uint32_t parameter_count, parameter_bytes;
  uint32_t static_shared;    // bytes that the source declares
  uint32_t max_threads;      // .maxntid; 0 if absent
  const void* implementation;  // the engine's own
};

struct Global {
  const char* name;
  void* address;
  uint64_t size;
};

struct Module;  // translated, compiled and loaded PTX

// Compiled modules are cached in the folder named by EMULATOR_CACHE, or else next to this library. Translates and compiles the
// PTX files that are not cached yet, `jobs` at a time; prints failures, and returns their number.
extern "C" int emulator_precompile(const char* const* paths, int count, int jobs);

// Null and a one-line reason if the PTX has something unknown (an opcode is named).
Module* load_module(const char* ptx, size_t length, std::string* reason);
void unload_module(Module*);
const Kernel* find_kernel(const Module*, const char* name);
const Global* find_global(const Module*, const char* name);

enum class Order : uint32_t { ascending, descending, far_ahead, shuffled };

// How tensor cores add up products: one after the other, each sum rounded to nearest, or as described in runtime/truncate.h.
struct Accumulation {
  int products = 0;  // per step: 8 or 16; 0: sums are rounded
  int extra_bits = 0;
};

struct Settings {
  Order order = Order::ascending;
  uint64_t seed = 1;
  bool check = true;     // memory, races, barriers; and counting
  bool perturb = false;  // approximate instructions off by 2^-22
  Accumulation accumulation;
  uint32_t threads = 1;  // threads that run its blocks; only without check, and only for kernels without atomics and fences
};
Settings& settings();

// Faults of a launch. `kind` is a stable word ("race", "out-of-bounds", …), `text` the whole sentence with kernel, block,
// thread and source line.
struct Report {
  std::string kind, kernel, text;
};
std::vector<Report>& reports();
void report(const std::string& kind, const std::string& kernel, const std::string& text);

enum class Outcome { done, illegal_address, misaligned_address, launch_failed /* deadlock, trap, assert, … */ };

// Runs the whole launch. `parameters` is the packed block. Advisory findings (bank conflicts, uncoalesced access) are also
// reports, but leave the outcome `done`.
Outcome launch(const Kernel*, Dim3 grid, Dim3 block, uint32_t dynamic_shared, const char* parameters);

// Memory that kernels may access, registered by the driver. Freed ranges are remembered so that a late access is named.
struct Allocation {
  uint64_t address, size;
};
void add_allocation(uint64_t address, uint64_t size);
void remove_allocation(uint64_t address);
bool find_allocation(uint64_t address, Allocation* found);

// What cuTensorMapEncodeTiled makes of a matrix of 2-byte elements, in the 128 bytes of a CUtensorMap, for tiles with the
// 128-byte swizzle. NVIDIA's encoding is not public; this one is the emulator's own.
struct TensorMap {
  static constexpr uint64_t MAGIC = 0x70616d726f736e65ull;
  uint64_t magic, address;
  uint64_t columns, rows, row_bytes;
  uint32_t box_columns, box_rows;
  uint64_t unused[10];
};
static_assert(sizeof(TensorMap) == 128);

// Records a write by the host or another library. From the first call on, a kernel that reads memory written by neither kernels
// nor the host is reported; such memory is recognised by being all ones, as the driver leaves a new allocation. Call it after
// each copy to the device, copy on the device, memset and product of cuBLAS.
void mark_written(uint64_t address, uint64_t size);

// Counts of a kernel since the counters were cleared, over all its launches.
struct Counters {
  std::string kernel;
  uint64_t launches = 0, threads = 0;
  uint64_t instructions = 0, integer = 0, floating = 0, fused = 0 /* fma */, special = 0 /* ex2, rcp, … */, memory = 0,
           barrier = 0, warp = 0, mma = 0, ldmatrix = 0, async_copy = 0, control = 0;
  uint64_t flops = 0;      // by ordinary instructions, per thread: add and mul 1, fma 2
  uint64_t mma_flops = 0;  // by mma: 2·M·N·K per warp
  uint64_t sectors = 0, ideal_sectors = 0;            // 32-byte sectors of global memory requested, and the minimum possible
  uint64_t shared_accesses = 0, shared_passes = 0;    // warp accesses to shared memory, and their passes with bank conflicts
};
std::vector<Counters> counters();
void clear_counters();

}  // namespace emulator
