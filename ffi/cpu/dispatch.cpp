// The C interface: each kernel under its own name, sent to the instruction path chosen for this process.
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include "ops.h"
#include "threads.h"

#define DECLARE_PATH(name)        \
  namespace path_##name {         \
  extern const Kernels kernels;   \
  }
DECLARE_PATH(portable)
// PORTABLE_ONLY: a library with only the portable path, for a vector width chosen by the tests (simd.h).
#if defined(__x86_64__) && !defined(PORTABLE_ONLY)
DECLARE_PATH(avx2)
DECLARE_PATH(avx512)
#endif
// The build leaves these two out if the compiler does not support their instructions. EMULATED_BF16: a library in which the
// tests' own functions replace them.
#if defined(HAVE_AVX512BF16)
DECLARE_PATH(avx512bf16)
#endif
#if defined(HAVE_AMX)
DECLARE_PATH(amx)
#endif

namespace {

struct Path {
  const char* name;
  const Kernels* kernels;
  bool (*supported)();
  bool (*prepare)() = nullptr;  // before its first use; false: it cannot be used after all
};

#if defined(EMULATED_BF16)
bool has_avx512bf16() { return true; }
bool has_amx() { return true; }
bool permit_tiles() { return true; }
#elif defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
[[maybe_unused]] bool has_avx512bf16() {
  unsigned eax, ebx, ecx, edx;
  return has_avx512() && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && eax >= 1 &&
         __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1u << 5);
}

// The path also rounds operands with an instruction of AVX512-BF16, which every processor with tiles has.
// Tile registers take 8 KiB per thread, so Linux grants them only on request, once for the whole process. The numbers are
// ARCH_GET_XCOMP_SUPP, ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA, which older headers lack.
constexpr int GET_SUPPORTED = 0x1021, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
[[maybe_unused]] bool has_amx() {
#if defined(__linux__)
  unsigned eax, ebx, ecx, edx;
  const unsigned osxsave = 1u << 27, amx = 1u << 22 | 1u << 24, states = 3u << 17;
  if (!has_avx512bf16() || !__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & osxsave)) return false;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & amx) != amx) return false;
  unsigned enabled, upper;
  asm volatile("xgetbv" : "=a"(enabled), "=d"(upper) : "c"(0));
  unsigned long supported = 0;
  return (enabled & states) == states && syscall(SYS_arch_prctl, GET_SUPPORTED, &supported) == 0 &&
         (supported >> TILE_DATA & 1);
#else
  return false;
#endif
}
[[maybe_unused]] bool permit_tiles() {
#if defined(__linux__)
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
  return false;
#endif
}
#endif

// Slowest first.
const Path paths[] = {
    {"portable", &path_portable::kernels, [] { return true; }},
#if defined(__x86_64__) && !defined(PORTABLE_ONLY)
    {"avx2", &path_avx2::kernels,
     [] { return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0; }},
    {"avx512", &path_avx512::kernels, has_avx512},
#endif
#if defined(HAVE_AVX512BF16)
    {"avx512bf16", &path_avx512bf16::kernels, has_avx512bf16},
#endif
#if defined(HAVE_AMX)
    {"amx", &path_amx::kernels, has_amx, permit_tiles},
#endif
};
constexpr int PATHS = sizeof paths / sizeof paths[0];

const Kernels* kernels = paths[0].kernels;

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int32_t path_count(void) { return PATHS; }
const char* path_name(int32_t index) { return index >= 0 && index < PATHS ? paths[index].name : nullptr; }
int32_t path_supported(int32_t index) { return index >= 0 && index < PATHS && paths[index].supported(); }
int32_t path_lanes(int32_t index) { return paths[index].kernels->lanes; }

// Uses path `index` from now on; 0 if this processor cannot run it, or the system refuses.
int32_t path_select(int32_t index) {
  if (!path_supported(index)) return 0;
  if (paths[index].prepare && !paths[index].prepare()) return 0;
  kernels = paths[index].kernels;
  return 1;
}

// Multiply-adds per second on all threads of the path in use, in GFLOP/s, measured over about `milliseconds`: in float32, or
// (`products`) in products with bfloat16 weights.
double peak_gflops(int32_t milliseconds, int32_t products) {
  const auto peak = products ? kernels->product_peak : kernels->fma_peak;
  const int threads = 64;
  double flops[threads];
  timespec from, to;
  int64_t n = 20000;
  for (;;) {
    clock_gettime(CLOCK_MONOTONIC, &from);
    parallel(threads, [&](int64_t i) { flops[i] = peak(n); });
    clock_gettime(CLOCK_MONOTONIC, &to);
    double seconds = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    double total = 0;
    for (double f : flops) total += f;
    if (seconds * 1000 >= milliseconds || n > (int64_t)1 << 40) return total / seconds / 1e9;
    n *= 2;
  }
}

// Memory read per second by all threads, in GB/s: `bytes` at `memory`, once.
double read_bandwidth(const uint64_t* memory, int64_t bytes) {
  const int64_t block = 1 << 18;
  timespec from, to;
  static volatile uint64_t keep;
  clock_gettime(CLOCK_MONOTONIC, &from);
  parallel(bytes / block, [&](int64_t i) {
    const uint64_t* p = memory + i * (block / 8);
    uint64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
    for (int64_t j = 0; j < block / 8; j += 8) {
      a += p[j], b += p[j + 1], c += p[j + 2], d += p[j + 3];
      e += p[j + 4], f += p[j + 5], g += p[j + 6], h += p[j + 7];
    }
    keep = a + b + c + d + e + f + g + h;
  });
  clock_gettime(CLOCK_MONOTONIC, &to);
  double seconds = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
  return (double)(bytes / block * block) / seconds / 1e9;
}

#define DISPATCH(name, parameters, arguments) \
  void name parameters { kernels->name arguments; }
CPU_OPS(DISPATCH)
#undef DISPATCH
#define DISPATCH(name, parameters, arguments) \
  int64_t name parameters { return kernels->name arguments; }
CPU_SIZES(DISPATCH)
#undef DISPATCH

}  // extern "C"
#pragma GCC visibility pop
